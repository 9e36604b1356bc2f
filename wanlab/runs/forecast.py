"""What a study will cost before it runs: stage runs after sharing, minutes, GiB, disk.

Seconds per sample and stage come from what the run folder has measured already, else from what the study file states
(`seconds:`); where neither knows, the forecast says so instead of guessing.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wanlab.graph import GIB
from wanlab.pipelines.inputs import sides

from .cell import Workbench
from .logs import finished, spent
from .progress import clock
from .shared import StageRuns
from .spec import Image, Study
from .store import CellFolder, RunFolder
from .trainings import seconds_of, trainings_of

VIDEO_BYTES = 25_000  # a clip of 8 frames at 128 pixels, as written for the report
ROW_BYTES = 12  # one number of samples.parquet
FEATURE_BYTES = 4_000  # features of one sample for the set metrics


SMALL = "--set data.n=8"  # what makes a study of many samples a quick one


@dataclass(frozen=True)
class Forecast:
    """The figures of a plan. Seconds are NaN-free: a stage without known seconds stands in `unknown`. `trainings` that are left:
    their name, for how many cells, seconds. small: the settings under which a first run is a quick one."""

    study: str
    cells: int
    done: int
    samples: int
    runs: StageRuns
    left: StageRuns
    each: Mapping[str, float]
    metric_rows: int
    memory: int
    disk: int
    objects: int
    notes: Sequence[str] = ()
    trainings: Sequence[tuple[str, int, float | None]] = ()
    small: str = SMALL

    @property
    def unknown(self) -> list[str]:
        """Stages (and "metrics") whose seconds per sample nobody has measured or stated."""
        stages = [name for name in [*self.runs.alone, "metrics"] if name not in self.each]
        return stages + [name for name, _, seconds in self.trainings if seconds is None]

    @property
    def seconds(self) -> float:
        """Seconds of what is left, as far as they are known."""
        stages = sum(rows * self.each.get(name, 0.0) for name, rows in self.left.rows.items())
        training = sum(seconds or 0.0 for _, _, seconds in self.trainings)
        return training + stages + self.metric_rows * self.each.get("metrics", 0.0)

    def show(self, console: Console) -> None:
        """Print the forecast."""
        for note in self.notes:
            console.print(f"[yellow]note[/]  {escape(note)}", highlight=False, soft_wrap=True)
        table = Table(
            title=f"{self.study}: {self.cells} cells ({self.done} done), {self.samples} samples each", title_justify="left"
        )
        for head in ("stage", "alone", "shared", "left to run", "s / sample", "time"):
            table.add_column(head, justify="left" if head == "stage" else "right")
        for name, cells, seconds in self.trainings:
            table.add_row(name, str(cells), "1", "1", "", "?" if seconds is None else clock(seconds))
        for name, alone in self.runs.alone.items():
            rows = self.left.rows.get(name, 0)
            each = self.each.get(name)
            table.add_row(
                name,
                str(alone),
                str(self.runs.shared[name]),
                str(self.left.shared.get(name, 0)),
                "?" if each is None else f"{each:.3f}",
                "?" if each is None else clock(rows * each),
            )
        each = self.each.get("metrics")
        table.add_row(
            "metrics",
            "",
            "",
            "",
            "?" if each is None else f"{each:.3f}",
            "?" if each is None else clock(self.metric_rows * each),
            style="dim",
        )
        console.print(table)
        total = "unknown" if len(self.unknown) > len(self.runs.alone) else clock(self.seconds)
        console.print(
            f"{self.runs} ({sum(self.left.shared.values())} left); time {total}"
            + (f" without {', '.join(self.unknown)}" if self.unknown and total != "unknown" else "")
            + f"; memory about {self.memory / GIB:.1f} GiB"
            + (f" (with --engine ray at most {self.objects / GIB:.1f} GiB more, which workers share)" if self.objects else "")
            + f"; disk about {self.disk / 1e6:.0f} MB",
            highlight=False,
        )
        if self.unknown:
            console.print(
                f"[dim]Seconds come from the run folder or from `seconds:` in the study; run it with {escape(self.small)} "
                "--out FOLDER once and give plan the same --out to have them measured.[/]"
            )


def forecast(bench: Workbench, folder: RunFolder) -> Forecast:
    """The forecast of an open workbench; work that `folder` holds is not counted as left."""
    plan, study = bench.plan, bench.study
    cells = {name: folder.cell(cell.key) for name, cell in plan.cells.items()}
    done = {name for name, cell in cells.items() if cell.done}

    def made(cell: str, chunk: int) -> bool:
        return cell in done or cells[cell].has(chunk)

    rows = sum(len(chunk.indices) for chunk in plan.chunks)
    metric_rows = sum(len(chunk.indices) for chunk in plan.chunks for name in cells if not made(name, chunk.number))
    shape = bench.plan.cells[study.baseline].pipe.config
    clip = 4 * 3 * shape["frames"] * math.prod(sides(shape["size"]))
    # intermediate videos of a batch are smaller than the last; the metrics hold a few copies of it
    memory = min(int(study.cache.memory_gib * GIB), 3 * clip * study.rows * len(cells)) + 12 * clip * study.rows + GIB
    disk = folder_bytes(study, bench.source.n, len(bench.measures))
    if study.cache.disk is not None:
        disk += int(study.cache.disk_gib * 1e9)
    jobs = trainings_of(study, plan)
    left = seconds_of(study, jobs)
    return Forecast(
        study.name,
        len(cells),
        len(done),
        rows,
        plan.stage_runs(),
        plan.stage_runs(made),
        {**study.seconds, **measured(cells_of(folder))},
        metric_rows,
        memory,
        disk,
        study.objects,
        bench.notes,
        [(f"train.{job.part}", len(cells), left[key]) for key, (job, cells) in jobs.items() if key in left],
        _small(study, bench.source.n),
    )


def _small(study: Study, samples: int) -> str:
    """The settings that make a study small enough to be measured: fewer samples, of a photograph fewer prompts."""
    if isinstance(study.data, Image):
        return "--set " + shlex.quote(f"data.prompts={json.dumps(study.data.prompts[:1])}")
    return f"--set data.n={min(8, samples)}"


def expected(study: Study, folder: RunFolder, left: StageRuns, metric_rows: int) -> float | None:
    """Seconds that stage runs and the metrics of so many rows will take; None where a stage's are not known."""
    each = {**study.seconds, **measured(cells_of(folder))}
    rows = {name: count for name, count in [*left.rows.items(), ("metrics", metric_rows)] if count}
    return None if rows.keys() - each.keys() else sum(count * each[name] for name, count in rows.items())


def folder_bytes(study: Study, samples: int, metrics: int) -> int:
    """About how many bytes a run folder takes: clips to look at, rows of numbers, features of the set metrics."""
    rows = samples * len(study.seeds)
    return len(study.cells) * (min(study.report.videos, samples) * 2 * VIDEO_BYTES + rows * (metrics * ROW_BYTES + FEATURE_BYTES))


def cells_of(folder: RunFolder) -> list[CellFolder]:
    """All cell folders of a run folder, finished or not."""
    return [CellFolder(path) for path in sorted((folder.root / "cells").glob("*/"))]


def measured(cells: Sequence[CellFolder]) -> dict[str, float]:
    """Seconds per sample and stage (and of the metrics) from the logs of cells."""
    _, rows, seconds = spent(line for cell in cells for line in finished(cell.attempts()))
    return {name: seconds[name] / rows[name] for name in seconds if rows[name]}
