"""Cells on one batch of rows: generate through the stage cache, measure, hand back plain numbers.

A `Workbench` holds everything that takes time to set up (pipeline, data, metric networks, cache); `evaluate` is what
every engine runs, in this process or in another, where `WorkbenchSpec.open` builds the same workbench again.
"""

from __future__ import annotations

import logging
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from wanlab.core import LedgerError
from wanlab.data.clip import Clips
from wanlab.graph import GIB, StageCache, digest
from wanlab.graph.disk import Tell

from .batches import Batches
from .cautions import against_baseline
from .document import Document, Problem, StudyError
from .environment import context_of
from .opening import opened
from .plan import Chunk, Group, Plan, Task, make_plan
from .setting import prepare
from .source import Source, SourceError, open_reference, open_source
from .spec import Study
from .stats import judges_agreement
from .store import Part
from .videos import Notify, Videos

GIVEN = {"reference", "prompts"}  # what measures may need of any data


@dataclass(frozen=True)
class Failure:
    """A task that raised: one line, the traceback, and the ledger where it was the ledger that did not agree."""

    message: str
    traceback: str
    ledger: dict[str, Any] | None = None

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """What an exception tells."""
        ledger = error.ledger.to_dict() if isinstance(error, LedgerError) and error.ledger else None
        return cls(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)), ledger)


@dataclass(frozen=True)
class WorkbenchSpec:
    """What it takes to open a workbench again in another process, as plain data that can be pickled.

    resolved: the study (`Study.resolved`); load, resolve: as in `open_workbench`, functions that can be imported there; home: the
    folder of the study file (`Study.home`).
    """

    resolved: Mapping[str, Any]
    device: str = "cpu"
    load: Callable[..., Any] | None = None
    resolve: Callable[..., Sequence[Any]] | None = None
    home: Path | None = None

    @property
    def study(self) -> Study:
        """The study again."""
        return Study.model_validate(self.resolved).at(self.home)

    def open(self) -> Workbench:
        """The same workbench: the same plan with the same keys. Raises as `open_workbench`."""
        document = Document("the study", [], self.resolved)
        return open_workbench(self.study, document, self.device, self.load, self.resolve)


@dataclass
class Workbench:
    """A study with everything that evaluating its cells needs.

    measures are those of `wanlab.measure.resolve` that the data allows; `notify(cell, what, done, total)` is told what is going
    on (a stage and its denoising steps, or "metrics"), `tell` what the user should hear about meanwhile; halved: by stage, the
    rows that the device had memory for, where not for all; notes is what the user should hear about before it runs; spec builds
    this workbench again elsewhere.
    """

    study: Study
    plan: Plan
    source: Source
    measures: Sequence[Any]
    cache: StageCache
    spec: WorkbenchSpec
    notify: Notify = field(default=lambda cell, what, done, total: None)
    tell: Tell = logging.getLogger(__name__).warning
    judges: Source | None = None
    notes: Sequence[str] = ()
    _clips: tuple[tuple[int, ...], Clips, torch.Tensor | None] | None = field(default=None, repr=False)
    _videos: Videos | None = field(default=None, repr=False)
    _reference: tuple[int, torch.Tensor] | None = field(default=None, repr=False)
    halved: dict[str, int] = field(default_factory=dict, repr=False)

    def evaluate(self, group: Group) -> Iterator[tuple[Task, Part | Failure]]:
        """Generate and measure the cells of a group one by one, what they share once. A cell that raises becomes a Failure; the
        others go on."""
        self._videos = self._open(self.plan.chunks[group.chunk], group.cells)
        try:
            for task in group:
                try:
                    yield task, self.part(task)
                except Exception as error:
                    yield task, Failure.of(error)
        finally:
            self._videos.close()
            self._videos = None

    def part(self, task: Task) -> Part:
        """Generate and measure one cell on one batch."""
        chunk = self.plan.chunks[task.chunk]
        before = self.cache.tally.to_dict()
        video = self.generate(task)
        clips, reference = self._truth(chunk)
        if self.plan.reference == "baseline":
            reference = self._of_baseline(chunk)
        start = time.perf_counter()
        self.notify(task.cell, "metrics", 0, 0)
        units = self.source.units(chunk.indices)
        values, features = self._measure(video, reference, clips, units)
        seconds = time.perf_counter() - start
        log = {"rows": len(chunk.indices), "stages": _since(before, self.cache.tally.to_dict()), "metrics": round(seconds, 3)}
        return Part(
            list(chunk.indices),
            [chunk.seed] * len(chunk.indices),
            units,
            self.source.prompts(chunk.indices),
            values,
            features,
            self._shown(video, chunk),
            log,
        )

    def generate(self, task: Task) -> torch.Tensor:
        """The final video of a cell on one batch: b f c h w in [0, 1], on the CPU."""
        videos, chunk = self._videos, self.plan.chunks[task.chunk]
        if videos is not None and videos.chunk == chunk and task.cell in videos.cells:
            video = videos.of(task.cell)
        else:
            videos = self._open(chunk, (task.cell,))
            video = videos.of(task.cell)
            videos.close()
        if task.cell == self.study.baseline and self.plan.reference == "baseline":
            self._reference = task.chunk, video
        return video

    def forget(self) -> None:
        """Keep nothing of the batch in hand."""
        self._clips = self._reference = None
        self.cache.memory.clear()

    def _open(self, chunk: Chunk, cells: Sequence[str]) -> Videos:
        clips, prompts = self._truth(chunk)[0], self.source.prompts(chunk.indices)
        return Videos(self.plan, chunk, cells, clips, prompts, self.cache, self.notify, self.halved)

    def _of_baseline(self, chunk: Chunk) -> torch.Tensor:
        """The baseline's video on a batch, kept for the other cells of the batch."""
        if self._reference is None or self._reference[0] != chunk.number:
            self.generate(Task(self.study.baseline, chunk.number))
        return self._reference[1]   # type: ignore[index]  # kept by `generate`

    def references(self) -> dict[str, bytes]:
        """The true clips of the shown samples by file name, as mp4 files. Nothing where the baseline is the reference."""
        if self.plan.reference == "baseline":
            return {}
        shown: dict[str, bytes] = {}
        for chunk in self.plan.chunks:
            if chunk.seed == self.study.seeds[0] and chunk.indices[0] < self.study.report.videos:
                shown |= self._shown(self._truth(chunk)[1], chunk)
        return shown

    def _truth(self, chunk: Chunk) -> tuple[Clips, torch.Tensor | None]:
        """The batch's data and its reference clips (None: the baseline's), kept for the next cell."""
        if self._clips is None or self._clips[0] != chunk.indices:
            self.cache.memory.keep(self._lasting)       # no other samples will ask for the rest
            fields = any({"flow_pairs", "occlusion"} & set(measure.needs) for measure in self.measures)
            clips = self.source.clips(chunk.indices, truth=fields)
            reference = clips.video if self.plan.reference == "data" else None
            if self.judges is not None:
                reference = self.judges.clips(chunk.indices).video
            self._clips = (chunk.indices, clips, reference)
        return self._clips[1], self._clips[2]

    @cached_property
    def _lasting(self) -> frozenset[str]:
        return self.plan.lasting()

    def _measure(
        self, video: torch.Tensor, reference: torch.Tensor | None, clips: Clips, units: Sequence[str]
    ) -> tuple[dict[str, list[float]], dict[str, torch.Tensor]]:
        """Values per sample (NaN: does not apply to it) and features of the set metrics."""
        from wanlab.measure import Batch

        batch = Batch(
            video=video,
            reference=reference,
            image=clips.first,
            factors=clips.factors,
            masks=clips.masks,
            tracks=clips.tracks,
            flow_pairs=clips.flow_pairs,
            occlusion=clips.occlusion,
            prompts=clips.captions,
            ids=units,
        )
        values: dict[str, list[float]] = {}
        features: dict[str, torch.Tensor] = {}
        for measure in self.measures:
            if measure.kind == "set":
                features[f"{measure.key}.video"] = measure.features(batch)
                features[f"{measure.key}.reference"] = measure.features(batch, "reference")
            else:
                values[measure.name] = measure.score(batch).double().tolist()
        return values, features

    def _shown(self, video: torch.Tensor | None, chunk: Chunk) -> dict[str, bytes]:
        """The clips of this batch that the report shows, as mp4 files: the first samples under the first seed."""
        if video is None or chunk.seed != self.study.seeds[0]:
            return {}
        shown = [(row, index) for row, index in enumerate(chunk.indices) if index < self.study.report.videos]
        return {f"{index:04d}.mp4": _mp4(video[row], self.study.report.fps) for row, index in shown}


def _mp4(video: torch.Tensor, fps: float) -> bytes:
    """An mp4 file of a clip f c h w, as its bytes: small enough to be sent from a worker."""
    from wanlab.data.folder import write_video

    with tempfile.TemporaryDirectory(prefix="wanlab-") as folder:
        return write_video(Path(folder) / "clip.mp4", video, fps=fps).read_bytes()


def _since(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What the tally counted between two readings."""
    return {
        name: {what: round(value - before.get(name, {}).get(what, 0), 3) for what, value in counts.items()}
        for name, counts in after.items()
        if counts != before.get(name)
    }


def open_workbench(
    study: Study,
    document: Document,
    device: str = "cpu",
    load: Callable[..., Any] | None = None,
    resolve: Callable[..., Sequence[Any]] | None = None,
    context: Mapping[str, Any] | None = None,
) -> Workbench:
    """Load what a study names and plan it.

    Args:
        study, document: as read by `load_study`.
        device: where pipeline and metrics run.
        load: name, init -> pipeline (default: `opening.opened`).
        resolve: names, device -> measures (default: `wanlab.measure.resolve`).
        context: what results depend on beside the study, where they are made elsewhere (default: `context_of(device)`).

    Raises:
        StudyError: data that cannot be used, and metrics, components, variants, edits or sites that do not exist, with their
        places.
        SourceError: data that allows none of the metrics. WeightsError: weights that are missing or damaged.
    """
    from wanlab.data.folder import MediaError
    from wanlab.measure import resolve as shipped_measures
    from wanlab.pipelines.load import SettingError

    problems: list[Problem] = []
    measures = _measures(study, document, device, resolve or shipped_measures, problems)
    try:
        init = "random" if study.init == "random" else None
        pipe = opened(study.pipeline, device, init, study.find) if load is None else load(study.pipeline.name, init=init).to(device)
    except (LookupError, SettingError, StudyError) as error:
        raise document.error([*problems, document.problem(("pipeline",), str(error))]) from None
    source = _source(study, document, pipe, problems)
    measures, left_out = _measurable(measures, source)
    context = dict(context or context_of(device))
    judges: Source | None = None
    if study.reference not in ("auto", "data", "baseline"):
        try:
            clips = study.find(Path(study.reference))
            judges = open_reference(clips, source, pipe.config["size"], pipe.config["frames"])
        except (MediaError, SourceError, StudyError) as error:
            wrong = [*problems, document.problem(("reference",), str(error))]
            raise document.error([*wrong, *_of_cells(study, document, pipe)]) from None
        context["measure"] = digest([context["measure"], judges.digest(range(source.n))])
    plan = make_plan(study, document, pipe, source, measures, context, problems)
    size = study.cache
    shared = StageCache(int(size.memory_gib * GIB), size.disk, int(size.disk_gib * GIB)) if study.share.cache else StageCache(0)
    mixed = Batches(plan.chunks, source, study.rows).mixed(plan.cells)
    notes = [*source.notes, *(judges.notes if judges else ()), *left_out, *_notes_on_prompts(study, pipe, source), *mixed]
    if plan.reference == "baseline" and (apart := [one.key for one in measures if judges_agreement(one)]):
        notes.append(against_baseline(study.baseline, apart))
    spec = WorkbenchSpec(study.resolved(), device, load, resolve, study.home)
    return Workbench(study, plan, source, measures, shared, spec, judges=judges, notes=notes)


def _measures(
    study: Study, document: Document, device: str, resolve: Callable[..., Sequence[Any]], problems: list[Problem]
) -> list[Any]:
    """The measures of a study; names that nobody knows, and second names of a measure, are appended to `problems`."""
    found: dict[str, tuple[str, Any]] = {}
    for index, name in enumerate(study.metrics):
        try:
            (measure,) = resolve([name], device)
        except (LookupError, ValueError) as error:
            problems.append(document.problem(("metrics", index), str(error)))
            continue
        first, _ = found.setdefault(measure.key, (name, measure))
        if first != name:
            told = f"{name!r} is another name of {first!r}, which is measured already"
            problems.append(document.problem(("metrics", index), told))
    return [measure for _, measure in found.values()]


def _source(study: Study, document: Document, pipe: Any, problems: Sequence[Problem]) -> Source:
    """The data of a study. Raises StudyError: what is wrong with it, what was found before, and what is wrong with the cells."""
    from wanlab.data.folder import MediaError

    files, wrong = {}, []
    for key in ("path", "captions"):
        if (named := getattr(study.data, key, None)) is not None:
            try:
                files[key] = study.find(named)
            except StudyError as error:
                wrong.append(document.problem(("data", key), str(error)))
    if not wrong:
        try:
            return open_source(study.data.model_copy(update=files), pipe.config["size"], pipe.config["frames"])
        except (SourceError, MediaError) as error:
            key = [name for name in ("captions", "path") if name in files and str(error).startswith(str(files[name]))][:1]
            wrong.append(document.problem(("data", *key), str(error)))
    raise document.error([*problems, *wrong, *_of_cells(study, document, pipe)])


def _of_cells(study: Study, document: Document, pipe: Any) -> list[Problem]:
    """What is wrong with the cells, which no data is needed to see."""
    wrong: list[Problem] = []
    for name in study.cells:
        prepare(name, study, document, pipe, None, wrong)
    return wrong


def _measurable(measures: Sequence[Any], source: Source) -> tuple[list[Any], list[str]]:
    """The measures that this data allows, and in words those that it does not. Raises SourceError where none is left."""
    lacking = {measure.key: sorted(measure.needs - GIVEN - source.fields) for measure in measures}
    names = [name for name, fields in lacking.items() if fields]
    if not names:
        return list(measures), []
    fields = sorted({field for name in names for field in lacking[name]})
    why = f"they need the truth of rendered videos ({', '.join(fields)}), and real pictures have none"
    note = f"left out: {', '.join(names)}; {why}"
    if len(names) == len(lacking):
        raise SourceError(f"no metric of this study can be computed: {note}")
    return [measure for measure in measures if not lacking[measure.key]], [note]


def _notes_on_prompts(study: Study, pipe: Any, source: Source) -> list[str]:
    """Prompts that say nothing, words that the text stage has never seen, and prompts that it does not read to their end."""
    prompts = source.prompts(range(source.n))
    empty = sum(not prompt.strip() for prompt in prompts)
    notes = [f"{empty} of {source.n} samples have an empty prompt: their videos follow the image alone"] if empty else []
    negative = [study.sampler_of(name).negative or "" for name in study.cells]
    unknown = sorted({word for prompt in {*prompts, *negative} for word in pipe.unknown_words(prompt)})
    if unknown:
        more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        notes.append(f"the text stage does not know: {', '.join(unknown[:20])}{more}")
    cut = [said for prompt in dict.fromkeys([*prompts, *negative]) if (said := pipe.cut_of(prompt))]
    if cut:
        notes.append(cut[0] + (f", and of {len(cut) - 1} more prompts the ends" if len(cut) > 1 else ""))
    return notes
