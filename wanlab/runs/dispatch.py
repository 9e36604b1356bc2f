"""Which worker takes which cells next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby

from .plan import Group


@dataclass
class _Cut:
    """What is left of a group that was begun; open: its first piece is done."""

    rest: deque[Group] = field(default_factory=deque)
    open: bool = False


class Dispatch:
    """Groups for `workers` workers, counted from 0.

    A batch goes to one worker as a whole, because what its groups have in common (what was read, the encoded texts) lies in
    that worker's memory; one that finds no batch left takes a group from the end of another's. `groups` is drawn only when a
    worker needs a batch.

    size: for workers that share a cache, the cells of a piece. Groups are then handed out in pieces, the first one alone:
    when it is done, the steps that most cells of the group share are in the cache, and whoever is free helps with the rest.
    None: a group is never cut, because its parts would compute those steps twice.
    """

    def __init__(self, groups: Iterable[Group], workers: int, size: int | None = None):
        self._batches = groupby(groups, key=lambda group: group.chunk)
        self._fresh: list[deque[Group]] = [deque() for _ in range(workers)]
        self._hands: list[_Cut] = [_Cut() for _ in range(workers)]
        self._cuts: list[_Cut] = []
        self._size = size

    def next(self, worker: int) -> Group | None:
        """The next piece for a worker; None where there is nothing for it now."""
        if not self._hands[worker].rest:
            group = self._group(worker)
            if group is not None:
                self._begin(worker, group)
            else:
                self._cuts = [cut for cut in self._cuts if cut.rest]
                opened = [cut for cut in self._cuts if cut.open]
                if not opened:
                    return None
                self._hands[worker] = max(opened, key=lambda cut: len(cut.rest))
        return self._hands[worker].rest.popleft()

    def done(self, worker: int) -> None:
        """A worker has delivered its piece."""
        self._hands[worker].open = True

    def give_back(self, worker: int, cells: Group) -> None:
        """What a worker had not begun of its piece when it died."""
        if cells.cells:
            self._hands[worker].rest.appendleft(cells)

    def _group(self, worker: int) -> Group | None:
        """A group that nobody has begun."""
        own = self._fresh[worker]
        if not own:
            _, batch = next(self._batches, (None, ()))
            own.extend(batch)
        if own:
            return own.popleft()
        most = max(self._fresh, key=len)
        return most.pop() if most else None

    def _begin(self, worker: int, group: Group) -> None:
        size = self._size or len(group.cells)
        first = size if self._size is None else 1
        starts = [0, *range(first, len(group.cells), size)]
        pieces = [Group(group.chunk, group.cells[a:b]) for a, b in zip(starts, [*starts[1:], None])]
        self._hands[worker] = _Cut(deque(pieces))
        self._cuts.append(self._hands[worker])
