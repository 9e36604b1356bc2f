"""Outlines: a pipeline that nobody has loaded, as stated figures, so that a study of it can be planned anywhere.

    name: wan2.1-i2v-14b
    says: computed from FLOPs at 45 % of the peak; nothing here was measured
    steps: 40
    guidance: 5.0
    components: {temporal: denoise, text: text}                  where a component is removed
    devices:
      h200: {start: 90, cache_gib_per_second: 1.0, seconds: {text: 0.1, denoise: 8.2, decode: 20}}
    nodes:
      text: {reads: [prompts]}
      denoise: {inputs: [text], reads: [seeds, steps, guidance], stages: [dit], steps: true, gib: 0.01, state_gib: 0.03}
      decode: {inputs: [denoise], gib: 0.1}

Seconds are for one sample; of a node with steps, for one step with both branches of guidance (half of it at guidance 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from wanlab.core import Select
from wanlab.core.index import holds
from wanlab.graph import digest
from wanlab.pipelines.request import STEPS

from .document import Document, Problem, StudyError, did_you_mean, read
from .part import Part
from .schedule import Job
from .spec import Study

METRICS = "metrics"
Amount = Annotated[float, Field(ge=0, le=1e9)]  # seconds or GiB: 30 years, a million disks


class StatedNode(Part):
    """One node: what it reads of other nodes and of a request, whether it runs in steps, and how large its output is."""

    inputs: list[str] = Field(default_factory=list)
    reads: list[str] = Field(default_factory=list)
    stages: list[str] = Field(default_factory=list)
    steps: bool = False
    gib: Amount = 0.0
    state_gib: Amount = 0.0


class StatedDevice(Part):
    """Seconds of every node for one sample on one device, of `metrics` too, and what moving data costs."""

    seconds: dict[str, Amount]
    start: Amount = 0.0
    cache_gib_per_second: Amount = 0.0


class Outline(Part):
    """A pipeline as stated figures. `nodes` stand after their inputs; the last one makes the video."""

    name: str
    says: str
    steps: int = Field(ge=1, le=STEPS)
    guidance: float = Field(ge=0)
    components: dict[str, str] = Field(default_factory=dict)
    devices: dict[str, StatedDevice] = Field(min_length=1)
    nodes: dict[str, StatedNode] = Field(min_length=1)

    def device(self, name: str | None) -> StatedDevice:
        """The figures of a device; None: of the only one. Raises StudyError for one that the outline does not state."""
        if name is None and len(self.devices) == 1:
            return next(iter(self.devices.values()))
        if name not in self.devices:
            known = ", ".join(self.devices)
            raise StudyError([], f"the outline states no device {name!r}{did_you_mean(str(name), self.devices)}; it states {known}")
        return self.devices[name]


def load_outline(path: Path) -> Outline:
    """The outline in a YAML file. Raises StudyError with all mistakes at once."""
    document = read(path)
    try:
        outline = Outline.model_validate(document.data)
    except ValidationError as error:
        rows = error.errors(include_url=False)
        raise document.error([document.problem(tuple(row["loc"]), row["msg"].lower()) for row in rows]) from None
    problems = []
    for name, node in outline.nodes.items():
        for place, needed in enumerate(node.inputs):
            if needed not in list(outline.nodes)[: list(outline.nodes).index(name)]:
                near = did_you_mean(needed, outline.nodes)
                problems.append(document.problem(("nodes", name, "inputs", place), f"no node {needed!r} before this one{near}"))
    for component, name in outline.components.items():
        if name not in outline.nodes:
            problems.append(document.problem(("components", component), f"no node {name!r}{did_you_mean(name, outline.nodes)}"))
    for device, stated in outline.devices.items():
        for name in [*outline.nodes, METRICS]:
            if name not in stated.seconds:
                problems.append(document.problem(("devices", device, "seconds"), f"the seconds of {name} are missing"))
    if problems:
        raise document.error(problems)
    return outline


@dataclass
class Workload:
    """The stage runs of a study on an outline: those of one batch (batches share nothing), how many there are in all, and what
    the same cells would take without sharing."""

    jobs: list[Job]
    batches: int
    alone: dict[str, int]
    shared: dict[str, int]
    alone_seconds: float
    steps_alone: int
    steps_shared: int

    def all_jobs(self) -> list[Job]:
        """The stage runs of every batch."""
        size = len(self.jobs)
        return [
            Job(job.stage, job.seconds, job.gib, tuple(needed + batch * size for needed in job.needs))
            for batch in range(self.batches)
            for job in self.jobs
        ]


def workload(study: Study, document: Document, outline: Outline, device: StatedDevice, samples: int) -> Workload:
    """What running a study would take on an outline.

    Two cells share a run of a node where nothing that touches it differs, and the denoising steps before the first one in which
    they differ; where cells part, the state of the loop is kept (`state_gib`).
    Raises StudyError for components and sites that the outline does not have, each at its place.
    """
    acts = _acts(study, document, outline)
    found = _Builder(study, outline, device, min(study.rows, samples))
    for name in sorted(study.cells, key=lambda name: name != study.baseline):  # stable, and as engines do it
        found.add(name, acts[name])
    batches = -(-samples // study.rows) * len(study.seeds)
    return found.finish(batches)


Acts = dict[str, list[tuple[str, Any]]]  # node -> (what is done there, the steps in which it is; None: all)


def _acts(study: Study, document: Document, outline: Outline) -> dict[str, Acts]:
    """What each cell does to each node. Raises StudyError with everything that the outline does not have."""
    owners = {stage: name for name, node in outline.nodes.items() for stage in (name, *node.stages)}
    problems: list[Problem] = []
    found: dict[str, Acts] = {}

    def owner(names: Mapping[str, str], key: str, path: tuple[str | int, ...], what: str) -> str | None:
        if key not in names:
            problems.append(document.problem(path, f"{outline.name} has no {what} {key!r}{did_you_mean(key, names)}"))
        return names.get(key)

    for name, cell in study.cells.items():
        acts: Acts = {node: [] for node in outline.nodes}
        removed = [*cell.ablate, *(cell.placebo.of if cell.placebo else [])]
        for index, component in enumerate(removed):
            node = owner(outline.components, component, ("cells", name, "ablate", index), "component")
            kind = "placebo" if index >= len(cell.ablate) else "ablate"
            if node and cell.window is not None and not outline.nodes[node].steps:
                where = ("cells", name, "window")
                said = f"{component} acts in {node}, which has no steps that a window could limit"
                problems.append(document.problem(where, said))
            elif node:
                draw = [] if cell.placebo is None else [cell.placebo.draw, cell.placebo.seed]
                acts[node].append((digest([kind, component, cell.branch, draw]), cell.window))
        for stage, variant in cell.swap.items():
            if node := owner(owners, stage, ("cells", name, "swap", stage), "stage"):
                acts[node].append((digest(["swap", stage, variant]), None))
        for index, edit in enumerate(cell.edits):
            try:
                select = Select(str(edit.get("at", "")), steps=edit.get("steps"))
            except (TypeError, ValueError) as error:
                problems.append(document.problem(("cells", name, "edits", index), str(error)))
                continue
            node = owner(owners, select.at.split(".")[0], ("cells", name, "edits", index), "stage for the site")
            if node:
                content = {**edit, "at": select.at, "steps": None}
                acts[node].append((digest(content), select.limits.get("steps")))
        found[name] = acts
    if problems:
        raise document.error(problems)
    return found


class _Builder:
    """Stage runs of one batch, each made once; the loop of a node with steps is a tree of states, one branch per difference."""

    def __init__(self, study: Study, outline: Outline, device: StatedDevice, rows: int):
        self.study, self.outline, self.device, self.rows = study, outline, device, rows
        self.keys: dict[str, int] = {}  # key of a run -> its number
        self.runs: list[tuple[str, tuple[int, ...], float, float]] = []  # node, needs, seconds, GiB
        self.children: dict[int, int] = {}  # number of a step -> how many go on from it
        self.alone = dict.fromkeys((*outline.nodes, METRICS), 0)
        self.alone_seconds, self.steps_alone = 0.0, 0
        self.baseline = -1
        self._active: dict[Any, tuple[tuple[str, ...], ...]] = {}

    def add(self, name: str, acts: Acts) -> None:
        """The runs of one cell."""
        sampler = self.study.sampler_of(name)
        settings = {
            "steps": sampler.steps or self.outline.steps,
            "guidance": self.outline.guidance if sampler.guidance is None else sampler.guidance,
            "negative": sampler.negative,
        }
        alone = "" if self.study.share.cache else name
        made: dict[str, tuple[str, int]] = {}
        for node, stated in self.outline.nodes.items():
            reads = {key: settings[key] for key in stated.reads if key in settings}
            inputs = [made[needed] for needed in stated.inputs]
            start = repr((node, alone, reads, [key for key, _ in inputs]))
            needs = tuple(number for _, number in inputs)
            self.alone[node] += 1
            if stated.steps:
                each = self._seconds(node) * (0.5 if settings["guidance"] == 1 else 1.0)
                made[node] = self._loop(node, start, needs, int(settings["steps"] or 0), acts[node], each)
                self.alone_seconds += each * int(settings["steps"] or 0)
            else:
                key = f"{start}|{sorted(what for what, _ in acts[node])}"
                made[node] = key, self._run(key, node, needs, self._seconds(node), stated.gib)
                self.alone_seconds += self._seconds(node)
        last = made[list(self.outline.nodes)[-1]][1]
        self.alone[METRICS] += 1
        self.alone_seconds += self._seconds(METRICS)
        self.baseline = last if name == self.study.baseline else self.baseline
        judged = (last, self.baseline) if self.study.against_baseline else (last,)
        self._run(f"{METRICS}|{name}", METRICS, tuple(dict.fromkeys(judged)), self._seconds(METRICS), 0.0)

    def _loop(
        self, node: str, start: str, needs: tuple[int, ...], steps: int, acts: Sequence[tuple[str, Any]], each: float
    ) -> tuple[str, int]:
        """One run for each step: a state is known by what it began with and what was done until then."""
        stated, self.steps_alone = self.outline.nodes[node], self.steps_alone + steps
        share = self.study.share.cache and self.study.share.fork
        always = digest([start, sorted(what for what, when in acts if when is None), "" if share else sorted(map(repr, acts))])
        key, number = always, -1
        for step, active in enumerate(self._courses(acts, steps)):
            key = digest([key, step, active]) if active else key
            known = f"{node}|{always}|{key}|{step}"
            if known not in self.keys:
                before = needs if number < 0 else (number,)
                self._run(known, node, before, each, stated.gib if step == steps - 1 else stated.state_gib)
                if number >= 0:
                    self.children[number] = self.children.get(number, 0) + 1
            number = self.keys[known]
        return f"{always}|{key}", number

    def _courses(self, acts: Sequence[tuple[str, Any]], steps: int) -> tuple[tuple[str, ...], ...]:
        """What is done in each step, of that which a window limits."""
        limited = tuple((what, repr(when)) for what, when in acts if when is not None)
        if (limited, steps) not in self._active:
            windows = [(what, Select("**", steps=when).steps) for what, when in acts if when is not None]
            if any(when is None for _, when in windows):  # noise levels: which steps these are, only the scheduler knows
                windows = [(what, ("0:",)) for what, _ in windows]
            self._active[limited, steps] = tuple(
                tuple(what for what, when in windows if holds(when, step, steps, "steps")) for step in range(steps)
            )
        return self._active[limited, steps]

    def _run(self, key: str, node: str, needs: tuple[int, ...], seconds: float, gib: float) -> int:
        if key not in self.keys:
            self.keys[key] = len(self.runs)
            self.runs.append((node, needs, seconds, gib))
        return self.keys[key]

    def _seconds(self, node: str) -> float:
        return self.device.seconds[node] * self.rows

    def finish(self, batches: int) -> Workload:
        """The runs with steps that nobody leaves joined to one."""
        shared = dict.fromkeys(self.alone, 0)
        jobs: list[Job] = []
        place: dict[int, int] = {}  # number of a run -> the job that holds it
        steps_shared = 0
        ends = {needed for node, needs, _, _ in self.runs for needed in needs if not self.outline.nodes.get(node, _PLAIN).steps}
        for number, (node, needs, seconds, gib) in enumerate(self.runs):
            stepped = node != METRICS and self.outline.nodes[node].steps
            steps_shared += stepped
            before = needs[0] if stepped and needs and self.runs[needs[0]][0] == node else None
            if before is not None and self.children[before] == 1 and before not in ends:
                job = jobs[place[before]]
                jobs[place[before]] = Job(node, job.seconds + seconds, gib * self.rows, job.needs)
                place[number] = place[before]
                continue
            place[number] = len(jobs)
            shared[node] += 1
            jobs.append(Job(node, seconds, gib * self.rows, tuple(dict.fromkeys(place[n] for n in needs))))
        return Workload(
            jobs,
            batches,
            {node: count * batches for node, count in self.alone.items()},
            {node: count * batches for node, count in shared.items()},
            self.alone_seconds * batches,
            self.steps_alone * batches * self.rows,
            steps_shared * batches * self.rows,
        )


_PLAIN = StatedNode()
