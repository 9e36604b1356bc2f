"""Firings: when a value was kept, and several of them side by side."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from wanlab.core.clock import Tick
from wanlab.core.entry import Entry
from wanlab.core.label import Label, RecordError


class Key(NamedTuple):
    """One firing: the name, when, and the number of the call where a site fires several times at one moment.

    The name is the site's; with " -> mean" and the like for a statistic, with limits where captures of a site differ.
    """

    site: str
    step: int | None = None
    branch: str | None = None
    call: int = 0

    def __str__(self) -> str:
        return f"{self.site} ({Tick(self.step, None, self.branch)}{f', call {self.call}' if self.call else ''})"

    def fits(self, wanted: Key) -> bool:
        """Whether this is a firing that `wanted` means; None there means any."""
        return wanted.step in (None, self.step) and wanted.branch in (None, self.branch)


def site_of(name: str) -> str:
    """The site that a name of a record begins with: "a.b[frames=0] -> mean" is of "a.b"."""
    return re.split(r" -> |\[|@", name, maxsplit=1)[0]


def moments(keys: list[Key]) -> str:
    """The moments of firings, in words; the first six."""
    told = [str(Tick(key.step, None, key.branch)) for key in keys]
    return "; ".join(told[:6]) + (f" and {len(told) - 6} more" if len(told) > 6 else "")


def stacked(parts: Mapping[Key, Entry], steps: int | None, sigmas: Mapping[int | None, float],
            branches: Sequence[str]) -> Entry:
    """Firings of one name as one entry: leading axes s, branch and call, where there are several.

    steps: how many the run had; sigmas: of each step, where known, as labels; branches: in the order of the run, which that
    of gradients is not. RecordError where the firings do not form a rectangle, or differ in shape.
    """
    keys = list(parts)
    leading = {"s": _values(keys, "step"), "branch": _values(keys, "branch"), "call": _values(keys, "call")}
    for axis in ("s", "call"):
        leading[axis].sort(key=lambda value: -1 if value is None else value)
    leading["branch"].sort(key=lambda value: branches.index(value) if value in branches else len(branches))
    axes = [axis for axis, values in leading.items() if len(values) > 1 or (axis == "s" and values != [None])]
    expected = int(np.prod([len(leading[axis]) for axis in axes], initial=1))
    if expected != len(keys):
        raise RecordError(f"{keys[0].site} did not fire in every branch of every step: {moments(keys)}; "
                          "ask for (site, step, branch)")
    ranked = sorted(keys, key=lambda key: tuple(leading[axis].index(_part(key, axis)) for axis in axes))
    side = [parts[key] for key in ranked]
    first = side[0]
    coords = {axis: tuple(leading[axis]) for axis in axes} | dict(first.coords)
    if "branch" not in axes and leading["branch"] != [None]:
        coords["branch"] = leading["branch"][0]
    if not axes:
        return replace(first, coords=coords)
    if len({part.tensor.shape for part in side}) > 1:
        raise RecordError(f"{keys[0].site} fired with different shapes: ask for (site, step, branch)")
    if any(dict(part.coords) != dict(first.coords) for part in side):
        raise RecordError(f"{keys[0].site} is held at different positions for {moments(keys)}: ask for (site, step, branch)")
    sizes = [len(leading[axis]) for axis in axes]
    one = first.tensor.unsqueeze(0) if len(side) == 1 else torch.stack([part.tensor for part in side])
    full = {**first.full, **({"s": steps} if "s" in axes and steps is not None else {})}
    labels = _stacked_labels(side, axes, sizes)
    if "s" in axes and all(step in sigmas for step in leading["s"]):
        labels["sigma"] = Label(("s",), np.array([sigmas[step] for step in leading["s"]]))
    return Entry(one.unflatten(0, sizes), (*axes, *first.axes), first.site, coords, labels, full)


def _stacked_labels(parts: list[Entry], axes: list[str], sizes: list[int]) -> dict[str, Label]:
    """The labels of parts that are stacked: once where all agree, else along those of the new axes where they differ."""
    found = {}
    for name in dict.fromkeys(name for part in parts for name in part.labels):
        held = next(part.labels[name] for part in parts if name in part.labels)
        none = np.zeros_like(held.values)
        values = np.stack([part.labels[name].values if name in part.labels else none for part in parts])
        values, along = values.reshape(*sizes, *held.values.shape), list(axes)
        for axis in axes:
            at = along.index(axis)
            first = values.take([0], at)
            if (values == first).all():
                values, along = first.squeeze(at), [one for one in along if one != axis]
        found[name] = Label((*along, *held.axes), values)
    return found


def _values(keys: list[Key], name: str) -> list[Any]:
    return list(dict.fromkeys(getattr(key, name) for key in keys))


def _part(key: Key, axis: str) -> Any:
    return {"s": key.step, "branch": key.branch, "call": key.call}[axis]
