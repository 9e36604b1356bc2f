"""Cells of a question: runs described as data, executed with all that they share computed once, or by a plain loop.

    cells = [Cell("mid", (Zero("generator.mid.out", steps=step),), {"step": str(step)}) for step in range(8)]
    table = run(pipe, pipe.request(image, prompt, 0), cells, {"light": lambda seen: seen.video.mean((1, 2, 3, 4))})

`study_cells` writes the same cells as a study file has them, so that `wanlab run` makes them cached, resumable and in parallel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wanlab.core import GIB, Capture, Edit, Record
from wanlab.core.nearest import suggestion
from wanlab.graph import (
    PackError,
    Recipe,
    StageCache,
    Walk,
    Work,
    digest,
    edits_by_node,
    forked,
    pieces_of,
    recipes_of,
    side_by_side,
)

if TYPE_CHECKING:
    from pandas import DataFrame

Outputs = Mapping[str, Tensor]

BASE = "base"       # the name of the cell that others are compared with


class MetricError(ValueError):
    """A metric that gives no number for each sample, or none that a gradient can be taken of."""


@dataclass(frozen=True)
class Cell:
    """One run: edits, in order, and where it stands in the table, as a study's cell has it."""

    name: str
    edits: tuple[Edit, ...] = ()
    axes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What a metric is given of one cell: the `outputs` of the node that is read, and the `record` of what was captured."""

    outputs: Outputs
    request: Any
    record: Record | None = None

    @property
    def video(self) -> Tensor:
        """b f c h w; in [0, 1] where the last node is read."""
        return self.outputs["video"]


Metric = Callable[[Seen], Any]


def run(pipe: Any, request: Any, cells: Sequence[Cell], metrics: Mapping[str, Metric], *, read: str | None = None,
        share: bool = True, pack: int = 1, capture: Sequence[Capture | str] = (), memory: int = GIB,
        progress: Callable[[str], None] = lambda cell: None) -> DataFrame:
    """The metrics of every cell: a DataFrame with the cells' axes, then cell, row, metric, value.

    metrics    name -> function of `Seen`, one number for each row
    read       the node whose outputs the metrics read, by default the last; what follows it is not run
    share      nodes and denoising steps that cells have in common run once (the bytes are those of a plain loop); False: a loop
    pack       so many cells run as rows of one batch (rounding differs)
    capture    what metrics want in `seen.record`: of whole runs, so that nothing is shared
    memory     bytes of intermediate results that are kept

    All edits are checked before anything runs. Raises MetricError for a metric that gives NaN, infinity or no number for each row,
    ValueError for two cells of one name.
    """
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        raise ValueError(f"two cells have one name: {', '.join(sorted({name for name in names if names.count(name) > 1}))}")
    pipe.check(list({id(edit): edit for cell in cells for edit in cell.edits}.values()), request)
    read = _node(pipe, read)
    runs = (_looped(pipe, request, cells, read, capture) if capture or not share
            else _shared(pipe, request, cells, read, pack, memory))
    rows: dict[str, list[dict[str, Any]]] = {}
    for cell, seen in runs:
        progress(cell.name)
        rows[cell.name] = [{**cell.axes, "cell": cell.name, "row": row, "metric": name, "value": value}
                           for name, metric in metrics.items() for row, value in enumerate(values(name, metric, seen, cell.name))]
    return _table([row for name in names for row in rows[name]])


def values(name: str, metric: Metric, seen: Seen, where: str) -> list[float]:
    """A metric's number for each row. Raises MetricError where it has none."""
    given = torch.as_tensor(metric(seen)).detach().double().cpu()
    numbers = (given[None] if given.ndim == 0 else given).tolist()
    if given.ndim > 1 or len(numbers) != len(seen.request):
        raise MetricError(f"{name} gives {tuple(given.shape)} for {len(seen.request)} samples ({where}): one number for each")
    for row, value in enumerate(numbers):
        if not math.isfinite(value):
            raise MetricError(f"{name} is {value} for row {row} ({where}): give a metric that is a number for every video")
    return numbers


def _node(pipe: Any, read: str | None) -> str:
    names = [node.name for node in pipe.nodes]
    if read is not None and read not in names:
        raise LookupError(f"no node {read!r}{suggestion(read, names)}; there are {', '.join(names)}")
    return read or names[-1]


def _looped(pipe: Any, request: Any, cells: Sequence[Cell], read: str, capture: Sequence[Capture | str]
            ) -> Iterator[tuple[Cell, Seen]]:
    """Each cell by itself, as `generate` runs it."""
    for cell in cells:
        out = generate(pipe, request, edits=cell.edits, capture=capture)
        yield cell, Seen({"video": out.video} if read == pipe.nodes[-1].name else out.nodes[read], request, out.record)


def generate(pipe: Any, request: Any, **kwargs: Any) -> Any:
    """`pipe.generate` for a request."""
    return pipe.generate(request.images, request.prompts, request.seeds, last_image=request.last, steps=request.steps,
                         guidance=request.guidance, guidance_2=request.guidance_2, negative=request.negative, **kwargs)


def _shared(pipe: Any, request: Any, cells: Sequence[Cell], read: str, pack: int, memory: int) -> Iterator[tuple[Cell, Seen]]:
    """The cells in an order in which what they share is kept for the shortest time."""
    settings = {"steps": request.steps, "guidance": request.guidance, "guidance_2": request.guidance_2,
                "negative": request.negative is None}
    rows = {"images": digest(request.images), "last": digest(request.last), "prompts": digest(request.prompts),
            "seeds": digest(request.seeds), **settings, "negative": digest(request.negative)}
    recipes: dict[str, Sequence[Recipe]] = {
        cell.name: _until(read, recipes_of(pipe, edits_by_node(pipe, cell.edits), request, settings, "")) for cell in cells}
    pieces = {name: pieces_of(name, mine, rows) for name, mine in forked(recipes, dict.fromkeys(recipes, rows)).items()}
    order, by_name = side_by_side(pieces), {cell.name: cell for cell in cells}
    cache = StageCache(memory)
    walk = Walk(Work.of({name: pieces[name] for name in order}, pack), order, lambda _: (pipe, request), cache)
    alone = Walk(Work.of(pieces), order, lambda _: (pipe, request), cache) if pack > 1 else walk
    for name in order:
        try:
            outputs = walk.result(name)
        except PackError:
            outputs = alone.result(name)
        yield by_name[name], Seen(outputs, request)


def _until(read: str, recipes: Sequence[Recipe]) -> list[Recipe]:
    """The recipes of a node and of all that it follows from."""
    needed = {read}
    for recipe in reversed(recipes):
        needed |= set(recipe.node.inputs) if recipe.node.name in needed else set()
    return [recipe for recipe in recipes if recipe.node.name in needed]


def _table(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    import pandas

    return pandas.DataFrame(rows)


def beside(table: DataFrame, **known: DataFrame) -> DataFrame:
    """The table with a column for each of some runs (tables of one cell): its value of the same metric and row."""
    for name, one in known.items():
        table = table.join(one.set_index(["metric", "row"])["value"].rename(name), on=["metric", "row"])
    return table


def study_cells(cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
    """The cells as the `cells:` of a study file. Records that edits take values from must have been saved."""
    return {cell.name: {"edits": [edit.to_dict() for edit in cell.edits], "axes": dict(cell.axes)} for cell in cells}
