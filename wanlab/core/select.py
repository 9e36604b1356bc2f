"""Selections: which sites, which part of their tensors, and when; plain data, as keywords or as one string.

    Select("generator.**.attn.z", heads=2, frames="4:", steps="0:8", branch="cond")
    generator.**.attn.z[heads=2,frames=4:]@steps=0:8,branch=cond
"""

from __future__ import annotations

import math
from abc import ABCMeta
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

from wanlab.core.clock import Plan, Tick
from wanlab.core.grammar import AXIS_OF, PARTS, TIMES, SelectionError, join, split
from wanlab.core.index import holds, index, plain
from wanlab.core.mask import Mask
from wanlab.core.nearest import suggestion
from wanlab.core.pattern import compiled
from wanlab.core.quote import quoted

__all__ = ["AXIS_OF", "PARTS", "TIMES", "Limits", "Select", "SelectionError"]


class _Told(ABCMeta):
    """Says the nearest right keyword where dataclasses only say that one is unexpected."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        known = [one.name for one in fields(cls) if one.init]  # type: ignore[arg-type]  # each is a dataclass
        for key in kwargs:
            if key not in known:
                raise TypeError(f"{cls.__name__} has no {key!r}{suggestion(key, known)}")
        return super().__call__(*args, **kwargs)


@dataclass(frozen=True)
class Limits(metaclass=_Told):
    """A pattern `at` of site names with limits; None means no limit. Selections and edits are made of it.

    heads, frames, tokens, keys, slots, channels, units, groups, rows: positions on the axes k f n j m c d g b (with
    Python's meaning of negative numbers and slices). words: the tokens of words of the prompt, on axis j, else n, in
    branch `cond` unless told otherwise. mask: of the picture, at any resolution (`Mask`). steps, branch: when; sigma:
    (low, high), which steps="0.3:0.8" means too.
    """

    at: str
    _: KW_ONLY
    heads: Any = None
    frames: Any = None
    tokens: Any = None
    keys: Any = None
    slots: Any = None
    channels: Any = None
    units: Any = None
    groups: Any = None
    rows: Any = None
    words: Any = None
    mask: Any = None
    steps: Any = None
    sigma: Any = None
    branch: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.at, str):
            raise SelectionError(f"a site is named by a string, not by {quoted(self.at)}")
        at, told = split(self.at)
        compiled(at)
        object.__setattr__(self, "at", at)
        for key, value in told.items():
            self._tell(key, value)
        if (levels := _levels(self.steps)) is not None:
            object.__setattr__(self, "steps", None)
            self._tell("sigma", levels)
        for key in (*AXIS_OF, "steps"):
            object.__setattr__(self, key, index(getattr(self, key), key))
        for key, read in (("words", _names), ("branch", _names), ("sigma", _range)):
            object.__setattr__(self, key, read(getattr(self, key), key))
        object.__setattr__(self, "mask", Mask.of(self.mask))

    def _tell(self, key: str, value: Any) -> None:
        if getattr(self, key) is not None:
            raise SelectionError(f"{key} is given twice: {quoted(getattr(self, key))} and {quoted(value)}")
        object.__setattr__(self, key, value)

    @property
    def limits(self) -> dict[str, Any]:
        """What is limited, by keyword, in canonical form."""
        return {key: getattr(self, key) for key in (*PARTS, *TIMES) if getattr(self, key) is not None}

    def _typed(self) -> list[str]:
        """The limits as one would type them: name=value."""
        told = {key: str(value) if key == "mask" else _ends(value) if key == "sigma" else plain(value)
                for key, value in self.limits.items()}
        return [f"{key}={value!r}" for key, value in told.items()]


@dataclass(frozen=True, repr=False)
class Select(Limits):
    """A selection: read from one string or from keywords, written as either, equal however it was written."""

    @classmethod
    def of(cls, value: Select | str | Mapping[str, Any]) -> Select:
        """A selection from a selection, one string, or a mapping (as in YAML). Raises SelectionError for anything else."""
        if isinstance(value, Select):
            return value
        if isinstance(value, str):
            return cls(value)
        if not isinstance(value, Mapping) or "at" not in value:
            raise SelectionError(f"a selection is a string or a mapping with at, not {quoted(value)}")
        known = ["at", *PARTS, *TIMES]
        for key in value:
            if key not in known:
                raise SelectionError(f"a selection has no {quoted(key)}{suggestion(str(key), known)}")
        return cls(**value)

    def acts(self, tick: Tick, plan: Plan, site: str) -> bool:
        """Whether the selection covers this moment; SelectionError where it asks for a step and `site` fires outside any."""
        for what, got, noun in (("steps", tick.step, "step"), ("sigma", tick.sigma, "step"),
                                ("branch", tick.branch, "branch")):
            if getattr(self, what) is not None and got is None:
                raise SelectionError(f"{site} fires outside any {noun}, so {what}= cannot limit it: leave it out, or, in "
                                     f"a loop of your own, say where it is: with wanlab.core.clock.at(step=i, branch='cond')")
        if self.steps is not None and not holds(self.steps, tick.step, plan.steps, "steps"):  # type: ignore[arg-type]  # known
            return False
        if self.sigma is not None and not self.sigma[0] <= tick.sigma <= self.sigma[1]:
            return False
        return self.covers(tick.branch)

    def covers(self, branch: str | None) -> bool:
        """Whether the branch is meant. Words are the prompt's, and the prompt stands in `cond`."""
        if self.branch is not None:
            return branch in self.branch
        return self.words is None or branch in (None, "cond")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML, without what is not limited; `Select.of` reads it back."""
        out: dict[str, Any] = {"at": self.at}
        for key, value in self.limits.items():
            if key == "sigma":
                out[key] = [None if math.isinf(end) else end for end in value]
            else:
                out[key] = value.to_dict() if key == "mask" else plain(value)
        return out

    def content(self) -> dict[str, Any]:
        """As `to_dict`, but a mask by what it holds, wherever it lies: for hashes."""
        return self.to_dict() | ({} if self.mask is None else {"mask": self.mask.text})

    def __str__(self) -> str:
        """The one-string form, which reads back to this selection; equal selections have equal strings."""
        values = {key: (value,) if key == "mask" else value for key, value in self.limits.items()}
        return join(self.at, values | ({} if self.sigma is None else {"sigma": (_ends(self.sigma),)}))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([repr(self.at), *self._typed()])})"


# ------------------------------------------------------------------------------------------------ canonical values

def _names(value: Any, what: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    many = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else value
    names = list(many)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise SelectionError(f"{what}={quoted(value)}: expected a name or a list of names")
    return tuple(dict.fromkeys(names))


def _levels(steps: Any) -> Any:
    """The noise levels, where `steps` means such: "0.3:0.8", or two floats; None where it means positions."""
    one = steps[0] if isinstance(steps, (list, tuple)) and len(steps) == 1 else steps
    if isinstance(one, str):
        return one if "." in one and ":" in one else None
    pair = isinstance(one, (list, tuple)) and len(one) == 2 and any(isinstance(end, float) for end in one)
    return one if pair else None


def _range(value: Any, what: str) -> tuple[float, float] | None:
    if value is None:
        return None
    ends = [end.strip() or None for end in value.split(":")] if isinstance(value, str) else value
    try:
        low, high = (math.inf * side if end is None else float(end) for end, side in zip(ends, (-1, 1), strict=True))
    except (TypeError, ValueError):
        raise SelectionError(f"{what}={quoted(value)}: expected two ends, (low, high) or 'low:high'") from None
    if not low <= high:
        raise SelectionError(f"{what}={quoted(value)}: low is above high")
    return low, high


def _ends(sigma: tuple[float, float]) -> str:
    return ":".join("" if math.isinf(end) else repr(end) for end in sigma)
