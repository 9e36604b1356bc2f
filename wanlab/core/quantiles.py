"""Quantiles of a stream: counts in buckets of equal relative width, after DDSketch (Masson, Rim & Lee, VLDB 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from wanlab.core.entry import Entry
from wanlab.core.stat import Moment, Statistic, StatisticError, axes_named, wide

AT = (0.0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1.0)
LOWEST = -64                # magnitudes below 2^-64 count as 0
CHUNK = 2**22               # values that are sorted in at once: what that takes beside the counts is bounded
EXPECTED = 32               # octaves of magnitude that the values of a network usually span


def _error(text: str) -> float:
    error = float(text)
    if not 2**-14 <= error <= 0.25:
        raise ValueError("expected a relative error from 0.0001 to 0.25")
    return error


class QuantileStat(Statistic):
    """Quantiles of all values together, or one set for each position of the axes `per`.

    Each octave of magnitude is cut into equal buckets, and a value is known by its bucket alone: a quantile (numpy's
    default, linear between the two neighbouring values) is off by at most `error` times the larger of their magnitudes
    (plus 2^-64); minimum and maximum are exact. Buckets are counted, so a merge of parts equals the whole exactly, in any
    order. Memory: 8 bytes x buckets x octaves seen x 2 signs x positions of `per`. By default error is 0.001 for all
    values together (8 KiB an octave), and 0.02 with `per` (512 bytes an octave and position).
    """

    name, STATE = "quantiles", ("_counts", "_zeros", "_low", "_high")
    OPTIONS: ClassVar = {"error": _error, "per": axes_named}

    def __init__(self, source: Sequence[str], error: float | None = None, per: Sequence[str] = ()) -> None:
        super().__init__(source, per)
        self._asked, self._fine = error, _buckets(error, per)
        self.axes, self._first = ("q", *self.per), 0        # _first: the exponent of the first octave held
        self._counts = torch.zeros(0, 2, 0, self._fine, dtype=torch.int64)      # position, sign, octave, bucket
        self._zeros = torch.zeros(0, dtype=torch.int64)
        self._low = self._high = torch.zeros((), dtype=torch.float64)

    @property
    def error(self) -> float:
        """The bound of the relative error."""
        return 1 / (2 * self._fine)

    def options(self) -> dict[str, Any]:
        return ({} if self._asked is None else {"error": self._asked}) | super().options()

    def _add(self, x: Tensor, at: Moment) -> None:
        self._finite(x)
        apart = self._apart(x)
        shape, flat = apart.shape[:-1], apart.reshape(-1, apart.shape[-1])
        self._fits(shape, self._low.shape)
        low, high = (end.cpu().double().reshape(shape) for end in torch.aminmax(flat, dim=-1))
        if self.count == 0:
            self._counts = self._counts.new_zeros(len(flat), 2, 0, self._fine)
        zeros = reduce(torch.add, (self._sort_in(part) for part in flat.split(max(1, CHUNK // len(flat)), -1)))
        self._take(zeros, low, high, apart.shape[-1])

    def _sort_in(self, flat: Tensor) -> Tensor:
        """Count values (positions x samples) in their buckets; returns how many are 0 at each position."""
        flat = flat if flat.dtype in (torch.float32, torch.float64) else wide(flat)
        mantissa, exponent = torch.frexp(flat)
        zero = (exponent <= LOWEST) | (flat == 0)
        held = exponent[~zero]
        if held.numel():
            self._grow(int(held.min()), int(held.max()) + 1)
        bucket = ((mantissa.abs() * 2 - 1) * self._fine).long()
        row = torch.arange(len(flat), device=flat.device).unsqueeze(-1) * 2 + (flat < 0)
        cell = (row * self._counts.shape[2] + (exponent - self._first)) * self._fine + bucket
        counted = torch.bincount(cell[~zero], minlength=self._counts.numel()).cpu()
        self._counts += counted.reshape(self._counts.shape)
        return zero.sum(-1).cpu()

    def _merge(self, other: Self) -> None:
        self._fits(other._low.shape, self._low.shape)
        if self.count == 0:
            self._counts = self._counts.new_zeros(len(other._counts), 2, 0, self._fine)
        octaves = other._counts.shape[2]
        if octaves:
            self._grow(other._first, other._first + octaves)
            begin = other._first - self._first
            self._counts[:, :, begin:begin + octaves] += other._counts
        self._take(other._zeros, other._low, other._high, other.count)

    def _take(self, zeros: Tensor, low: Tensor, high: Tensor, count: int) -> None:
        some = self.count > 0
        self._zeros = self._zeros + zeros if some else zeros.clone()
        self._low = torch.minimum(self._low, low) if some else low.clone()
        self._high = torch.maximum(self._high, high) if some else high.clone()
        self.count += count

    def _grow(self, first: int, end: int) -> None:
        """Make room for the octaves from `first` to before `end`."""
        octaves = self._counts.shape[2]
        if octaves:
            first, end = min(first, self._first), max(end, self._first + octaves)
        if end - first > octaves:
            grown = self._counts.new_zeros(len(self._counts), 2, end - first, self._fine)
            grown[:, :, self._first - first:self._first - first + octaves] = self._counts if octaves else 0
            self._counts, self._first = grown, first

    # -- reading
    def quantile(self, q: float | Sequence[float]) -> Tensor:
        """The values below which a part `q` (0 to 1) of all lies: float32, axes q (where several) and `per`.

        StatisticError for parts outside.
        """
        asked = torch.tensor([q] if isinstance(q, (int, float)) else list(q), dtype=torch.float64)
        if not asked.numel() or not ((asked >= 0) & (asked <= 1)).all():
            raise StatisticError(f"quantiles are asked for by parts from 0 to 1, not by {q}")
        self._some()
        edges, counts = self._sorted()
        rank = asked * (self.count - 1)
        upto = counts.cumsum(-1)
        low, high = (edges[torch.searchsorted(upto, at.long().expand(len(upto), -1).contiguous(), right=True)
                           .clamp(max=len(edges) - 1)] for at in (rank.floor(), rank.ceil()))
        value = low + (high - low) * (rank - rank.floor())
        value = torch.where(asked == 0, self._low.reshape(-1, 1), torch.where(asked == 1, self._high.reshape(-1, 1), value))
        value = value.clamp(self._low.reshape(-1, 1), self._high.reshape(-1, 1)).T.reshape(-1, *self._low.shape).float()
        return value[0] if isinstance(q, (int, float)) else value

    def _sorted(self) -> tuple[Tensor, Tensor]:
        """The middle of each bucket, ascending, and the counts there (positions x buckets)."""
        scale = 2.0 ** torch.arange(self._first - 1, self._first - 1 + self._counts.shape[2], dtype=torch.float64)
        part = (torch.arange(self._fine, dtype=torch.float64) + 0.5) / self._fine
        middle = (scale.unsqueeze(-1) * (1 + part)).flatten()
        above, below = self._counts.flatten(2).unbind(1)
        return (torch.cat([-middle.flip(0), torch.zeros(1, dtype=torch.float64), middle]),
                torch.cat([below.flip(-1), self._zeros.unsqueeze(-1), above], -1))

    @property
    def value(self) -> Tensor:
        """The quantiles at `AT`."""
        return self.quantile(AT)

    def entry(self, site: str = "") -> Entry:
        return Entry(self.value, self.axes, site, {"q": AT, **self.coords})

    # -- as data
    def told(self) -> dict[str, Any]:
        return super().told() | {"first": self._first}

    def _restore(self, told: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        super()._restore(told, state)
        self._first = told["first"]

    def forecast(self, sizes: Mapping[str, int]) -> int:
        return 8 * prod(sizes[axis] for axis in self.per) * 2 * EXPECTED * self._fine


def _buckets(error: float | None, per: Sequence[str]) -> int:
    """How many buckets an octave needs so that its middle is within `error` of everything in it."""
    asked = (0.02 if per else 0.001) if error is None else error
    number: int = 2 ** math.ceil(math.log2(1 / (2 * asked)))
    return number
