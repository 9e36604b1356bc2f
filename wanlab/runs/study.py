"""The three things done with a study: plan it, run it, report it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from .cell import Workbench, WorkbenchSpec, open_workbench
from .document import StudyError
from .engine import Engine, make_engine
from .environment import describe_pipeline, threads
from .execution import Executor, Outcome
from .files import RunFolderError, stoppable, to_yaml, write_text
from .fitting import recorded, settled
from .inference import Resampler
from .own import kept
from .progress import Monitor
from .reading import load_study, parse_study
from .shard import Shard
from .spec import Study
from .stats import Result, Scores, analyse, to_csv
from .store import CellFolder, RunFolder
from .trainings import train_missing

if TYPE_CHECKING:
    import numpy as np

REPORTED = ("report", "stats", "title")  # parts of a study that a report can be given anew


def run_study(
    file: Path,
    out: Path | None = None,
    sets: Sequence[str] = (),
    device: str = "auto",
    engine: Engine | str = "inline",
    console: Console | None = None,
    load: Callable[..., Any] | None = None,
    resolve: Callable[..., Sequence[Any]] | None = None,
    report: bool = True,
    shard: Shard | None = None,
    threads_each: int | None = None,
) -> tuple[Path, Outcome]:
    """Run a study file into a run folder and write its report; what is finished already is not run again.

    Args:
        file: the study; sets: settings `a.b=c` over it.
        out: the run folder (default: runs/NAME).
        device: auto, cpu, cuda, cuda:1.
        engine: inline, ray, or one that was made by `make_engine`; it is closed at the end.
        report: False writes results.csv alone. Where no cell is finished neither is written.
        load, resolve: other pipelines or measures than the shipped ones (see `open_workbench`).
        shard: only this part of the work, and no results.csv and no report: `report_study` writes them when all parts ended.
        threads_each: torch threads of a task on a CPU (default: those of the folder's earlier runs; in a new one the
            engine's, and 1 for a shard). Another number gives another rounding, so it is part of the content keys.

    Returns:
        The run folder, and which cells are done or failed.

    Raises:
        StudyError, SourceError, MediaError, RunFolderError, EngineError, LookupError: nothing was run, or nothing finished
        is lost. KeyboardInterrupt for Ctrl-C and SIGTERM: the same call goes on.
    """
    console = console or Console(stderr=True)
    runner = make_engine(engine) if isinstance(engine, str) else engine
    with stoppable(), closing(runner):
        study, document = load_study(file, sets)
        folder = RunFolder(out or Path("runs") / study.name)
        study = recorded(study, folder)
        folder.refuse_strangers(study)
        with threads(threads_each or folder.threads or (1 if shard is not None else runner.threads)):
            place = runner.prepare(device, study.objects)
            spec = WorkbenchSpec(study.resolved(), place.device, load, resolve, study.home)
            study = settled(study, folder, runner, spec)
            opened = partial(open_workbench, study, document, place.here, load, resolve, place.environment["code"])
            bench = opened()
            if train_missing(study, bench.plan, console):
                bench = opened()
            bench.spec = replace(bench.spec, device=place.device)
            environment = {**place.environment, "pipeline": describe_pipeline(bench.plan.cells[study.baseline].pipe),
                           "cells": {name: cell.key for name, cell in bench.plan.cells.items()}}
            with folder.open(study, environment, shard), Monitor(console) as monitor:
                bench.notify, bench.tell = monitor.stage, monitor.note
                if bench.cache.shared is not None:
                    bench.cache.shared.tell = monitor.note
                for note in bench.notes:
                    monitor.note(note)
                outcome = Executor(bench, folder, monitor, shard).run(runner)
                bench.cache.memory.clear()
                if shard is None and (outcome.done or outcome.before):
                    write_report(folder, bench.measures, bench, report)
    return folder.root, outcome


def report_study(
    root: Path, device: str = "cpu", resolve: Callable[..., Sequence[Any]] | None = None, sets: Sequence[str] = ()
) -> Path:
    """Write results.csv and report/ of a run folder again, from what it holds: no metric's weights are needed. Returns report.html.

    Args:
        resolve: as given to `run_study`; without it, metrics of one's own are reported from what the cells keep of them.
        sets: settings `a.b=c` of `report`, `stats` or `title` over the study's own, for this report alone.

    Raises:
        RunFolderError: there is no finished cell. UnknownMetric: one that only `resolve` can give. StudyError: a setting that is
        wrong, or that would need another run.
    """
    folder = RunFolder(root)
    study = folder.study()
    folder.refuse_links()
    for setting in sets:
        if setting.split("=")[0].strip().split(".")[0] not in REPORTED:
            raise StudyError([], f"--set {setting}: a report can be given {', '.join(REPORTED)}; anything else is another run")
    if sets:
        study, _ = parse_study(to_yaml(study.resolved()), sets, str(folder.root / "study.yaml"))
    measures = kept(folder, study.metrics) if resolve is None else resolve(study.metrics, device)
    return write_report(folder, measures, study=study)


def write_report(
    folder: RunFolder, measures: Sequence[Any], bench: Workbench | None = None, report: bool = True, study: Study | None = None
) -> Path:
    """results.csv and, with `report`, report/ from the finished cells. Raises RunFolderError where there are none."""
    from .report import write_all

    cells = folder.cells()
    if bench is None and (damaged := [name for name, cell in cells.items() if not cell.done]):
        raise RunFolderError(
            f"{folder.root}: {', '.join(damaged)}: files of these cells are not those that were written. The command that ran the "
            "study makes them again; without their folders the others can be reported"
        )
    if not cells:
        earlier = f" of its last run; earlier ones finished {', '.join(old)}" if (old := folder.outdated()) else ""
        raise RunFolderError(f"{folder.root} has no finished cell{earlier}: nothing to report")
    study = study or folder.study()
    results = results_of(study, cells, measures)
    write_text(folder.root / "results.csv", to_csv(results))
    return write_all(folder, study, cells, results) if report else folder.root / "results.csv"


def results_of(study: Study, cells: dict[str, CellFolder], measures: Sequence[Any]) -> list[Result]:
    """The table of a study from its finished cells, under the names (with their protocols) that they were measured with.

    Measures that the data did not allow are not in it.
    """
    names = next(iter(cells.values())).description()["metrics"]
    measures = [_renamed(measure, names[measure.key]) for measure in measures if measure.key in names]
    resampler = Resampler(study.stats.resamples, study.stats.confidence, study.stats.seed)
    scores = {name: scores_of(cell, measures) for name, cell in cells.items()}
    kinds = {name: study.cells[name] for name in cells}
    placebos = {name: cell.pairs_with or f"({', '.join(cell.placebo.of)})" for name, cell in kinds.items() if cell.placebo}
    said = study.stats.family
    family = said if isinstance(said, str) else {name: found[0] for name in cells if (found := study.stats.families_of(name))}
    return analyse(scores, study.baseline, measures, resampler, family, placebos, study.against_baseline)


def _renamed(measure: Any, name: str) -> Any:
    """The measure under another name: a network that was replaced since does not rename what was measured before."""
    other = copy(measure)
    other.name = name
    return other


def scores_of(cell: CellFolder, measures: Sequence[Any] = ()) -> Scores:
    """What a finished cell measured. Raises RunFolderError where its rows do not fit each other, or lack one of `measures`."""
    import numpy as np

    features = cell.features()
    with cell.whole("features.safetensors"):
        index, seed = features.pop("index").numpy(), features.pop("seed").numpy()
        if index.ndim != 1 or {len(seed), *map(len, features.values())} - {len(index)}:
            raise ValueError("it does not have a row for each sample")
        place = {(int(i), int(s)): row for row, (i, s) in enumerate(zip(index, seed))}
    table = cell.samples()
    values: dict[str, np.ndarray] = {}
    with cell.whole("samples.parquet"):
        for i, s, metric, value in zip(table["index"], table["seed"], table["metric"], table["value"]):
            column = values.setdefault(metric, np.full(len(index), np.nan))
            column[place[i, s]] = np.nan if value is None else value
        if lacking := [one.name for one in measures if one.kind != "set" and one.name not in values]:
            raise ValueError(f"it has no {', '.join(lacking)}")
    return Scores(index, seed, values, features)
