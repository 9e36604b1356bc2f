"""Reading a study file: everything that is wrong with it is told at once, each mistake where it stands."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from .document import Document, Loc, Problem, did_you_mean, parse, read
from .grid import NAME, expand
from .part import Part, below, part_of
from .spec import GRID, LONGEST, WITHOUT_TRUTH, Cell, Folder, Image, Images, Procedural, Study, StudyFile


def load_study(path: Path, sets: Sequence[str] = ()) -> tuple[Study, Document]:
    """The study in the file `path` after the settings `a.b=c`, and its document (for the places of later problems).

    Raises StudyError with all mistakes of form at once.
    """
    study, document = validate(read(path), sets)
    return study.at(Path(path).resolve().parent), document


def parse_study(text: str, sets: Sequence[str] = (), name: str = "(text)") -> tuple[Study, Document]:
    """As `load_study`, from text."""
    return validate(parse(text, name), sets)


def validate(document: Document, sets: Sequence[str] = ()) -> tuple[Study, Document]:
    """The study that a document holds, its grid expanded. Raises StudyError."""
    for setting in sets:
        if setting.startswith("pipeline.") and isinstance(document.data, dict) and isinstance(document.data.get("pipeline"), str):
            document.data = {**document.data, "pipeline": {"name": document.data["pipeline"]}}      # a word may be said more of
        document.override(setting)
    if not isinstance(document.data, dict):
        found = "nothing" if document.data is None else type(document.data).__name__
        raise document.error([Problem((), f"a study is a mapping of keys, this file holds {found}")])
    if isinstance(document.data.get("placebo"), dict):  # one alone may stand without a list
        document.origins[("placebo", 0)] = ("placebo",)
    problems = list(_doubles(document))
    file = _checked(StudyFile.model_validate, document.data, document, (), problems)
    made: Mapping[str, Cell] | None = {}
    if not any(problem.path[:1] in {(key,) for key in GRID} for problem in problems):
        grid = expand(document.data)
        document.origins |= grid.origins
        problems += [document.problem(place, text, at_key) for place, text, at_key in grid.problems]
        made = _checked(CELLS.validate_python, grid.cells, document, ("cells",), problems)
        if made is not None and not grid.problems:      # of a broken grid nobody knows the cells
            problems += [document.problem(path, message) for path, message in _nameless(document.data, made)]
    if problems or file is None or made is None:
        raise document.error(problems)
    if not file.cells and not made:
        raise document.error([document.problem(("cells",), "a study needs a cell: name one in cells, or say axes", True)])
    study = file.study(made)
    problems = [document.problem(path, message) for path, message in _cross_checks(study)]
    if problems:
        raise document.error(problems)
    return study, document


def _doubles(document: Document) -> Iterable[Problem]:
    """Seeds and metrics that stand twice."""
    for field in ("seeds", "metrics"):
        values, seen = document.data.get(field), set[Hashable]()
        for index, value in enumerate(values if isinstance(values, list) else []):
            if not isinstance(value, Hashable):     # of a wrong form, which is told elsewhere
                continue
            if value in seen:
                yield document.problem((field, index), f"{value!r} stands twice")
            seen.add(value)


CELLS: TypeAdapter[dict[str, Cell]] = TypeAdapter(dict[str, Cell])


def _checked(check: Callable[[Any], Any], data: Any, document: Document, place: Loc, problems: list[Problem]) -> Any:
    """What pydantic makes of `data`, or None with its complaints added to `problems`."""
    try:
        return check(data)
    except ValidationError as error:
        problems += [_problem(document, (*place, *item["loc"]), item) for item in error.errors(include_url=False)]
        return None


def _nameless(data: Mapping[str, Any], made: Mapping[str, Cell]) -> Iterable[tuple[Loc, str]]:
    """Names of cells that no cell has, whatever else is wrong with the file."""
    said = data.get("cells")
    cells: dict[Any, Any] = said if isinstance(said, dict) else {}
    known = [*map(str, cells), *made]
    baseline = data.get("baseline", Study.model_fields["baseline"].default)
    if known and isinstance(baseline, str) and baseline not in known:
        yield ("baseline",), f"no cell of this name{did_you_mean(baseline, known)}"
    pairs = {str(name): cell.get("pairs_with") for name, cell in cells.items() if isinstance(cell, dict)}
    for name, other in {**pairs, **{name: cell.pairs_with for name, cell in made.items()}}.items():
        if isinstance(other, str) and other not in known:
            yield ("cells", name, "pairs_with"), f"no cell {other!r}{did_you_mean(other, known)}"


def _cross_checks(study: Study) -> Iterable[tuple[Loc, str]]:
    """Mistakes between fields: names that point nowhere, values that stand twice."""
    for name, cell in study.cells.items():
        if not NAME.fullmatch(name):
            yield ("cells", name), "a cell's name is made of letters, digits and _ - + ."
        if len(name) > LONGEST:
            yield ("cells", name), f"a cell's name has at most {LONGEST} letters, this one has {len(name)}"
        for limit in ("window", "branch"):
            if getattr(cell, limit) is not None and not cell.ablate and not cell.placebo:
                yield ("cells", name, limit), f"a {limit} limits `ablate`, and this cell removes nothing"
        if cell.pairs_with == name:
            yield ("cells", name, "pairs_with"), "a cell is not shown beside itself"
    yield from _unmeasured(study)
    yield from _families(study)
    if study.reference == "data" and study.data.kind in WITHOUT_TRUTH:
        yield ("reference",), "a photograph has no true clip: say baseline, or give a folder of clips"


def _unmeasured(study: Study) -> Iterable[tuple[Loc, str]]:
    """Metrics that the report is asked to show and that nobody measures."""
    if study.report.metrics is not None:
        from wanlab.measure import key_of

        measured = {key_of(name) for name in study.metrics}
        for index, name in enumerate(study.report.metrics):
            if name not in study.metrics and key_of(name) not in measured:
                yield ("report", "metrics", index), f"this study does not measure {name!r}{did_you_mean(name, study.metrics)}"


def _families(study: Study) -> Iterable[tuple[Loc, str]]:
    """Named families that hold no cell, and cells that are in none or in two. Baseline and placebos are compared in none."""
    if not isinstance(study.stats.family, dict):
        return
    for name, patterns in study.stats.family.items():
        for index, pattern in enumerate(patterns):
            if not fnmatch.filter(study.cells, pattern):
                yield ("stats", "family", name, index), f"no cell is called {pattern!r}{did_you_mean(pattern, study.cells)}"
    compared = [name for name, cell in study.cells.items() if name != study.baseline and cell.placebo is None]
    found = {cell: study.stats.families_of(cell) for cell in compared}
    if alone := [cell for cell, names in found.items() if not names]:
        yield ("stats", "family"), f"in no family: {', '.join(alone[:SHOWN])}" + (" and more" if len(alone) > SHOWN else "")
    for one, other in dict.fromkeys((names[0], names[1]) for names in found.values() if len(names) > 1):
        twice = [cell for cell, names in found.items() if names[:2] == [one, other]]
        told = ", ".join(twice[:SHOWN]) + (" and more" if len(twice) > SHOWN else "")
        yield ("stats", "family", other), f"in the family {one!r} too: {told}"


def _problem(document: Document, loc: Sequence[str | int], item: Mapping[str, Any]) -> Problem:
    """One pydantic error as a problem of the file, with the nearest right word."""
    path, model = _follow(document, loc)
    kind, given = item["type"], item.get("input")
    if kind == "extra_forbidden":
        if path[0] == "cells" and path[-2:] == ("placebo", "draws"):
            whole = "several draws are said once, in `placebo:` at the top level beside cells, which makes a cell of each"
            return document.problem(path, f"unknown key; {whole}", at_key=True)
        listed = f"; there are {', '.join(model)}" if 0 < len(model) <= SHOWN else ""
        return document.problem(path, f"unknown key{did_you_mean(str(path[-1]), model) or listed}", at_key=True)
    if kind == "missing":
        return document.problem(path, f"the key {path[-1]!r} is missing")
    if kind == "union_tag_not_found":
        return document.problem(path, "the key 'kind' is missing: procedural, folder, image or images")
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
    own = kind == "value_error"  # of a check of ours
    message = str(item["ctx"]["error"]) if own else item["msg"][0].lower() + item["msg"][1:]
    told = not _short(given) or repr(given) in message
    return document.problem(path, message if told else f"{message}, got {given!r}")


def _short(value: Any) -> bool:
    return value is None or (isinstance(value, (str, int, float, bool)) and len(str(value)) <= 60)


def _follow(document: Document, loc: Sequence[str | int]) -> tuple[Loc, list[str]]:
    """A pydantic location as a path in the data (without the tag of `data`), and the keys known where it ends."""
    path: list[str | int] = []
    kind: Any = StudyFile
    model: type[Part] | None = StudyFile
    for step in loc:
        if isinstance(step, str) and path == ["data"] and step in KINDS:
            kind = KINDS[step]
            continue
        model = part_of(kind)
        path.append(step)
        kind = below(kind, step)
    return tuple(path), list(model.model_fields if model is not None else [])


SHOWN = 12  # keys that a message lists where none is like the wrong one
KINDS = {"procedural": Procedural, "folder": Folder, "image": Image, "images": Images}
