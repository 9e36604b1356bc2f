"""The trainings of a study: which cells ask for one, what is trained already, and pipelines with the trained parts in them."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from wanlab.pipelines.load import adopt
from wanlab.pipelines.weights import WeightsError
from wanlab.training.ablation import FAILED, Retraining, retraining
from wanlab.training.cascade import planned

from .document import read
from .progress import TrainingMonitor
from .spec import Study, Train

if TYPE_CHECKING:
    from .plan import Plan


class Untrained:
    """A pipeline of which a part is still to be trained: it can be looked at and planned with, and does not run."""

    def __init__(self, pipe: Any, job: Retraining, root: Path):
        self._pipe, self._job, self._root = pipe, job, root

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipe, name)

    @property
    def nodes(self) -> list[Any]:
        """The graph; what holds untrained weights is known by the training that will make them."""
        mine = tuple(self._job.ships)
        return [
            replace(node, weights=lambda: f"untrained:{self._job.key}")
            if any(stage == name or stage.startswith(f"{name}.") for stage in node.stages for name in mine)
            else node
            for node in self._pipe.nodes
        ]

    def swap(self, *given: Any, **options: Any) -> Untrained:
        """As the pipeline's own."""
        return Untrained(self._pipe.swap(*given, **options), self._job, self._root)

    def to(self, *given: Any) -> Untrained:
        """As the pipeline's own."""
        return Untrained(self._pipe.to(*given), self._job, self._root)

    def run_node(self, *given: Any, **options: Any) -> Any:
        """Raises WeightsError with the reason."""
        why = self._job.home(self._root) / FAILED
        said = why.read_text(encoding="utf-8").strip() if why.is_file() else "it was not started"
        raise WeightsError(f"{self._job.part} is not trained: {said}")


def training_of(train: Train, pipe: Any, study: Study) -> Retraining:
    """The training that a cell of the study asks for.

    Raises LookupError and ValueError as `retraining`, and ValueError for what `wanlab train` would refuse of the file; StudyError
    for a recipe file that is broken or nowhere.
    """
    folder = getattr(pipe, "folder", None)
    if folder is None:
        raise ValueError(f"{pipe.config['name']} has no folder of weights with recipes: only the cascade can be trained")
    given = None if train.recipe is None else read(study.find(train.recipe)).data
    if given is not None and (not isinstance(given, dict) or given.get("kind") != "cascade"):
        raise ValueError(f"{train.recipe}: a training file of kind: cascade is wanted")
    if given is not None:
        planned({key: value for key, value in given.items() if key != "machine"}, study.cache.trainings)
    return retraining(Path(folder), train.part, given, train.set, train.seed)


def equipped(pipe: Any, job: Retraining, root: Path) -> Any:
    """`pipe` with what the training made; before it is finished, one that only tells its graph."""
    if job.finished(root):
        for stage, (variant, entry) in job.weights(root).items():
            pipe = adopt(pipe, stage, variant, entry)
        return pipe
    for stage, variant in job.ships.items():
        pipe = adopt(pipe, stage, f"{variant}@{job.key[:8]}", dict(job.entry[stage]), init="random")
    return Untrained(pipe, job, root)


def trainings_of(study: Study, plan: Plan) -> dict[str, tuple[Retraining, list[str]]]:
    """The trainings of a study by key, each with the cells that need it; one serves all its cells."""
    found: dict[str, tuple[Retraining, list[str]]] = {}
    for name, cell in study.cells.items():
        if cell.train is not None:
            job = training_of(cell.train, plan.cells[study.baseline].pipe, study)
            found.setdefault(job.key, (job, []))[1].append(name)
    return found


def train_missing(study: Study, plan: Plan, console: Console) -> bool:
    """Train what is not there yet; a training that fails is told, and only its cells fail. Returns whether any was trained.

    Raises KeyboardInterrupt, after a checkpoint, on Ctrl-C.
    """
    root = study.cache.trainings
    jobs = [row for row in trainings_of(study, plan).values() if not row[0].finished(root)]
    if jobs:
        from wanlab import training

        with TrainingMonitor(console) as monitor, training.watched_by(monitor):
            for number, (job, cells) in enumerate(jobs, 1):
                monitor.part(f"{job.part} for {_named(cells)}", number, len(jobs))
                try:
                    job.train(root)
                except Exception as error:
                    said = f"{type(error).__name__}: {error}"
                    (job.home(root) / FAILED).write_text(f"{said}\n\n{traceback.format_exc()}", encoding="utf-8")
                    console.print(f"[red]failed[/]  {escape(f'{job.part}: {said}')}", highlight=False, soft_wrap=True)
    return bool(jobs)


def _named(cells: Sequence[str]) -> str:
    return ", ".join(cells[:3]) + (f" and {len(cells) - 3} more" if len(cells) > 3 else "")


def seconds_of(study: Study, jobs: Mapping[str, tuple[Retraining, list[str]]]) -> dict[str, float | None]:
    """Seconds of each training that is left, by key: stated in the study (`seconds: {train.PART: ...}`), else of its recipe."""
    left = {key: job for key, (job, _) in jobs.items() if not job.finished(study.cache.trainings)}
    stated = {key: study.seconds.get(f"train.{job.part}") for key, job in left.items()}
    return {key: stated[key] if stated[key] is not None else job.minutes and job.minutes * 60 for key, job in left.items()}
