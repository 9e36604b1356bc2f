"""Reading a study file: everything that is wrong with it is told at once, each mistake where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .document import Document, Loc, Problem, did_you_mean, parse, read
from .spec import Cache, Cell, Folder, Image, Procedural, Report, Sampler, Share, Stats, Study


def load_study(path: Path, sets: Sequence[str] = ()) -> tuple[Study, Document]:
    """The study in the file `path` after the settings `a.b=c`, and its document (for the places of later problems).

    Raises StudyError with all mistakes of form at once.
    """
    return validate(read(path), sets)


def parse_study(text: str, sets: Sequence[str] = (), name: str = "(text)") -> tuple[Study, Document]:
    """As `load_study`, from text."""
    return validate(parse(text, name), sets)


def validate(document: Document, sets: Sequence[str] = ()) -> tuple[Study, Document]:
    """The study that a document holds. Raises StudyError."""
    for setting in sets:
        document.override(setting)
    if not isinstance(document.data, dict):
        found = "nothing" if document.data is None else type(document.data).__name__
        raise document.error([Problem((), f"a study is a mapping of keys, this file holds {found}")])
    try:
        study = Study.model_validate(document.data)
    except ValidationError as error:
        raise document.error([_problem(document, item) for item in error.errors(include_url=False)]) from None
    problems = [document.problem(path, message) for path, message in _cross_checks(study)]
    if problems:
        raise document.error(problems)
    return study, document


def _cross_checks(study: Study) -> Iterable[tuple[Loc, str]]:
    """Mistakes between fields: names that point nowhere, values that stand twice."""
    if study.baseline not in study.cells:
        yield ("baseline",), f"no cell of this name{did_you_mean(study.baseline, study.cells)}"
    for name, cell in study.cells.items():
        if not name.replace("_", "").replace("-", "").replace("+", "").replace(".", "").isalnum():
            yield ("cells", name), "a cell's name is made of letters, digits and _ - + ."
        for limit in ("window", "branch"):
            if getattr(cell, limit) is not None and not cell.ablate:
                yield ("cells", name, limit), f"a {limit} limits `ablate`, and this cell removes nothing"
        if cell.pairs_with is not None and cell.pairs_with not in study.cells:
            yield ("cells", name, "pairs_with"), f"no cell {cell.pairs_with!r}{did_you_mean(cell.pairs_with, study.cells)}"
    for field in ("seeds", "metrics"):
        values = getattr(study, field)
        for index, value in enumerate(values):
            if value in values[:index]:
                yield (field, index), f"{value!r} stands twice"
    if study.reference == "data" and study.data.kind == "image":
        yield ("reference",), "a photograph has no true clip: say baseline, or give a folder of clips"


def _problem(document: Document, item: Mapping[str, Any]) -> Problem:
    """One pydantic error as a problem of the file, with the nearest right word."""
    path, model = _follow(document.data, item["loc"])
    kind, given = item["type"], item.get("input")
    if kind == "extra_forbidden":
        return document.problem(path, f"unknown key{did_you_mean(str(path[-1]), model)}", at_key=True)
    if kind == "missing":
        return document.problem(path, f"the key {path[-1]!r} is missing")
    if kind == "union_tag_not_found":
        return document.problem(path, "the key 'kind' is missing: procedural, folder or image")
    if kind == "union_tag_invalid":
        context = item["ctx"]
        known = [word.strip(" '") for word in context["expected_tags"].split(",")]
        return document.problem(
            (*path, "kind"), f"unknown kind {context['tag']!r}, expected {', '.join(known)}{did_you_mean(context['tag'], known)}"
        )
    if kind == "literal_error":
        expected = item["ctx"]["expected"].replace(" or ", ", ")
        known = [word.strip(" '") for word in expected.split(",")]
        return document.problem(path, f"{given!r} is not one of {', '.join(known)}{did_you_mean(str(given), known)}")
    message = item["msg"][0].lower() + item["msg"][1:]
    return document.problem(path, f"{message}, got {given!r}" if _short(given) else message)


def _short(value: Any) -> bool:
    return value is None or (isinstance(value, (str, int, float, bool)) and len(str(value)) <= 60)


def _follow(data: Any, loc: Sequence[str | int]) -> tuple[Loc, list[str]]:
    """A pydantic location as a path in the data (without union tags), and the keys known where it ends."""
    path: list[str | int] = []
    model: Any = Study
    for step in loc:
        if isinstance(step, str) and step in _KINDS and path == ["data"]:
            model = _KINDS[step]
            continue
        path.append(step)
        if step is not loc[-1]:
            model = _below(model, step)
    return tuple(path), list(getattr(model, "model_fields", []))


_KINDS = {"procedural": Procedural, "folder": Folder, "image": Image}
_CHILDREN = {
    (Study, "sampler"): Sampler,
    (Study, "stats"): Stats,
    (Study, "report"): Report,
    (Study, "cache"): Cache,
    (Study, "share"): Share,
    (Study, "cells"): "cells",
    (Cell, "sampler"): Sampler,
}


def _below(model: Any, step: str | int) -> Any:
    """The model that stands under the key `step` of `model`."""
    return Cell if model == "cells" else _CHILDREN.get((model, step), model)
