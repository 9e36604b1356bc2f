"""Running work through the cache.

`run_stage` is the one function that runs one stage for one set of rows: the cache, forks, packs and every engine call it, and what
they give has the bytes of a pipeline's own loop over its nodes. `Walk` decides what has to run: a piece runs only where the cache
has neither it nor anything that follows from it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch

from wanlab.core import Edit
from wanlab.core.rows import by_row, cut, join, placed

from .apart import cell_by_cell
from .cache import StageCache
from .memory import Outputs
from .piece import Piece
from .work import Pack, Work

Steps = Callable[[int, int], None]
Progress = Callable[[str, str, int, int], None]


class Request(Protocol):
    """What a stage is run for, row by row."""

    def __len__(self) -> int: ...

    def cut(self, rows: slice) -> Any:
        """The request of some rows."""

    def join(self, others: Sequence[Any]) -> Any:
        """These rows and those of others."""


class StageGraph(Protocol):
    """What a pipeline offers to the cache and the engines."""

    @property
    def device(self) -> torch.device:
        """Where its stages run."""

    def run_node(self, name: str, inputs: Mapping[str, Outputs], request: Any, edits: Sequence[Any] = (), *,
                 progress: Steps | None = None, before: Outputs | None = None, until: int | None = None) -> Outputs:
        """Run one stage, or some steps of it, for the rows of `request`; CPU tensors by name, rows first."""


def run_stage(graph: StageGraph, name: str, inputs: Mapping[str, Outputs], request: Request, edits: Sequence[Edit], *,
              before: Outputs | None = None, until: int | None = None, cells: int = 1, fits: dict[str, int] | None = None,
              progress: Steps | None = None) -> Outputs:
    """The outputs of one stage for the rows of `request`: those of `cells` cells, one after the other, equally many of each.

    On a CPU the rows of each cell have the bytes that they have where it runs by itself (`apart`).

    A device without memory for so many rows gets half as many, again and again; `fits` keeps, by stage, what went through at
    last. Edits that do not act on each row by itself cannot be parted; they, and one row that does not fit, raise torch's
    OutOfMemoryError.
    """
    fits = {} if fits is None else fits
    rows, at, done = len(request), 0, []
    while at < rows:
        size = min(fits.get(name, rows), rows - at)
        try:
            with cell_by_cell(graph.device, cells if size == rows else 1, rows):
                done.append(_some_rows(slice(at, at + size), graph, name, inputs, request, edits, before, until, progress))
            at += size
            continue
        except torch.OutOfMemoryError:
            if size == 1 or not all(by_row(edit) for edit in edits):
                raise
        fits[name] = (size + 1) // 2
        torch.cuda.empty_cache()
    return join(done)


def _some_rows(rows: slice, graph: StageGraph, name: str, inputs: Mapping[str, Outputs], request: Request, edits: Sequence[Edit],
               before: Outputs | None, until: int | None, progress: Steps | None) -> Outputs:
    if rows == slice(0, len(request)):
        return graph.run_node(name, inputs, request, edits=edits, progress=progress, before=before, until=until)
    size = rows.stop - rows.start
    mine = [placed(edit, range(rows.start, rows.stop), len(request), 0, size) for edit in edits]
    return graph.run_node(name, {node: cut(outputs, rows) for node, outputs in inputs.items()}, request.cut(rows),
                          edits=[edit for edit in mine if edit is not None], progress=progress,
                          before=None if before is None else cut(before, rows), until=until)


class PackError(RuntimeError):
    """Stages that were to run as rows of one batch, and did not; each cell can still run by itself."""


class Walk:
    """The results of the cells of one piece of work, each computed when asked for.

    cells       those that will be asked for; what none of the others needs any more is not kept in memory
    setting     cell -> its pipeline and request
    progress    is told cell, stage, steps done and steps, before a stage runs and after each step
    """

    def __init__(self, work: Work, cells: Sequence[str], setting: Callable[[str], tuple[StageGraph, Request]], cache: StageCache,
                 progress: Progress = lambda cell, stage, done, total: None, fits: dict[str, int] | None = None) -> None:
        self.work, self.cache, self.fits = work, cache, {} if fits is None else fits
        self._setting, self._progress = setting, progress
        self._left: Counter[str] = work.needed(cells)
        self._last = frozenset(work.results.values())
        self._held: dict[str, Outputs] = {}         # what the cell in hand has used: it outlives a cache that is too small
        self._failed: dict[Pack, Exception] = {}

    def result(self, cell: str) -> Outputs:
        """The outputs of a cell's last stage. Raises PackError where it was to run together with others and did not."""
        try:
            return self._get(self.work.results[cell], cell)
        finally:
            self._held.clear()

    def close(self) -> None:
        """Drop from memory what no other batch can use."""
        for key, piece in self.work.pieces.items():
            if piece.local:
                self.cache.memory.drop(key)

    def _get(self, key: str, cell: str) -> Outputs:
        if key not in self._held:
            found = self.cache.get(key)
            if found is None:
                self._run(key, cell)
            else:
                self.cache.tally.hits[self.work.pieces[key].node] += 1
                self._held[key] = found
        self._left[key] -= 1
        if self._left[key] <= 0 and self.work.pieces[key].local:
            self.cache.memory.drop(key)
        return self._held[key]

    def _run(self, asked: str, cell: str) -> None:
        """Run the piece `asked`, and those that are rows of the same batch; keep what comes of each."""
        pack = self.work.packs[asked]
        pieces = [self.work.pieces[key] for key in pack]
        outputs = self._together(pieces, cell) if len(pack) > 1 else [self._alone(pieces[0], cell)]
        for piece, found in zip(pieces, outputs, strict=True):
            others = self._left[piece.key] - (piece.key == asked)
            again = others > 0 or not piece.local
            self.cache.put(piece.key, found, again, last=piece.key in self._last)
        self._held |= zip(pack, outputs, strict=True)

    def _alone(self, piece: Piece, cell: str) -> Outputs:
        graph, request = self._setting(piece.cell)
        return self._timed(piece, 1, partial(run_stage, graph, piece.node, self._inputs(piece, cell), request, piece.edits,
                                             before=self._before(piece, cell), **self._told(piece, cell)))

    def _together(self, pieces: Sequence[Piece], cell: str) -> list[Outputs]:
        pack = self.work.packs[pieces[0].key]
        if pack not in self._failed:
            try:
                return self._as_rows(pieces, cell)
            except Exception as error:      # whatever it is, each cell may meet it alone, and the others need not
                self._failed[pack] = error
        error = self._failed[pack]
        raise PackError(f"{pieces[0].node} of {', '.join(piece.cell for piece in pieces)} as one batch: {error}") from error

    def _as_rows(self, pieces: Sequence[Piece], cell: str) -> list[Outputs]:
        graph, first = self._setting(pieces[0].cell)
        requests = [self._setting(piece.cell)[1] for piece in pieces]
        n, total = len(first), len(first) * len(pieces)
        edits = [placed(edit, range(n), n, place * n, total) for place, piece in enumerate(pieces) for edit in piece.edits]
        inputs = [self._inputs(piece, cell) for piece in pieces]
        joined = {node: join([given[node] for given in inputs]) for node in inputs[0]}
        befores = [before for piece in pieces if (before := self._before(piece, cell)) is not None]
        outputs = self._timed(pieces[0], len(pieces), partial(
            run_stage, graph, pieces[0].node, joined, first.join(requests[1:]), [edit for edit in edits if edit is not None],
            before=join(befores) if befores else None, cells=len(pieces), **self._told(pieces[0], cell)))
        parts = [cut(outputs, slice(place * n, (place + 1) * n)) for place in range(len(pieces))]
        return [{name: value.clone() for name, value in part.items()} for part in parts]    # a view would hold all rows

    def _inputs(self, piece: Piece, cell: str) -> dict[str, Outputs]:
        return {node: self._get(key, cell) for node, key in piece.inputs.items()}

    def _before(self, piece: Piece, cell: str) -> Outputs | None:
        return None if piece.before is None else self._get(piece.before, cell)

    def _told(self, piece: Piece, cell: str) -> dict[str, Any]:
        self._progress(cell, piece.node, 0, 0)
        return {"until": piece.until, "fits": self.fits, "progress": partial(self._progress, cell, piece.node)}

    def _timed(self, piece: Piece, cells: int, run: Callable[[], Outputs]) -> Outputs:
        start = time.perf_counter()
        outputs = run()
        tally = self.cache.tally
        tally.seconds[piece.node] += time.perf_counter() - start
        tally.runs[piece.node] += 1
        tally.steps[piece.node] += piece.stop - piece.start
        tally.rows[piece.node] += piece.part * cells * len(self._setting(piece.cell)[1])
        return outputs
