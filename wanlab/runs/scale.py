"""What a study would take on many workers: a schedule over its stage graph, from measured or stated seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .cell import open_workbench
from .document import Document, StudyError
from .environment import pick_device, threads
from .fitting import recorded
from .forecast import folder_bytes, forecast
from .outline import METRICS, load_outline, workload
from .plan import Plan
from .progress import clock
from .reading import load_study
from .schedule import Job, Schedule, simulate
from .spec import Study
from .store import RunFolder


@dataclass(frozen=True)
class Scale:
    """A study on many workers. rows: (stage, runs without sharing, runs with it, seconds of those); `alone`: seconds without
    sharing; steps: denoising steps without and with it; says: where the seconds come from; sized: whether the GiB that stage runs
    write are known."""

    study: str
    cells: int
    samples: int
    device: str
    says: str
    rows: Sequence[tuple[str, int, int, float]]
    alone: float
    steps: tuple[int, int]
    disk: int
    schedule: Schedule
    sized: bool = True

    def figures(self) -> dict[str, str]:
        """The figures of the schedule as text, by name; of the cache only where sizes are known."""
        schedule = self.schedule
        cache = {
            "read from the cache": f"{schedule.read:,.0f} GiB",
            "written to the cache": f"{schedule.written:,.0f} GiB",
            "least that the cache must hold": f"{schedule.peak:,.1f} GiB",
        }
        return {
            "wall time": clock(schedule.wall),
            "device hours": f"{schedule.hours:,.1f}",
            "device hours without sharing": f"{self.alone / 3600:,.1f}",
            "efficiency": f"{100 * schedule.efficiency:.1f} %",
            "no schedule is shorter than": clock(schedule.bound),
            **(cache if self.sized else {}),
            "run folder": f"{self.disk / 1e9:,.1f} GB",
            "longest chain": " > ".join(f"{stage} {clock(seconds)}" for stage, _, seconds in schedule.path),
        }

    def show(self, console: Console) -> None:
        """Print the schedule."""
        table = Table(title=f"{self.study}: {self.cells:,} cells, {self.samples} samples each", title_justify="left")
        for head in ("stage", "alone", "shared", "time on one"):
            table.add_column(head, justify="left" if head == "stage" else "right")
        for stage, alone, shared, seconds in self.rows:
            table.add_row(stage, f"{alone:,}", f"{shared:,}", clock(seconds))
        console.print(table)
        console.print(f"denoising steps: would have been {self.steps[0]:,}, is {self.steps[1]:,}", highlight=False)
        table = Table(title=f"{self.schedule.workers} workers, {self.device}", title_justify="left", show_header=False)
        for name, value in self.figures().items():
            table.add_row(name, escape(value))
        console.print(table)
        console.print(f"[dim]{escape(self.says)}[/]", soft_wrap=True)


def plan_study(
    file: Path, out: Path | None, sets: Sequence[str], device: str, workers: int | None, console: Console
) -> None:
    """`wanlab plan`: what a study would run, and, with `workers`, on how many and how long. Nothing is generated or written.

    Raises what `run` would raise before it runs, and StudyError for figures that nobody has stated.
    """
    study, document = load_study(file, sets)
    if study.outline is not None:
        scale_of_outline(study, document, workers or 1, None if device == "auto" else device).show(console)
        return
    folder = RunFolder(out or Path("runs") / study.name)
    study = recorded(study, folder)
    with threads(folder.threads):
        bench = open_workbench(study, document, pick_device(device))
        found = forecast(bench, folder)
        found.show(console)
        if workers is not None:
            scale_of_plan(study, bench.plan, found.each, workers, device).show(console)


def scale_of_outline(study: Study, document: Document, workers: int, device: str | None) -> Scale:
    """The schedule of a study whose pipeline is only stated (`outline:`). Nothing is loaded.

    Raises StudyError for a broken outline, a device that it does not state, and what the study names and it does not have.
    """
    assert study.outline is not None
    outline = load_outline(study.find(study.outline))
    stated = outline.device(device)
    samples = samples_of(study, document)
    work = workload(study, document, outline, stated, samples)
    schedule = simulate(work.all_jobs(), workers, stated.cache_gib_per_second, stated.start)
    return Scale(
        study.name,
        len(study.cells),
        samples * len(study.seeds),
        device or next(iter(outline.devices)),
        f"stated, not measured ({study.outline}): {outline.says}",
        _rows(work.alone, work.shared, work.jobs, work.batches),
        work.alone_seconds,
        (work.steps_alone, work.steps_shared),
        folder_bytes(study, samples, len(study.metrics)),
        schedule,
    )


def samples_of(study: Study, document: Document) -> int:
    """How many samples a study has, without looking at its data. Raises StudyError where only the data could tell."""
    if study.data.kind == "image":
        return len(study.data.prompts)
    if study.data.n is None:
        raise document.error([document.problem(("data",), "a plan from an outline reads no data: say n")])
    return study.data.n


def scale_of_plan(study: Study, plan: Plan, each: Mapping[str, float], workers: int, device: str) -> Scale:
    """The schedule of a planned study from seconds per sample and stage; sizes are not known, so the cache costs nothing.

    Raises StudyError where the seconds of a stage are neither measured nor stated.
    """
    stages = dict.fromkeys(node.name for cell in plan.cells.values() for node in cell.nodes)
    if lacking := [name for name in (*stages, METRICS) if name not in each]:
        raise StudyError([], f"a schedule needs the seconds of {', '.join(lacking)}: state them (seconds:), or run a part once")
    jobs = _jobs_of(plan, each)
    runs = plan.stage_runs()
    counts = {**runs.alone, METRICS: len(plan.cells) * len(plan.chunks)}
    shared = Counter(job.stage for job in jobs)
    rows = sum(len(chunk.indices) for chunk in plan.chunks)
    alone = rows * sum(each[name] for cell in plan.cells.values() for name in [*(node.name for node in cell.nodes), METRICS])
    says = "seconds measured by the run folder, else stated by the study; the common cache is taken to cost nothing"
    table = _rows(counts, shared, jobs, 1)
    steps = (sum(runs.steps_alone.values()), sum(runs.steps.values()))
    disk = folder_bytes(study, rows // len(study.seeds), len(study.metrics))
    return Scale(study.name, len(plan.cells), rows, device, says, table, alone, steps, disk, simulate(jobs, workers), sized=False)


def _jobs_of(plan: Plan, each: Mapping[str, float]) -> list[Job]:
    """The stage runs of a plan, and judging each cell, in the plan's order; against the baseline's clip, where that is the
    reference, which stands before all others."""
    baseline = plan.study.baseline if plan.reference == "baseline" else None
    jobs: list[Job] = []
    place: dict[str, int] = {}
    alone = not plan.study.share.cache
    for chunk in plan.chunks:
        rows, work, against = len(chunk.indices), plan.work(chunk.number, plan.cells), tuple[int, ...]()
        for names in [[name] for name in plan.order] if alone else [plan.order]:
            judged = Counter(work.results[name] for name in names)
            if alone:
                place.clear()
            for pack, pieces in work.runs(names):
                if pack[0] not in place:
                    needs = dict.fromkeys(place[key] for piece in pieces for key in piece.needs)
                    seconds = sum(each[piece.node] * piece.part * rows for piece in pieces)
                    place |= dict.fromkeys(pack, len(jobs))
                    jobs.append(Job(pieces[0].node, seconds, needs=tuple(needs)))
                made = place[pack[0]]
                if baseline is not None and work.results[baseline] in pack:
                    against = (made,)
                judging = Job(METRICS, each[METRICS] * rows, needs=tuple(dict.fromkeys((made, *against))))
                jobs += [judging] * sum(judged[key] for key in pack)
    return jobs


Rows = list[tuple[str, int, int, float]]


def _rows(alone: Mapping[str, int], shared: Mapping[str, int], jobs: Sequence[Job], times: int) -> Rows:
    seconds = dict.fromkeys(alone, 0.0)
    for job in jobs:
        seconds[job.stage] += job.seconds * times
    return [(stage, alone[stage], shared[stage], seconds[stage]) for stage in alone]

