"""What a study will run: cells, batches, the content key of every stage run, and who runs together with whom.

Batches are fixed here (samples in order, `batch` rows at a time, seed by seed) and never depend on what a resumed run
left over, because the batch is part of what the bytes depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wanlab.graph import Piece, Recipe, Work, cohorts, digest, forked, pieces_of, recipes_of, side_by_side

from .batches import Batches
from .document import Document, Problem
from .setting import prepare, settled
from .shared import StageRuns
from .source import Source
from .spec import SAMPLES, Sampler, Study


def noise_seed(seed: int, index: int) -> int:
    """The seed of the noise of sample `index` (the column of samples.parquet, from 0) under one of a study's `seeds`: another one
    for every row of a study. `pipe.generate(image, prompt, seed=noise_seed(seed, index), ...)` makes that sample again."""
    return seed * SAMPLES + index


Skip = Callable[[str, int], bool]


def nothing(cell: str, chunk: int) -> bool:
    """Leaves no task out."""
    return False


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
        return [noise_seed(self.seed, index) for index in self.indices]


@dataclass(frozen=True)
class CellPlan:
    """One cell, ready to run: its pipeline with the swaps done, its edits, what it asks of each node, and for each batch the
    keys of all nodes' outputs."""

    name: str
    key: str
    pipe: Any
    nodes: Sequence[Any]
    edits: Sequence[Any]
    sampler: Sampler
    recipes: Sequence[Recipe]
    keys: Sequence[Mapping[str, str]]

    def pieces(self, rows: Mapping[str, Any]) -> list[Piece]:
        """What making this cell takes; `rows`: images, prompts and seeds of a batch."""
        return pieces_of(self.name, self.recipes, {**rows, **self.sampler.model_dump()})

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
    """A study's cells and batches. rows: of each batch, digests of what its rows are; order: in which cells run; cohorts: those
    that share work within a batch."""

    study: Study
    chunks: Sequence[Chunk]
    cells: Mapping[str, CellPlan]
    reference: str
    context: Mapping[str, Any]
    rows: Sequence[Mapping[str, str]]
    order: Sequence[str]
    cohorts: Sequence[tuple[str, ...]]

    def groups(self) -> Iterator[Group]:
        """The work in a fixed order: batch by batch, the baseline first."""
        return (Group(chunk.number, cohort) for chunk in self.chunks for cohort in self.cohorts)

    def work(self, chunk: int, cells: Iterable[str], pack: bool = True) -> Work:
        """What making these cells takes on one batch; with whole cohorts where cells run together, since what stands in one
        batch is fixed by the plan and never by what is left. pack=False: each cell by itself."""
        size, wanted = self.study.share.pack if pack else 1, set(cells)
        if size > 1:
            wanted = {name for cohort in self.cohorts if wanted & set(cohort) for name in cohort}
        names = [name for name in self.order if name in wanted]
        return Work.of({name: self.cells[name].pieces(self.rows[chunk]) for name in names}, size)

    def lasting(self) -> frozenset[str]:
        """The keys that batches of other samples have in common: the same picture and prompt again, or no prompt at all."""
        samples: dict[str, tuple[int, ...]] = {}
        found = set()
        for chunk in self.chunks:
            for key in {key for cell in self.cells.values() for key in cell.keys[chunk.number].values()}:
                if samples.setdefault(key, chunk.indices) != chunk.indices:
                    found.add(key)
        return frozenset(found)

    def stage_runs(self, skip: Skip = nothing) -> StageRuns:
        """How often each stage would run alone and does run with sharing; `skip(cell, chunk)` leaves finished work out."""
        found, seen = StageRuns(), set()
        for chunk in self.chunks:
            wanted = [name for name in self.cells if not skip(name, chunk.number)]
            for name in wanted:
                found.count_alone(self.cells[name].recipes)
            if wanted and self.reference == "baseline" and self.study.baseline not in wanted:
                wanted.append(self.study.baseline)
            work = self.work(chunk.number, wanted)
            for cells in [wanted] if self.study.share.cache else [[name] for name in wanted]:
                for pack, pieces in work.runs(cells):
                    if pack not in seen or not self.study.share.cache:
                        found.count(pieces, len(chunk.indices))
                    seen.add(pack)
        return found


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
    study: Study, document: Document, pipe: Any, source: Source, measures: Sequence[Any], context: Mapping[str, Any],
    wrong: Sequence[Problem] = (),
) -> Plan:
    """The plan of a study on a loaded pipeline.

    Args:
        context: what results depend on beside the study: `generate` (device class, code of the stages, versions) and
            `measure` (code of the metrics).
        wrong: mistakes that were found before, to be told with the rest.

    Raises:
        StudyError: with these and every component, variant, edit or site that the pipeline does not have, each at its place.
    """
    problems = list(wrong)
    chunks = list(chunks_of(source.n, study.rows, study.seeds))
    batches = Batches(chunks, source, study.rows)
    prepared = {name: prepare(name, study, document, pipe, batches, problems) for name in study.cells}
    if problems:
        raise document.error(problems)
    rows = [rows_of(chunk, source) for chunk in chunks]
    names = sorted(prepared, key=lambda name: name != study.baseline)       # stable: else in the order of the file
    drafts = {name: _draft(name, study, *prepared[name], context["generate"]) for name in names}
    if study.share.cache and study.share.fork:
        drafts = _forked(drafts)
    order, kin = _related(drafts, study)
    cells = {name: drafts[name] for name in study.cells}
    plan = Plan(study, chunks, cells, reference_of(study, source), context, rows, order, kin)
    return _keyed(plan, [measure.name for measure in measures])


def _draft(name: str, study: Study, pipe: Any, edits: Sequence[Any], by_node: Mapping[str, Any], context: str) -> CellPlan:
    """A cell with what it asks of each node, whatever the batch."""
    sampler = settled(study.sampler_of(name), pipe)
    request = pipe.request(None, "", 0, **sampler.asked)
    settings = sampler.model_dump() | {"negative": sampler.negative is None}
    recipes = recipes_of(pipe, by_node, request, settings, context)
    return CellPlan(name, "", pipe, pipe.nodes, edits, sampler, recipes, [])


# a batch that stands for all: what cells share is the same in every one
SOME = {"prompts": "", "images": "", "last": "", "seeds": ""}


def _forked(drafts: Mapping[str, CellPlan]) -> dict[str, CellPlan]:
    """The cells with their loops cut where others leave them."""
    settings = {name: {**SOME, **draft.sampler.model_dump()} for name, draft in drafts.items()}
    recipes = forked({name: draft.recipes for name, draft in drafts.items()}, settings)
    return {name: replace(draft, recipes=recipes[name]) for name, draft in drafts.items()}


def _related(drafts: Mapping[str, CellPlan], study: Study) -> tuple[list[str], list[tuple[str, ...]]]:
    """The order in which the cells run, and their cohorts."""
    if not study.share.cache and study.share.pack == 1:
        return list(drafts), [(name,) for name in drafts]
    pieces = {name: draft.pieces(SOME) for name, draft in drafts.items()}
    order = side_by_side(pieces)
    return order, cohorts(Work.of({name: pieces[name] for name in order}, study.share.pack))


def _keyed(plan: Plan, measures: Sequence[str]) -> Plan:
    """The plan with the keys of all outputs, and of the cells: what a cell's numbers follow from."""
    study, last = plan.study, plan.cells[plan.study.baseline].nodes[-1].name
    keys: dict[str, list[dict[str, str]]] = {name: [] for name in plan.cells}
    for chunk in plan.chunks:
        work = plan.work(chunk.number, plan.cells)
        for name in plan.cells:
            keys[name].append(work.ends(name))
    outputs = {name: [one[last] for one in keys[name]] for name in keys}
    against = outputs[study.baseline] if plan.reference == "baseline" else [row["images"] for row in plan.rows]
    judged = {"measures": measures, "code": plan.context["measure"], "reference": plan.reference, "against": against}
    cells = {
        name: replace(cell, keys=keys[name], key=f"{name}-{digest({**judged, 'name': name, 'outputs': outputs[name]})[:12]}")
        for name, cell in plan.cells.items()
    }
    return replace(plan, cells=cells)


def rows_of(chunk: Chunk, source: Source) -> dict[str, str]:
    """Digests of what the rows of a batch are."""
    given = source.digest(chunk.indices)
    return {"prompts": digest(source.prompts(chunk.indices)), "images": given, "last": given,
            "seeds": digest(chunk.noise_seeds)}
