"""Mean and covariance of a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from wanlab.core.stat import Moment, Statistic, StatisticError, axes_named, wide

CHUNK = 2**22       # values that are widened to float64 at once: what that takes beside the state is bounded


class MeanStat(Statistic):
    """The mean. Apart stay all axes but samples (b), unless `per` names which."""

    name, STATE = "mean", ("_sum",)
    OPTIONS: ClassVar = {"per": axes_named}

    def __init__(self, source: Sequence[str], per: Sequence[str] | None = None) -> None:
        super().__init__(source, [axis for axis in source if axis != "b"] if per is None else per)
        self.axes, self._sum = self.per, torch.zeros((), dtype=torch.float64)

    def options(self) -> dict[str, Any]:
        return {"per": self.per}

    def _add(self, x: Tensor, at: Moment) -> None:
        pooled = self._apart(x)
        total = pooled.sum(-1, dtype=torch.float64).cpu()
        self._finite(total)
        self._fits(total.shape, self._sum.shape)
        self._sum, self.count = self._sum + total, self.count + pooled.shape[-1]

    def _merge(self, other: Self) -> None:
        self._fits(other._sum.shape, self._sum.shape)
        self._sum, self.count = self._sum + other._sum, self.count + other.count

    @property
    def value(self) -> Tensor:
        self._some()
        return (self._sum / self.count).float()

    def forecast(self, sizes: Mapping[str, int]) -> int:
        return 8 * prod(sizes[axis] for axis in self.per)


class CovarianceStat(Statistic):
    """Mean and covariance of the features (axis c, else d) over all positions, by the updates of Chan, Golub & LeVeque 1983.

    They never subtract large sums from each other, so that a mean of a thousand standard deviations costs no digits.
    `per` keeps axes apart: one covariance for each of their positions. StatisticError where no features are left.
    """

    name, STATE = "covariance", ("_mean", "_square")
    OPTIONS: ClassVar = {"per": axes_named}

    def __init__(self, source: Sequence[str], per: Sequence[str] = ()) -> None:
        super().__init__(source, per)
        feature = next((axis for axis in ("c", "d") if axis in source and axis not in per), None)
        if feature is None:
            raise StatisticError(f"a covariance needs features (axis c or d), but the axes are '{' '.join(source)}'")
        self._feature, self.axes = feature, (*self.per, feature, f"{feature}'")
        self._mean = self._square = torch.zeros((), dtype=torch.float64)

    def _add(self, x: Tensor, at: Moment) -> None:
        self._finite(x)
        apart = self._apart(x, last=[self._feature])
        self._fits(torch.Size([*apart.shape[:-2], apart.shape[-1]]), self._mean.shape)
        positions = max(1, CHUNK * apart.shape[-2] // apart.numel())
        for part in apart.split(positions, -2):
            flat = wide(part)
            mean = flat.mean(-2)
            centred = flat - mean.unsqueeze(-2)
            self._take(flat.shape[-2], mean.cpu(), (centred.mT @ centred).cpu())

    def _merge(self, other: Self) -> None:
        self._fits(other._mean.shape, self._mean.shape)
        self._take(other.count, other._mean, other._square)

    def _take(self, count: int, mean: Tensor, square: Tensor) -> None:
        total, shift = self.count + count, mean - self._mean
        self._square = self._square + square + shift.unsqueeze(-1) * shift.unsqueeze(-2) * (self.count * count / total)
        self._mean = self._mean + shift * (count / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """The mean of each feature, float32."""
        self._some()
        return self._mean.float()

    @property
    def value(self) -> Tensor:
        """The unbiased covariance, float32, features x features."""
        self._some(2)
        return (self._square / (self.count - 1)).float()

    def forecast(self, sizes: Mapping[str, int]) -> int:
        width = sizes[self._feature]
        return 8 * prod(sizes[axis] for axis in self.per) * (width + 1) * width
