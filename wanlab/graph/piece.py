"""Pieces: the smallest units of work of a cell on one batch, each under a content key; a node, or some steps of its loop.

A key says what decides the bytes and nothing about how they are computed: a loop that runs in several pieces ends under the same
key as one that runs whole. What does not depend on the rows (`Recipe`) is worked out once for all batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .keys import digest
from .timetable import Timetable


class Node(Protocol):
    """One stage of a graph: its name, the nodes it reads, what it reads of a request, the hash of its weights."""

    name: str
    inputs: tuple[str, ...]
    reads: tuple[str, ...]
    weights_hash: str


@dataclass(frozen=True)
class Recipe:
    """What a cell asks of one node, whatever the rows.

    base        digest of node, weights, context and the edits that decide its run from the beginning
    course      a digest for each denoising step, where the loop can pause; else empty
    steps       how many denoising steps its run has; 0 where it has none
    cuts        steps before which the loop pauses, because another cell goes another way from there
    alike       digest of what pieces of several cells have in common if they can be rows of one batch; None: by itself
    draws       whether an edit of it may read the seeds of the samples
    """

    node: Node
    base: str
    timetable: Timetable
    course: tuple[str, ...]
    steps: int = 0
    alike: str | None = None
    cuts: tuple[int, ...] = ()
    draws: bool = False

    @classmethod
    def of(cls, node: Node, timetable: Timetable, context: Any, settings: Mapping[str, Any], rowwise: bool) -> Recipe:
        """The recipe for a node. context: what else the bytes depend on (device class, code); settings: the fields of the request
        that all rows of a batch share; rowwise: whether its edits act on each row by itself."""
        own = {"node": node.name, "weights": node.weights_hash, "context": context}
        base = digest({**own, "edits": [edit.hash for edit in timetable.always]})
        shared = {name: settings[name] for name in node.reads if name in settings}
        return cls(node, base, timetable, timetable.course, shared.get("steps", 0),
                   digest({**own, "settings": shared}) if rowwise else None,
                   draws=any(edit.reads_seeds for edit in timetable.edits))


@dataclass(frozen=True)
class Piece:
    """One run of a node for one cell and batch: `inputs` by node name and `before`, the state it goes on from, are keys of others;
    `start` to `stop` its steps (of a node that has such), `until` the step before which it pauses (None: to the end), `part` how
    much of the node's work it is; `cell` is the first that needs it, `begin` a digest of all that decides it before any step;
    `local`: it depends on the seeds, so it is of use within one batch alone."""

    key: str
    cell: str
    node: str
    inputs: Mapping[str, str]
    edits: tuple[Any, ...]
    begin: str = ""
    before: str | None = None
    start: int = 0
    stop: int = 0
    until: int | None = None
    part: float = 1.0
    local: bool = False
    alike: str | None = field(default=None, repr=False)

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys of all that it reads."""
        return (*self.inputs.values(), *(() if self.before is None else (self.before,)))


def pieces_of(cell: str, recipes: Sequence[Recipe], rows: Mapping[str, Any]) -> list[Piece]:
    """The pieces of a cell on one batch, each after what it needs. `rows`: the request by field, as data or digests."""
    ends: dict[str, Piece] = {}
    found: list[Piece] = []
    for recipe in recipes:
        node, steps = recipe.node, recipe.steps
        inputs = {name: ends[name].key for name in node.inputs}
        seeded = "seeds" in node.reads or any(ends[name].local for name in node.inputs)    # without its edits
        reads = (*node.reads, "seeds") if recipe.draws and not seeded else node.reads
        begin = digest([recipe.base, {name: rows[name] for name in reads}, inputs])
        before: str | None = None
        for start, stop in zip((0, *recipe.cuts), (*recipe.cuts, steps), strict=True):
            key = digest([begin, recipe.course[:stop], "end" if stop == steps else "state"])
            found.append(Piece(key, cell, node.name, inputs, recipe.timetable.within(start, stop), begin, before, start, stop,
                               None if stop == steps else stop, (stop - start) / steps if steps else 1.0,
                               seeded or recipe.draws, None if recipe.alike is None else digest([recipe.alike, start, stop])))
            before = key
        ends[node.name] = found[-1]
    return found
