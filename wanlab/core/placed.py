"""Statistics that keep single values or rows, with the places where they stood: sample, step, branch, frame, token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from wanlab.core.entry import Entry
from wanlab.core.label import Label
from wanlab.core.stat import Moment, Statistic

NONE = -(2**63)             # no step, no branch, no seed


def number(text: str) -> int:
    """How many to keep, as an option says it."""
    k = int(text)
    if k < 1:
        raise ValueError("expected 1 or more")
    return k


class Placed(Statistic):
    """Base of such kinds. `_places` is (per..., rank, what): step, branch, position on each axis that is pooled, seed."""

    def __init__(self, source: Sequence[str], per: Sequence[str], last: Sequence[str] = ()) -> None:
        super().__init__(source, per)
        self.axes = (*self.per, "rank", *last)
        self._pooled = tuple(axis for axis in self.source if axis not in (*self.per, *last))
        self._branches: list[str] = []
        self._places = torch.zeros(0, 0, dtype=torch.int64)

    def _placed(self, kept: np.ndarray, sizes: list[int], at: Moment) -> np.ndarray:
        """Step, branch, positions and seed of flat positions."""
        found = dict(zip(self._pooled, np.unravel_index(kept, sizes or [1]), strict=False))
        named = {axis: np.asarray(at.coords[axis])[found[axis]] if axis in at.coords else found[axis] for axis in found}
        seeds = np.full_like(kept, NONE) if at.seeds is None or "b" not in named else np.asarray(at.seeds)[named["b"]]
        step = NONE if at.tick.step is None else at.tick.step
        branch = NONE if at.tick.branch is None else self._branch(at.tick.branch)
        columns = [np.full_like(kept, step), np.full_like(kept, branch), *(named[axis] for axis in self._pooled), seeds]
        return np.stack([np.broadcast_to(column, kept.shape) for column in columns], -1).astype(np.int64)

    def _branch(self, name: str) -> int:
        """The rank of a branch by its name: equal values rank alike, whichever branch came first."""
        if name not in self._branches:
            names = sorted([*self._branches, name])
            if self.count:
                held = self._places[..., 1].clone()
                for i, old in enumerate(self._branches):
                    self._places[..., 1][held == i] = names.index(old)
            self._branches = names
        return self._branches.index(name)

    def _places_of(self, other: Self) -> Tensor:
        """The places of another part, branches numbered as here."""
        places = other._places.clone()
        for name in other._branches:
            self._branch(name)
        for i, name in enumerate(other._branches):
            places[..., 1][other._places[..., 1] == i] = self._branches.index(name)
        return places

    # -- reading
    @property
    def places(self) -> dict[str, np.ndarray]:
        """Where each stood, by name, shaped (per..., rank); what does not apply is left out."""
        self._some()
        names = ["s", "branch", *self._pooled, "seed"]
        columns = dict(zip(names, self._places.movedim(-1, 0).numpy(), strict=True))
        found = {name: column for name, column in columns.items() if not (column == NONE).any()}
        if "branch" in found:
            found["branch"] = np.array(self._branches)[found["branch"]]
        return found

    def entry(self, site: str = "") -> Entry:
        axes = (*self.per, "rank")
        return Entry(self.value, self.axes, site, self.coords, {name: Label(axes, at) for name, at in self.places.items()})

    # -- as data
    def told(self) -> dict[str, Any]:
        return super().told() | {"branches": list(self._branches)}

    def _restore(self, told: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        super()._restore(told, state)
        self._branches = list(told["branches"])
