"""A cell on a loaded pipeline: swaps done, components as edits, every mistake told at its place in the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from wanlab.graph import edits_by_node
from wanlab.pipelines.weights import WeightsError

from .batches import Batches
from .document import Document, Loc, Problem
from .placebo import draw
from .spec import Cell, Sampler, Study
from .trainings import equipped, training_of

WRONG = (LookupError, ValueError, TypeError, WeightsError)  # what a pipeline raises for a wrong name or missing weights


def prepare(
    name: str, study: Study, document: Document, pipe: Any, batches: Batches | None, problems: list[Problem]
) -> tuple[Any, list[Any], dict[str, list[Any]]]:
    """A cell's pipeline, its edits, and its edits by node. Mistakes are appended to `problems`, each at its place in the file.

    batches: None where the data could not be read; then the mistakes are found that can be seen without it.
    """
    from wanlab.core import edit_from_dict

    cell, before = study.cells[name], len(problems)
    edits: list[Any] = []

    def attempt(path: Loc, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except WRONG as error:
            problems.append(document.problem(("cells", name, *path), message_of(error)))
            return None

    if (train := cell.train) is not None:
        job, root = attempt(("train",), lambda p=pipe: training_of(train, p, study)), study.cache.trainings
        if job is not None:
            pipe = _once(pipe, (job.key, str(root), job.finished(root)), lambda p=pipe: equipped(p, job, root))
    init = "random" if study.init == "random" else None
    # What comes along with a swap gives way to what the cell says.
    brings: Callable[..., Any] = getattr(pipe, "companions", lambda *swap: {})
    for stage, variant in sorted(cell.swap.items(), key=lambda swap: not brings(*swap)):
        swap = partial(_once, pipe, (stage, variant, init), partial(pipe.swap, stage, variant, init=init))
        pipe = attempt(("swap", stage), swap) or pipe
    for index, component in enumerate(cell.ablate):
        made = attempt(("ablate", index), lambda p=pipe, c=component: p.ablate(c))
        edits += (made and attempt((limit_of(cell),), lambda m=made, c=component, p=pipe: limited(m, c, cell, p))) or []
    if (placebo := cell.placebo) is not None:
        made = attempt(("placebo", "of"), lambda p=pipe: draw(p, placebo.of, placebo.draw, placebo.seed))
        edits += (made and attempt((limit_of(cell),), lambda m=made, p=pipe: limited(m, "the placebo", cell, p))) or []
    for index, data in enumerate(cell.edits):
        edit = attempt(("edits", index), lambda d=data: edit_from_dict(d))
        if edit is not None:
            attempt(("edits", index), lambda e=edit, p=pipe: batches.check(e, p) if batches else p.sites(e.at))
            edits.append(edit)
    asked = settled(study.sampler_of(name), pipe).asked
    attempt((), lambda: pipe.request(None, "", 0, **asked))
    if edits and batches and len(problems) == before:
        attempt((), lambda: batches.check_all(edits, pipe, asked))
    if len(problems) > before or batches is None:
        return pipe, edits, {}
    return pipe, edits, edits_by_node(pipe, edits)


_MADE: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


def _once(pipe: Any, key: Any, make: Callable[[], Any]) -> Any:
    """What `make` makes of a pipeline, made once: cells with the same swaps share their weights in memory."""
    known = _MADE.setdefault(pipe, {})
    if key not in known:
        known[key] = make()
    return known[key]


def limit_of(cell: Cell) -> str:
    """The key of a cell that limits its components: window, else branch."""
    return "window" if cell.window is not None or cell.branch is None else "branch"


def limited(edits: Sequence[Any], component: str, cell: Cell, pipe: Any) -> list[Any]:
    """The edits of a component within the cell's window of steps and its branches.

    Raises ValueError for a component that acts where there are no steps (or branches): it cannot be limited to some.
    """
    asked = {"steps": cell.window, "branch": cell.branch}
    limits = {key: value for key, value in asked.items() if value is not None}
    for key, part in (("steps", "step"), ("branch", "branch")):
        outside = [site.name for edit in edits for site in pipe.sites(edit.at) if not _within(site, part)]
        if key in limits and outside:
            able = [name for name in pipe.components if all(_within(s, part) for e in pipe.ablate(name) for s in pipe.sites(e.at))]
            word = "window of steps" if key == "steps" else "branch"
            raise ValueError(
                f"{component} acts at {', '.join(outside[:3])}, outside any {part}, so no {word} can limit it; "
                f"it can limit {', '.join(able) or 'no component of this pipeline'}"
            )
    return [replace(edit, **limits) for edit in edits] if limits else list(edits)


def _within(site: Any, part: str) -> bool:
    """Whether a site fires in steps (or branches); where that is not known, the check before the run will tell."""
    return site.clock is None or part in site.clock


def settled(sampler: Sampler, pipe: Any) -> Sampler:
    """The sampler with the pipeline's own settings where the study says nothing."""
    own = pipe.config["sampler"]
    given = sampler.model_dump(exclude_none=True)
    second = {"guidance_2": given["guidance"]} if "guidance" in given and "guidance_2" in own else {}
    known = {key: own[key] for key in ("steps", "guidance", "guidance_2") if key in own}
    return Sampler(**{**known, **second, **given})


def message_of(error: BaseException) -> str:
    """The text of an exception; KeyError's quotes are taken off."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text or type(error).__name__
