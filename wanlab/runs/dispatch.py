"""Which worker takes which group next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import groupby

from .plan import Group


class Dispatch:
    """Groups for `workers` workers, counted from 0.

    A batch goes to one worker as a whole, because what its groups have in common (what was read, the encoded texts) lies in
    that worker's memory; one that finds no batch left helps with the end of another's. Within a group cells share far more,
    so a group is never cut. `groups` is drawn only when a worker needs a batch.
    """

    def __init__(self, groups: Iterable[Group], workers: int):
        self._batches = groupby(groups, key=lambda group: group.chunk)
        self._own: list[deque[Group]] = [deque() for _ in range(workers)]

    def next(self, worker: int) -> Group | None:
        """The next group for a worker; None where nothing is left."""
        own = self._own[worker]
        if not own:
            _, batch = next(self._batches, (None, ()))
            own.extend(batch)
        if own:
            return own.popleft()
        most = max(self._own, key=len)
        return most.pop() if most else None
