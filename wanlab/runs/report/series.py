"""Series of cells that differ in the denoising steps in which they act and in nothing else: the curves of the windows figure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from wanlab.core import Select
from wanlab.core.grammar import PARTS, TIMES
from wanlab.core.index import plain

from ..spec import Cell, Study

LIMITS = {"at", *PARTS, *TIMES} - {"mask"}


def window_of(cell: Cell) -> Any:
    """The steps in which all that a cell removes and edits acts; None: all steps, or not the same for all of it."""
    found = _windows(cell)
    return found[0] if found and all(one == found[0] for one in found) else None


def _windows(cell: Cell) -> list[Any]:
    """The steps of each thing that a cell does, None for all steps."""
    return ([cell.window] if cell.ablate or cell.placebo else []) + [_window(_where(edit)) for edit in cell.edits]


def _where(edit: Mapping[str, Any]) -> Select:
    """Where and when an edit acts, however that was written. A mask, which may be a file, stays with the edit."""
    return Select.of({key: value for key, value in edit.items() if key in LIMITS})


def _window(where: Select) -> Any:
    if where.sigma is not None:
        return ":".join("" if math.isinf(end) else f"{end:g}" for end in where.sigma)
    return None if where.steps is None else plain(where.steps)


def series_of(study: Study, windowed: Iterable[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Title -> cells, of which those in `windowed` act in a window; to them come those that do the same in all steps."""
    groups: dict[str, list[str]] = {}
    for name in windowed:
        groups.setdefault(_rest(study.cells[name]), []).append(name)
    for name in names:
        cell = study.cells[name]
        if cell.placebo is None and not any(one is not None for one in _windows(cell)) and _rest(cell) in groups:
            groups[_rest(cell)].append(name)
    titles = [_title(study, group) for group in groups.values()]
    said = [title if titles.count(title) == 1 else _words(study.cells[group[0]]) for title, group in zip(titles, groups.values())]
    return dict(zip(said, groups.values()))


def _rest(cell: Cell) -> str:
    """All that decides what a cell does, but when."""
    told = cell.model_dump(mode="json", exclude={"window", "edits", "axes", "note", "pairs_with"}, exclude_defaults=True)
    return json.dumps([told, [_untimed(edit) for edit in cell.edits]], sort_keys=True, default=str)


def _untimed(edit: Mapping[str, Any]) -> dict[str, Any]:
    """An edit without the steps in which it acts, its selection in one string."""
    at = str(replace(_where(edit), steps=None, sigma=None))
    return {**{key: value for key, value in edit.items() if key not in LIMITS}, "at": at}


def _title(study: Study, group: Sequence[str]) -> str:
    """The values of the axes that these cells share; without such, what they do."""
    first, *others = (study.cells[name] for name in group)
    shared = [axis for axis, value in first.axes.items() if all(cell.axes.get(axis) == value for cell in others)]
    values = [str(first.axes[axis]) for axis in shared if axis != "window"]
    return " ".join(value for value in values if value != str(window_of(first))) or _words(first)


def _words(cell: Cell) -> str:
    """What a cell does, but when."""
    words = [*cell.ablate, *(f"{stage}={variant}" for stage, variant in cell.swap.items())]
    for edit in map(_untimed, cell.edits):
        words += [str(edit.pop("kind")), str(edit.pop("at")), *(f"{key}={value}" for key, value in edit.items())]
    words += [f"branch={cell.branch}"] if cell.branch is not None else []
    words += [f"{key}={value}" for key, value in cell.sampler.model_dump(exclude_none=True).items()]
    words += [f"train={cell.train.part}"] if cell.train is not None else []
    return " ".join(words)
