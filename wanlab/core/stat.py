"""Statistics of a site that are streamed in constant memory: add tensors, merge parts, read out.

Sums run in float64 on the CPU: parts merged give what the whole gives, to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wanlab.core.nearest import suggestion


class MeanStat:
    """The mean over samples (axis b, where there is one) and over everything added; the other axes stay."""

    def __init__(self, axes: tuple[str, ...]) -> None:
        self.source, self.axes = axes, tuple(letter for letter in axes if letter != "b")
        self.count, self._sum = 0, torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Take in one tensor with the axes given at the start."""
        x = x.detach().to("cpu", torch.float64)
        rows = x.sum(self.source.index("b")) if "b" in self.source else x
        if self.count and rows.shape != self._sum.shape:
            raise ValueError(f"a mean of shape {tuple(self._sum.shape)} cannot take in {tuple(rows.shape)}")
        self._sum = self._sum + rows
        self.count += x.shape[self.source.index("b")] if "b" in self.source else 1

    def merge(self, other: MeanStat) -> MeanStat:
        """The statistic of both parts; neither is changed."""
        both = MeanStat(self.source)
        both.count, both._sum = self.count + other.count, self._sum + other._sum
        return both

    @property
    def value(self) -> Tensor:
        """The mean, float32, with `axes`."""
        return (self._sum / self.count).float()


class CovarianceStat:
    """Mean and covariance of the features (axis c, else d) over all positions added (Chan, Golub & LeVeque 1983)."""

    def __init__(self, axes: tuple[str, ...]) -> None:
        feature = next((letter for letter in ("c", "d") if letter in axes), None)
        if feature is None:
            raise ValueError(f"a covariance needs features (axis c or d), but the axes are '{' '.join(axes)}'")
        self.source, self.axes, self._feature = axes, (feature, f"{feature}'"), feature
        self.count, self._mean, self._square = 0, torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor) -> None:
        """Take in one tensor with the axes given at the start."""
        at = self.source.index(self._feature)
        flat = x.detach().to("cpu", torch.float64).movedim(at, -1).reshape(-1, x.shape[at])
        mean = flat.mean(0)
        self._take(len(flat), mean, (flat - mean).T @ (flat - mean))

    def merge(self, other: CovarianceStat) -> CovarianceStat:
        """The statistic of both parts; neither is changed."""
        both = CovarianceStat(self.source)
        for part in (self, other):
            if part.count:
                both._take(part.count, part._mean, part._square)
        return both

    def _take(self, count: int, mean: Tensor, square: Tensor) -> None:
        total, shift = self.count + count, mean - self._mean
        self._square = self._square + square + torch.outer(shift.expand(mean.shape), shift.expand(mean.shape)) * (
            self.count * count / total)
        self._mean = self._mean + shift * (count / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """The mean of each feature, float32."""
        return self._mean.float()

    @property
    def value(self) -> Tensor:
        """The unbiased covariance, float32, features x features."""
        return (self._square / max(self.count - 1, 1)).float()


Statistic = MeanStat | CovarianceStat
STATISTICS: dict[str, type[MeanStat] | type[CovarianceStat]] = {"mean": MeanStat, "covariance": CovarianceStat}


def statistic(name: str, axes: tuple[str, ...]) -> Statistic:
    """A new statistic by name; an unknown name raises with the nearest."""
    if name not in STATISTICS:
        raise LookupError(f"no statistic {name!r}{suggestion(name, STATISTICS)}")
    return STATISTICS[name](axes)
