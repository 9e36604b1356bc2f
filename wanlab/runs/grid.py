"""The grid of a study file: axes and their product, what moves in lockstep, what is left out, what is added.

    each: {edits: [{kind: zero}]}                                   what every cell of the grid starts from
    axes:
      block: {edits.0.at: {down0: generator.down.0.temporal.attn.z, mid: generator.mid.temporal.attn.z}}
      head: {edits.0.heads: [0, 1, 2, 3]}                           a path of a cell, and its values
      steps: {sampler.steps: [4, 8]}
    zip: [[block, head]]                                            these axes go in lockstep; all others are multiplied
    exclude: [{block: mid, steps: 4}]                               cells with these values are left out
    include: [{block: mid, set: {note: the narrowest}}]             cells with these values get further settings

Cells are named by their values: down0+head0+steps4. Everything here works on plain data, and every setting of a made
cell remembers where in the file it stands, so that a mistake is told once, there, however many cells share it.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wanlab.graph import digest

from .document import Loc, did_you_mean
from .part import below, part_of
from .spec import Cell

LIMIT = 200_000  # cells of one grid
LENGTH = 100  # letters of a cell's name, which is part of a folder's name
NAME = re.compile(r"[A-Za-z0-9_.+-]+")
ROW = {"include": "set"}  # the key of an entry that holds settings instead of an axis

Put = tuple[Loc, Any, Loc]  # a path of a cell, the value set there, where in the file that stands


@dataclass(frozen=True)
class Value:
    """One value of an axis: its name in the cell's name, what figures call it, as written, and what it sets."""

    name: str
    label: str | int | float | bool
    written: Any
    puts: tuple[Put, ...]
    source: Loc


@dataclass
class Grid:
    """What `expand` gives: cells as plain data, the place of each of their settings, mistakes as (place, text, at the key?)."""

    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    origins: dict[Loc, Loc] = field(default_factory=dict)
    problems: list[tuple[Loc, str, bool]] = field(default_factory=list)

    def wrong(self, place: Loc, text: str, at_key: bool = False) -> None:
        """Note a mistake."""
        self.problems.append((place, text, at_key))


def expand(data: Mapping[str, Any]) -> Grid:
    """The cells that `axes` and `placebo` of a study's data make; `data` has the form that `StudyFile` checks."""
    grid = Grid()
    if data.get("axes"):
        _product(data, grid)
    _placebos(data, grid)
    for name in grid.cells:
        if name in _written(data):
            grid.wrong(("cells", name), f"makes the cell {name!r}, which stands in cells already")
    return grid


def _product(data: Mapping[str, Any], grid: Grid) -> None:
    each = data.get("each") or {}
    axes = {name: list(_values(name, paths, grid)) for name, paths in data["axes"].items()}
    _unambiguous(data["axes"], grid)
    groups = _groups(axes, data.get("zip") or [], grid)
    if grid.problems:
        return
    count = math.prod(len(group) for group in groups)
    if count > LIMIT:
        grid.wrong(("axes",), f"{count:,} cells; a study has at most {LIMIT:,}", True)
        return
    everything: dict[tuple[str, ...], tuple[Value, ...]] = {}
    order = list(axes)
    for picks in itertools.product(*groups):
        chosen = {axis: value for pick in picks for axis, value in pick.items()}
        values = tuple(chosen[axis] for axis in order)
        everything[tuple(value.name for value in values)] = values
    rows: dict[tuple[str, ...], list[Put]] = {key: [] for key in everything}  # what is left, each with what include sets
    for number, entry in enumerate(data.get("exclude") or []):
        keys = _found(entry, axes, everything, ("exclude", number), grid)
        gone = [key for key in keys or () if rows.pop(key, None) is not None]
        if keys is not None and not gone:
            grid.wrong(("exclude", number), "leaves nothing out: " + ("left out already" if keys else "no cell has these values"))
    for number, entry in enumerate(data.get("include") or []):
        _include(entry, axes, everything, rows, ("include", number), grid)
    if not rows and not grid.problems:
        grid.wrong(("exclude",), "leaves out every cell of the grid", True)
    for key in [key for key in everything if key in rows]:
        _make(dict(zip(order, everything[key])), rows[key], each, grid)


def _values(axis: str, paths: Mapping[str, Any], grid: Grid) -> Iterator[Value]:
    """The values of an axis; several paths go in lockstep and share the names of the first."""
    columns: list[tuple[Loc, list[tuple[str | int, Any]]]] = []
    for text, given in paths.items():
        path = _path(text)
        if fault := _no_path(path):
            grid.wrong(("axes", axis, text), fault, True)
        columns.append((path, list(given.items() if isinstance(given, Mapping) else enumerate(given))))
    first = columns[0]
    lengths = [len(values) for _, values in columns]
    if len(set(lengths)) > 1:
        told = ", ".join(f"{text} {n}" for text, n in zip(paths, lengths))
        grid.wrong(("axes", axis), f"paths of one axis need equally many values: {told}", True)
        return
    seen: dict[str, int] = {}
    for number, (key, written) in enumerate(first[1]):
        source: Loc = ("axes", axis, next(iter(paths)), key)
        name = str(key) if isinstance(key, str) else _named(axis, written, number)
        if not NAME.fullmatch(name):
            grid.wrong(source, "a value's name is made of letters, digits and _ - + .", True)
        if name in seen:
            grid.wrong(source, f"makes the name {name!r}, as value {seen[name]} does: name the values, {{name: value}}")
        seen.setdefault(name, number)
        puts = [(path, values[number][1], ("axes", axis, text, values[number][0])) for text, (path, values) in zip(paths, columns)]
        label = key if isinstance(key, str) else written if isinstance(written, (str, int, float)) else name
        yield Value(name, label, written, tuple(puts), source)


def _named(axis: str, value: Any, number: int) -> str:
    """What a value is called in a cell's name: itself where it is a word, else after its axis."""
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(part, (Mapping, list)) for part in parts):
        text = f"{axis}{number}"
    elif all(isinstance(part, str) and part[:1].isalpha() for part in parts) and parts:
        text = "+".join(parts)
    else:
        text = axis + "-".join("none" if part is None else str(part) for part in parts)
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip("-")


def _path(text: str) -> Loc:
    return tuple(int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in str(text).split("."))


def _no_path(path: Loc) -> str | None:
    """Why this is no path of a cell, or None."""
    kind: Any = Cell
    for depth, step in enumerate(path):
        model = part_of(kind)
        if model is not None and step not in model.model_fields:
            under = f" below {'.'.join(map(str, path[:depth]))}" if depth else ""
            return f"no setting {step!r} of a cell{under}{did_you_mean(str(step), model.model_fields)}"
        kind = below(kind, step)
        if kind is None:
            return None
    return None


def _unambiguous(axes: Mapping[str, Any], grid: Grid) -> None:
    """Two axes that set one path would overwrite each other."""
    seen: dict[Loc, str] = {}
    for axis, paths in axes.items():
        for text in paths:
            path = _path(text)
            other = next((name for old, name in seen.items() if old[: len(path)] == path and name != axis), None)
            if other is not None:
                grid.wrong(("axes", axis, text), f"the axis {other} sets {text} too", True)
            seen.setdefault(path, axis)


def _groups(axes: Mapping[str, list[Value]], zips: Sequence[Sequence[str]], grid: Grid) -> list[list[dict[str, Value]]]:
    """What is multiplied: each axis alone, or the axes of one zip in lockstep, where the first of them stands."""
    partners: dict[str, Sequence[str]] = {}
    for number, names in enumerate(zips):
        for place, name in enumerate(names):
            if name not in axes:
                grid.wrong(("zip", number, place), f"no axis {name!r}{did_you_mean(name, axes)}")
            elif name in partners:
                grid.wrong(("zip", number, place), f"the axis {name} is in lockstep already")
            partners[name] = names
        lengths = {name: len(axes[name]) for name in names if name in axes}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            grid.wrong(("zip", number), f"axes in lockstep need equally many values: {told}")
    if grid.problems:
        return []
    groups = []
    for name in axes:
        names = partners.get(name, [name])
        if name == next(axis for axis in axes if axis in names):
            groups.append([dict(zip(names, values)) for values in zip(*(axes[axis] for axis in names))])
    return groups


def _found(
    entry: Mapping[str, Any],
    axes: Mapping[str, list[Value]],
    everything: Mapping[tuple[str, ...], tuple[Value, ...]],
    place: Loc,
    grid: Grid,
) -> list[tuple[str, ...]] | None:
    """The cells of the whole product that have the values of an entry; None where the entry names what is not there."""
    wanted: dict[int, set[str]] = {}
    before = len(grid.problems)
    for axis, given in entry.items():
        if axis == ROW.get(str(place[0])):
            continue
        if axis not in axes:
            grid.wrong((*place, axis), f"no axis {axis!r}{did_you_mean(axis, axes)}", True)
            continue
        for value in given if isinstance(given, list) else [given]:
            names = [one.name for one in axes[axis] if one.written == value or one.name == value or str(one.written) == str(value)]
            if not names:
                known = [one.name for one in axes[axis]]
                near = did_you_mean(str(value), known) or f"; it has {', '.join(known[:8])}"
                grid.wrong((*place, axis), f"the axis {axis} has no value {value!r}{near}")
            wanted.setdefault(list(axes).index(axis), set()).update(names)
    if len(grid.problems) > before:
        return None
    return [key for key in everything if all(key[index] in names for index, names in wanted.items())]


def _include(
    entry: Mapping[str, Any],
    axes: Mapping[str, list[Value]],
    everything: Mapping[tuple[str, ...], tuple[Value, ...]],
    rows: dict[tuple[str, ...], list[Put]],
    place: Loc,
    grid: Grid,
) -> None:
    """Further settings for the cells with these values; one that was left out comes back where every axis is named."""
    keys = _found(entry, axes, everything, place, grid)
    if not isinstance(entry.get("set") or {}, Mapping):
        grid.wrong((*place, "set"), "expected settings of a cell, {name: value}")
        return
    if keys is None:
        return
    whole = all(axis in entry for axis in axes)
    chosen = [key for key in keys if key in rows or whole]
    if not chosen:
        grid.wrong(place, "no cell has these values: all were left out" if keys else "no cell has these values")
    for key in chosen:
        puts = rows.setdefault(key, [])
        puts += [((name,), value, (*place, "set", name)) for name, value in (entry.get("set") or {}).items()]


def _make(chosen: Mapping[str, Value], more: Sequence[Put], each: Mapping[str, Any], grid: Grid) -> None:
    """One cell of the product: a value of each axis."""
    values = list(chosen.values())
    name = "+".join(value.name for value in values)
    if len(name) > LENGTH:
        name = f"{name[: LENGTH - 9]}-{digest(name)[:8]}"
    if name in grid.cells:
        grid.wrong(values[-1].source, f"a second cell of the name {name!r}: name the values, {{name: value}}")
        return
    cell: dict[str, Any] = copy.deepcopy(dict(each)) | {"axes": {axis: value.label for axis, value in chosen.items()}}
    origins: dict[Loc, Loc] = {(): values[-1].source} | {(key,): ("each", key) for key in each}
    for path, value, source in [*(put for one in values for put in one.puts), *more]:
        try:
            _put(cell, path, copy.deepcopy(value), merge=source[0] == "include")
        except LookupError as error:
            grid.wrong(source, str(error))
        origins[path] = source
    grid.cells[name] = cell
    grid.origins |= {("cells", name, *path): source for path, source in origins.items()}


def _put(data: Any, path: Loc, value: Any, merge: bool = False) -> None:
    """Set the value at a path of plain data; what is missing on the way is made. Raises LookupError where there is no way."""
    head: Any
    head, *rest = path
    if isinstance(data, list):
        if not isinstance(head, int) or head > len(data):
            raise LookupError(f"{head!r} is no place in a list of {len(data)}")
        if head == len(data):
            data.append(None)
    elif not isinstance(data, dict):
        raise LookupError(f"{head!r} lies inside the plain value {data!r}")
    if not rest:
        old = data[head] if isinstance(data, list) else data.get(head)
        data[head] = old | value if merge and isinstance(old, dict) and isinstance(value, dict) else value
        return
    below = data[head] if isinstance(data, list) else data.get(head)
    if below is None:
        below = data[head] = [] if isinstance(rest[0], int) else {}
    _put(below, tuple(rest), value)


def _placebos(data: Mapping[str, Any], grid: Grid) -> None:
    """A cell for each draw of each placebo, shown beside the cell that removes the same components in the same window."""
    given = data.get("placebo") or []
    known = {**_written(data), **grid.cells}
    for number, entry in enumerate([given] if isinstance(given, Mapping) else given):
        source: Loc = ("placebo", number)
        limits = {key: entry[key] for key in ("window", "branch") if entry.get(key) is not None}
        of = [entry["of"]] if isinstance(entry["of"], str) else entry["of"]
        twin = next((name for name, cell in known.items() if _same(cell, of, limits, data.get("sampler") or {})), None)
        shape = _named("", [*of, *(f"{key}{value}" for key, value in limits.items())], 0)
        for draw in range(entry.get("draws", 5)):
            name = f"placebo-{shape}+draw{draw}"
            if name in grid.cells:
                grid.wrong(source, f"the placebo of {', '.join(of)} stands twice")
                return
            pairs = {} if twin is None else {"pairs_with": twin}
            grid.cells[name] = {"placebo": {"of": of, "draw": draw, "seed": entry.get("seed", 0)}, **limits, **pairs}
            grid.origins[("cells", name)] = source
            grid.origins |= {("cells", name, "placebo", "of"): (*source, "of"), ("cells", name, "window"): (*source, "window")}


def _written(data: Mapping[str, Any]) -> dict[str, Any]:
    """The cells that stand in the file as mappings; what is wrong with others is told elsewhere."""
    cells = data.get("cells")
    return {name: cell or {} for name, cell in cells.items() if isinstance(cell or {}, dict)} if isinstance(cells, dict) else {}


SHOWN = ("axes", "note", "pairs_with")  # of a cell, what decides nothing


def _same(cell: Mapping[str, Any], of: Sequence[str], limits: Mapping[str, Any], sampler: Mapping[str, Any]) -> bool:
    """Whether a cell removes these components within these limits, and is else as the study says."""
    own = cell.get("sampler") or {}
    ablate = [cell["ablate"]] if isinstance(cell.get("ablate"), str) else cell.get("ablate")
    rest = {key: value for key, value in cell.items() if key not in ("ablate", "sampler", *SHOWN) and value not in (None, {}, [])}
    usual = isinstance(own, Mapping) and all(value in (None, sampler.get(key)) for key, value in own.items())
    return ablate == list(of) and rest == dict(limits) and usual
