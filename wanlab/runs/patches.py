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
from .spec import Procedural
from .store import RunFolder

if TYPE_CHECKING:
    from pandas import DataFrame

SAMPLE = ["seed", "index", "unit"]


def table(root: Path | str) -> DataFrame:
    """The samples of a run folder's finished cells as `analysis.cells.run` gives them: the cells' axes, cell, row, metric, value.

    Rows are numbered by seed and sample, metrics are called as in samples.parquet; NaN: a metric does not apply to a sample. Set
    distances are of no sample, so they are not here. Raises RunFolderError where no cell is finished, or cells differ in samples.
    """
    return _read(root).drop(columns=SAMPLE)


def patched(root: Path | str, other: Path | str | DataFrame) -> Patched:
    """The effects of a study whose cells are those of `patching.grid` (its baseline: "base").

    other: the run that values were taken from: a run folder, of which the baseline is read and each sample compared with the one of
    its seed and number; or a table of `analysis.cells.run`, with a row for each sample, in their order. Raises RunFolderError for
    another baseline, and where the other run lacks a metric or a sample, or has another picture under the number of a sample.
    """
    baseline = RunFolder(Path(root)).study().baseline
    if baseline != BASE:
        raise RunFolderError(f"{root}: the baseline of a study of patches is the cell {BASE!r} that patching.grid lays out, not "
                             f"{baseline!r}")
    mine = _read(root)
    if isinstance(other, Path | str):
        other = _matched(mine, root, other)
    known = set(zip(other.metric, other.row, strict=True))
    for metric, row in dict.fromkeys(zip(mine.metric, mine.row, strict=True)):
        if (metric, row) not in known:
            raise RunFolderError(f"the other run has no {metric} of row {row}: it needs the metrics and samples of {root}")
    return effects(mine.drop(columns=SAMPLE), other)


def _read(root: Path | str) -> DataFrame:
    """The table with the columns of `SAMPLE` beside each row."""
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
        parts.append(part.assign(cell=name, **cells[name].axes)[[*cells[name].axes, "cell", "row", "metric", "value", *SAMPLE]])
    if not parts:
        raise RunFolderError(f"{root} has no finished cell: nothing to read")
    return pandas.concat(parts, ignore_index=True)


def _matched(mine: DataFrame, root: Path | str, other: Path | str) -> DataFrame:
    """The baseline of the other folder, its rows numbered as those of the same seed and sample are in `mine`."""
    folders = RunFolder(Path(root)), RunFolder(Path(other))
    ours, theirs = (folder.study() for folder in folders)
    worlds = [one.data.model_dump(exclude={"n"}) for one in (ours, theirs) if isinstance(one.data, Procedural)]
    if len(worlds) == 2 and worlds[0] != worlds[1]:
        told = ", ".join(f"{key} {value} and {worlds[1][key]}" for key, value in worlds[0].items() if worlds[1][key] != value)
        raise RunFolderError(f"{root} and {other} are of other clips: data have {told}")
    there = _read(other)
    there = there[there.cell == theirs.baseline]
    units = {(seed, index): unit for seed, index, unit in zip(there.seed, there["index"], there.unit, strict=True)}
    rows: dict[tuple[int, int], int] = {}
    for seed, index, unit, row in mine[[*SAMPLE, "row"]].drop_duplicates().itertuples(index=False):
        if (seed, index) not in units:
            raise RunFolderError(f"{other} has no sample {index} under seed {seed}; it needs those of {root}")
        if units[seed, index] != unit:
            raise RunFolderError(f"sample {index} is {unit} in {root} and {units[seed, index]} in {other}: a patch is compared "
                                 "with the other run of the same sample; pictures that differ on purpose take one name")
        rows[seed, index] = row
    there = there.assign(row=[rows.get(one, -1) for one in zip(there.seed, there["index"], strict=True)])
    return there[there.row >= 0].drop(columns=SAMPLE)
