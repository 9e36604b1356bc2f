"""What a finished study of patches says, as `wanlab.analysis.patching` has it: effects as shares of the way to another run.

    grid = patching.grid(contrast, places, save="clean.safetensors")    # cells.study_cells(grid.cells): the cells of a study file
    found = patches.patched("runs/patches", "runs/clean")               # of the second folder its baseline: the other run
    found.table; found.effects; found.summary("motion_accuracy"); found.figure()
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wanlab.analysis.cells import BASE
from wanlab.analysis.patching import Patched, effects

from .files import RunFolderError
from .store import RunFolder

if TYPE_CHECKING:
    from pandas import DataFrame


def table(root: Path | str) -> DataFrame:
    """The samples of a run folder's finished cells as `analysis.cells.run` gives them: the cells' axes, cell, row, metric, value.

    Rows are numbered by seed and sample, metrics are called as in samples.parquet; NaN: a metric does not apply to a sample. Set
    distances are of no sample, so they are not here. Raises RunFolderError where no cell is finished, or cells differ in samples.
    """
    import pandas

    folder = RunFolder(Path(root))
    cells, parts = folder.study().cells, []
    samples: list[tuple[int, int]] = []
    for name, cell in folder.cells().items():
        part = pandas.DataFrame(cell.samples())
        rows = sorted(dict.fromkeys(zip(part.seed, part["index"], strict=True)))
        if samples and rows != samples:
            raise RunFolderError(f"{root}: the cell {name} is of other samples than those before it")
        samples = rows
        part["row"] = [samples.index(one) for one in zip(part.seed, part["index"], strict=True)]
        parts.append(part.assign(cell=name, **cells[name].axes)[[*cells[name].axes, "cell", "row", "metric", "value"]])
    if not parts:
        raise RunFolderError(f"{root} has no finished cell: nothing to read")
    return pandas.concat(parts, ignore_index=True)


def patched(root: Path | str, other: Path | str | DataFrame) -> Patched:
    """The effects of a study whose cells are those of `patching.grid` (its baseline: "base").

    other: the run that values were taken from: a run folder, of which the baseline is read, or a table of `analysis.cells.run`.
    Raises RunFolderError for another baseline, and where the other run lacks a metric or a sample.
    """
    baseline = RunFolder(Path(root)).study().baseline
    if baseline != BASE:
        raise RunFolderError(f"{root}: the baseline of a study of patches is the cell {BASE!r} that patching.grid lays out, not "
                             f"{baseline!r}")
    mine = table(root)
    if isinstance(other, Path | str):
        theirs = table(other)
        other = theirs[theirs.cell == RunFolder(Path(other)).study().baseline]
    known = set(zip(other.metric, other.row, strict=True))
    for metric, row in dict.fromkeys(zip(mine.metric, mine.row, strict=True)):
        if (metric, row) not in known:
            raise RunFolderError(f"the other run has no {metric} of row {row}: it needs the metrics and samples of {root}")
    return effects(mine, other)
