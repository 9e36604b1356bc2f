"""Labels: further names of the positions that a record holds; and how positions are told when something is not there."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class RecordError(LookupError):
    """Something that a record does not hold, or holds in a shape that does not fit."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Label(NamedTuple):
    """Further names of positions: one value for each position along `axes` (the word at a token, the frame of a maximum)."""

    axes: tuple[str, ...]
    values: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Label) and self.axes == other.axes and self.values.tolist() == other.values.tolist()


def short(values: Any) -> str:
    """Positions as text, those in the middle left out where there are many."""
    if not isinstance(values, tuple):
        return str(values)
    told = [str(value) for value in values]
    return ", ".join(told if len(told) < 9 else [*told[:4], "...", *told[-2:]])
