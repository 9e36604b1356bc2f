"""What a study will run: cells, batches, the content key of every stage run, and what that costs.

Batches are fixed here (samples in order, `batch` rows at a time, seed by seed) and never depend on what a resumed run
left over, because the batch is part of what the bytes depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from wanlab.graph import digest, node_keys

from .document import Document, Problem
from .setting import prepare, settled
from .source import Source
from .spec import Sampler, Study

SEED_STRIDE = 1_000_000  # a sample's noise seed is seed * SEED_STRIDE + index: another one for every row of a study


@dataclass(frozen=True)
class Task:
    """The unit of delivery, and of what a run folder keeps: one cell on one batch."""

    cell: str
    chunk: int


@dataclass(frozen=True)
class Group:
    """The unit of work handed to an engine: cells of one batch that share work, in the order in which they run."""

    chunk: int
    cells: tuple[str, ...]

    def __iter__(self) -> Iterator[Task]:
        return (Task(cell, self.chunk) for cell in self.cells)


@dataclass(frozen=True)
class Chunk:
    """One batch of rows: the samples `indices` under one seed."""

    number: int
    seed: int
    indices: tuple[int, ...]

    @property
    def noise_seeds(self) -> list[int]:
        """The seed of each row's own generator."""
        return [self.seed * SEED_STRIDE + index for index in self.indices]


@dataclass(frozen=True)
class CellPlan:
    """One cell, ready to run: its pipeline with the swaps done, its edits by node, and the keys of its stage runs."""

    name: str
    key: str
    pipe: Any
    nodes: Sequence[Any]
    edits: Sequence[Any]
    by_node: Mapping[str, Sequence[Any]]
    sampler: Sampler
    keys: Sequence[Mapping[str, str]]

    def describe(self, study: Study, metrics: Mapping[str, str]) -> dict[str, Any]:
        """What cell.yaml says; `metrics` maps short names to names with their protocols."""
        return {
            "name": self.name,
            "key": self.key,
            **study.cells[self.name].model_dump(mode="json", exclude_defaults=True),
            "sampler": self.sampler.model_dump(mode="json"),
            "edits": [edit.to_dict() for edit in self.edits],
            "metrics": dict(metrics),
            "weights": {node.name: node.weights_hash for node in self.nodes},
            "outputs": [keys[self.nodes[-1].name] for keys in self.keys],
        }


@dataclass(frozen=True)
class Plan:
    """A study's cells and batches."""

    study: Study
    chunks: Sequence[Chunk]
    cells: Mapping[str, CellPlan]
    reference: str
    context: Mapping[str, Any]

    def groups(self, skip: Callable[[str, int], bool] = lambda cell, chunk: False) -> Iterator[Group]:
        """The work in a fixed order: batch by batch, the baseline first. `skip(cell, chunk)` leaves finished work out and is
        asked when a group is drawn."""
        names = sorted(self.cells, key=lambda name: name != self.study.baseline)    # stable: else the order of the file
        for chunk in self.chunks:
            cells = tuple(name for name in names if not skip(name, chunk.number))
            if cells:
                yield Group(chunk.number, cells)

    def stage_runs(self, skip: Callable[[str, int], bool] = lambda cell, chunk: False) -> StageRuns:
        """How often each stage would run alone and does run with sharing; `skip(cell, chunk)` leaves finished work out."""
        alone: dict[str, int] = {}
        unique: dict[str, dict[str, int]] = {}
        for chunk in self.chunks:
            for cell in self.cells.values():
                if skip(cell.name, chunk.number):
                    continue
                for node in cell.nodes:
                    alone[node.name] = alone.get(node.name, 0) + 1
                    unique.setdefault(node.name, {})[cell.keys[chunk.number][node.name]] = len(chunk.indices)
        return StageRuns(
            alone, {name: len(keys) for name, keys in unique.items()}, {name: sum(keys.values()) for name, keys in unique.items()}
        )


@dataclass(frozen=True)
class StageRuns:
    """Per stage: runs without sharing, runs with sharing, rows that the latter compute."""

    alone: Mapping[str, int]
    shared: Mapping[str, int]
    rows: Mapping[str, int]
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"would have been {sum(self.alone.values())} stage runs, is {sum(self.shared.values())}"


def chunks_of(n: int, batch: int, seeds: Sequence[int]) -> Iterator[Chunk]:
    """The batches of a study, in order: all seeds of one group of samples before the next group."""
    number = 0
    for start in range(0, n, batch):
        for seed in seeds:
            yield Chunk(number, seed, tuple(range(start, min(start + batch, n))))
            number += 1


def reference_of(study: Study, source: Source) -> str:
    """What samples are judged against: "data", "baseline", or a folder's path."""
    if study.reference == "auto":
        return "data" if source.truth else "baseline"
    return study.reference


def make_plan(
    study: Study, document: Document, pipe: Any, source: Source, measures: Sequence[Any], context: Mapping[str, Any]
) -> Plan:
    """The plan of a study on a loaded pipeline.

    Args:
        context: what results depend on beside the study: `generate` (device class, code of the stages, versions) and
            `measure` (code of the metrics).

    Raises:
        StudyError: with every component, variant, edit or site that the pipeline does not have, each at its place.
    """
    problems: list[Problem] = []
    prepared = {name: prepare(name, study, document, pipe, problems) for name in study.cells}
    if problems:
        raise document.error(problems)
    chunks = list(chunks_of(source.n, study.batch, study.seeds))
    rows = [_rows(chunk, source) for chunk in chunks]
    reference = reference_of(study, source)
    outputs: dict[str, list[str]] = {}
    drafts: dict[str, CellPlan] = {}
    for name, (swapped, edits, by_node) in prepared.items():
        sampler = settled(study.sampler_of(name), swapped)
        keys = [
            node_keys(swapped.nodes, by_node, {**row, **_sampling(sampler, chunk)}, context["generate"])
            for chunk, row in zip(chunks, rows)
        ]
        drafts[name] = CellPlan(name, "", swapped, swapped.nodes, edits, by_node, sampler, keys)
        outputs[name] = [k[swapped.nodes[-1].name] for k in keys]
    judged = {
        "measures": [m.name for m in measures],
        "code": context["measure"],
        "reference": reference,
        "against": outputs[study.baseline] if reference == "baseline" else [row["images"] for row in rows],
    }
    cells = {
        name: replace(draft, key=f"{name}-{digest({**judged, 'name': name, 'outputs': outputs[name]})[:12]}")
        for name, draft in drafts.items()
    }
    return Plan(study, chunks, cells, reference, context)


def _rows(chunk: Chunk, source: Source) -> dict[str, Any]:
    return {"prompts": source.prompts(chunk.indices), "images": source.digest(chunk.indices), "seeds": chunk.noise_seeds}


def _sampling(sampler: Sampler, chunk: Chunk) -> dict[str, Any]:
    return sampler.model_dump() | {"negative": negatives(sampler, len(chunk.indices))}


def negatives(sampler: Sampler, rows: int) -> list[str] | None:
    """The negative prompt for every row, or None for the null condition."""
    return None if sampler.negative is None else [sampler.negative] * rows
