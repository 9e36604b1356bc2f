"""Statistics of a site that are streamed in constant memory: add tensors, merge parts, read out.

Sums run in float64: parts merged give what the whole gives, to rounding. Each kind registers by its name:

    "site -> mean"  "site -> mean(per=c)"  "site -> covariance(per=k)"  "site -> quantiles"  "site -> topk(k=32,per=c)"
    "site -> sample(k=256,per=b)"
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from wanlab.core.clock import Tick
from wanlab.core.entry import Entry
from wanlab.core.label import Label
from wanlab.core.nearest import suggestion

STATISTICS: dict[str, type[Statistic]] = {}


class StatisticError(ValueError):
    """A statistic of nothing, of values that are not finite, or of parts that do not belong together."""


@dataclass(frozen=True)
class Moment:
    """Where a tensor that is added came from: step and branch, the seeds of its rows, positions where an axis was cut."""

    tick: Tick = field(default_factory=Tick)
    seeds: tuple[int, ...] | None = None
    coords: Mapping[str, Sequence[int]] = field(default_factory=dict)


class Statistic(ABC):
    """Base of all kinds. `source` are the axes of what is added, `axes` those of the value, `count` the samples of each
    number (positions that were pooled into it). StatisticError for an axis to keep apart that is not there."""

    name: ClassVar[str] = ""
    OPTIONS: ClassVar[Mapping[str, Callable[[str], Any]]] = {}
    STATE: ClassVar[tuple[str, ...]] = ()       # attributes that are tensors

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name:
            STATISTICS[cls.name] = cls

    def __init__(self, source: Sequence[str], per: Sequence[str] = ()) -> None:
        self.source, self.per, self.count = tuple(source), tuple(per), 0
        self.coords: dict[str, tuple[int, ...]] = {}        # the model's positions on axes of the value that were cut
        self.labels: dict[str, Label] = {}                  # further names of positions on axes of the value
        for axis in self.per:
            if axis not in self.source:
                raise StatisticError(f"{self.name}: there is no axis {axis!r} to keep apart; the axes are "
                                     f"'{' '.join(self.source)}'")

    axes: tuple[str, ...]

    @property
    @abstractmethod
    def value(self) -> Tensor:
        """The statistic, float32, with `axes`; StatisticError where too little was added."""

    @abstractmethod
    def _add(self, x: Tensor, at: Moment) -> None:
        """Take in one tensor that is not empty."""

    @abstractmethod
    def _merge(self, other: Self) -> None:
        """Take in another part that is not empty."""

    @abstractmethod
    def forecast(self, sizes: Mapping[str, int]) -> int:
        """Bytes that the state will take for tensors of these sizes."""

    def options(self) -> dict[str, Any]:
        """What the statistic was made with, beside the axes."""
        return {"per": self.per} if self.per else {}

    def add(self, x: Tensor, at: Moment | None = None) -> None:
        """Take in one tensor with the axes `source`.

        StatisticError for a tensor of other axes, and for NaN and infinity; the statistic stays as it was.
        """
        if x.ndim != len(self.source):
            raise StatisticError(f"a {self.name} over axes '{' '.join(self.source)}' cannot take in {tuple(x.shape)}")
        at = at or Moment()
        coords = {axis: tuple(held) for axis, held in at.coords.items() if axis in self.axes}
        if self.count:
            self._held_alike(coords)
        if x.numel():
            x = x.detach()
            self._add(x.cpu() if x.device.type == "mps" else x, at)         # which has no float64
            self.coords = coords

    def merge(self, other: Self) -> Self:
        """The statistic of both parts; neither is changed. StatisticError where they are not parts of one."""
        if type(other) is not type(self) or (other.source, other.options()) != (self.source, self.options()):
            raise StatisticError(f"{self} and {other} are not parts of one statistic")
        both: Self = self.restored(self.told(), {name: getattr(self, name).clone() for name in self.STATE})
        if other.count:
            if self.count:
                self._held_alike(other.coords)
            both._merge(other)
            both.coords, both.labels = dict(other.coords), dict(other.labels)
        return both

    def entry(self, site: str = "") -> Entry:
        """The value with its axes, as a record holds it."""
        return Entry(self.value, self.axes, site, self.coords, self.labels)

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return sum(part.numel() * part.element_size() for part in self.state().values())

    # -- as data
    def state(self) -> dict[str, Tensor]:
        """The tensors that the statistic consists of."""
        return {name: getattr(self, name) for name in self.STATE}

    def told(self) -> dict[str, Any]:
        """All but the tensors, as plain data."""
        labels = {name: [list(label.axes), label.values.tolist()] for name, label in self.labels.items()}
        return {"name": self.name, "source": list(self.source), "options": self.options(), "count": self.count,
                "coords": self.coords} | ({"labels": labels} if labels else {})

    @staticmethod
    def restored(told: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
        """The statistic that `told` and `state` describe."""
        stat = statistic(told["name"], tuple(told["source"]), told["options"])
        stat._restore(told, state)
        return stat

    def _restore(self, told: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        self.count = told["count"]
        self.coords = {axis: tuple(held) for axis, held in told["coords"].items()}
        self.labels = {name: Label(tuple(axes), np.array(values)) for name, (axes, values) in told.get("labels", {}).items()}
        for name in self.STATE:
            setattr(self, name, state[name])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Statistic):
            return NotImplemented
        mine, theirs = self.state(), other.state()
        return _plain(self.told()) == _plain(other.told()) and all(torch.equal(mine[name], theirs[name]) for name in mine)

    __hash__ = None     # type: ignore[assignment]  # equal by value, so there is no hash

    def __repr__(self) -> str:
        return f"{self.name}({' '.join(self.source)} -> {' '.join(self.axes)}, count {self.count})"

    # -- for the kinds
    def _some(self, least: int = 1) -> None:
        if self.count < least:
            raise StatisticError(f"a {self.name} needs at least {least} {'sample' if least == 1 else 'samples'}, "
                                 f"{self.count or 'none'} added")

    def _finite(self, x: Tensor) -> None:
        if not torch.isfinite(x).all():
            raise StatisticError(f"a {self.name} of NaN or infinite values would be lost: watch_finite=True finds where "
                                 "they come from")

    def _fits(self, shape: torch.Size, held: torch.Size) -> None:
        if self.count and shape != held:
            raise StatisticError(f"a {self.name} of shape {tuple(held)} cannot take in {tuple(shape)}: the sizes changed")

    def _held_alike(self, coords: Mapping[str, tuple[int, ...]]) -> None:
        if coords != self.coords:
            mine, theirs = (", ".join(f"{axis} {list(held)}" for axis, held in one.items()) or "all" for one in
                            (self.coords, coords))
            raise StatisticError(f"a {self.name} of positions {mine} cannot take in {theirs}")

    def _apart(self, x: Tensor, last: Sequence[str] = ()) -> Tensor:
        """`x` as (per..., everything else, last...): what is kept apart, what is pooled, what stays."""
        pooled = [axis for axis in self.source if axis not in (*self.per, *last)]
        order = [self.source.index(axis) for axis in (*self.per, *pooled, *last)]
        kept, end = len(self.per), x.ndim - len(last)
        moved = x.permute(order)
        return moved.reshape(*moved.shape[:kept], prod(moved.shape[kept:end]), *moved.shape[end:])


def wide(x: Tensor) -> Tensor:
    """`x`, of any shape, as float64, on the device where it is: only what was reduced there moves."""
    return x.to(torch.float64)


def axes_named(text: str) -> tuple[str, ...]:
    """Axes as an option says them: "c|f"."""
    return tuple(axis for axis in re.split(r"[|\s]+", text) if axis)


# ------------------------------------------------------------------------------------------------ by name

_FORM = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:\((.*)\))?\s*", re.DOTALL)


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """"topk(k=16,per=c)" -> ("topk", {"k": 16, "per": ("c",)}). An option `by` is known to every kind.

    A first value without a name is that of the kind's first option. LookupError with the nearest names otherwise.
    """
    match = _FORM.fullmatch(text)
    if match is None or match[1] not in STATISTICS:
        raise LookupError(f"no statistic {text!r}{suggestion(match[1] if match else text, STATISTICS)}")
    known: dict[str, Callable[[str], Any]] = {**STATISTICS[match[1]].OPTIONS, "by": _parts_of_clock}
    options: dict[str, Any] = {}
    for i, part in enumerate(filter(str.strip, (match[2] or "").split(","))):
        key, _, value = (one.strip() for one in (part if "=" in part or i else f"{next(iter(known))}={part}").partition("="))
        if key not in known or key in options:
            raise LookupError(f"{text!r}: {match[1]} has no {key!r}{suggestion(key, known)}" if key not in known else
                              f"{text!r}: {key} is given twice")
        try:
            options[key] = known[key](value)
        except ValueError as error:
            raise LookupError(f"{text!r}: {key}={value} ({error})") from error
    return match[1], options


def canonical(name: str, options: Mapping[str, Any]) -> str:
    """The canonical text of a statistic with options; `parse` reads it back."""
    known = [*STATISTICS[name].OPTIONS, "by"]
    parts = [f"{key}={'|'.join(options[key]) if isinstance(options[key], tuple) else options[key]}"
             for key in known if key in options]
    return f"{name}({','.join(parts)})" if parts else name


def statistic(name: str, source: Sequence[str], options: Mapping[str, Any] = {}) -> Any:
    """A new statistic of tensors with the axes `source`; LookupError, with the nearest, for an unknown name."""
    if name not in STATISTICS:
        raise LookupError(f"no statistic {name!r}{suggestion(name, STATISTICS)}")
    return STATISTICS[name](tuple(source), **{key: value for key, value in options.items() if key != "by"})


def _parts_of_clock(text: str) -> tuple[str, ...]:
    parts = axes_named(text)
    for part in parts:
        if part not in ("step", "branch"):
            raise ValueError(f"no {part!r}{suggestion(part, ('step', 'branch'))}")
    return tuple(sorted(parts, reverse=True))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
