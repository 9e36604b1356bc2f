"""Frechet distances of two sets without some of their samples, for many such choices, without starting anew each time.

Where n > d, the moments of the samples left out are taken from those of all: d^2 additions instead of n d^2. Where n and m
are at most d, the inner products of all rows are made once, and each choice centres its part of them.
The shortcuts are ours; the distance is that of `frechet` (Heusel et al. 2017).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .frechet import assembled, factor, trace_of_root
from .moments import Moments
from .rows import check_sets

Kept = Tensor | None  # the indices of the rows that stay; None = all


class Gaussian(NamedTuple):
    """What a set gives to the distance: its mean (d) and its covariance, (d, d) or as F (d, n) of S = F F^T."""

    mean: Tensor
    covariance: Tensor | None
    factor: Tensor | None

    @property
    def trace(self) -> Tensor:
        """Tr S."""
        return self.factored().square().sum() if self.covariance is None else self.covariance.trace()

    def factored(self) -> Tensor:
        """F (d, r) of S = F F^T.

        Raises:
            ValueError: the set has neither covariance nor factor.
        """
        if self.factor is not None:
            return self.factor
        if self.covariance is None:
            raise ValueError("a set has a covariance, or a factor of one")
        return factor(self.covariance)


class Rows:
    """One set, of which parts are asked for.

    Args:
        x: features (n, d), float64.
        ddof: divisor n - ddof of the covariance.
    """

    def __init__(self, x: Tensor, ddof: int) -> None:
        self.x, self.ddof = x, ddof
        self._total = Moments.of(x) if len(x) > x.shape[1] else None
        self._all: Gaussian | None = None

    def only(self, kept: Kept) -> Gaussian:
        """The Gaussian of the rows that stay."""
        if kept is None:
            self._all = self._all or self._of(kept)
            return self._all
        return self._of(kept)

    def _of(self, kept: Kept) -> Gaussian:
        n, width = len(self.x) if kept is None else len(kept), self.x.shape[1]
        if self._total is None or n <= width:
            rows = self.x if kept is None else self.x[kept]
            mean = rows.mean(0)
            centred = (rows - mean) / (len(rows) - self.ddof) ** 0.5
            return Gaussian(mean, None, centred.T)
        rest = self._total
        if kept is not None:
            gone = torch.ones(len(self.x), dtype=torch.bool, device=self.x.device).index_fill(0, kept.to(self.x.device), False)
            rest = rest.without(Moments.of(self.x[gone], rest.shift))
        return Gaussian(rest.mean, rest.covariance(self.ddof), None)


class Products:
    """Two sets of at most d rows each, through the inner products of their rows (n, m)."""

    def __init__(self, x: Tensor, y: Tensor, ddof: int) -> None:
        self.x, self.y, self.ddof = x - x.mean(0), y - y.mean(0), ddof
        self.apart = x.mean(0) - y.mean(0)
        self.cross = self.x @ self.y.T

    def distance(self, kept_x: Kept, kept_y: Kept) -> Tensor:
        """The distance between the rows that stay."""
        x, y = (part if kept is None else part[kept] for part, kept in ((self.x, kept_x), (self.y, kept_y)))
        cross = self.cross if kept_x is None else self.cross[kept_x]
        cross = cross if kept_y is None else cross[:, kept_y]
        cross = cross - cross.mean(0) - cross.mean(1, keepdim=True) + cross.mean()
        mean_x, mean_y = x.mean(0), y.mean(0)
        free_x, free_y = len(x) - self.ddof, len(y) - self.ddof
        root = torch.linalg.svdvals(cross).sum() / (free_x * free_y) ** 0.5
        traces = ((x - mean_x).square().sum() / free_x, (y - mean_y).square().sum() / free_y)
        return assembled(self.apart + mean_x - mean_y, *traces, root)


def frechet_replicates(x: Tensor, y: Tensor, kept_x: Sequence[Kept], kept_y: Sequence[Kept], ddof: int = 1) -> Tensor:
    """`frechet_distance(x[k], y[l])` for each pair k, l of choices, float64 (g).

    Args:
        x: features (n, d).
        y: features (m, d).
        kept_x: g choices of rows of x, as indices; None = all.
        kept_y: g choices of rows of y.
        ddof: divisor n - ddof of the covariances.

    Raises:
        ValueError: what `check_sets` refuses; a choice of fewer than 2 rows.
    """
    x, y = check_sets(x, y)
    if any(kept is not None and len(kept) < 2 for kept in (*kept_x, *kept_y)):
        raise ValueError("a covariance needs at least 2 samples, and a choice keeps fewer")
    choices = list(zip(kept_x, kept_y, strict=True))
    if max(len(x), len(y)) <= x.shape[1]:
        products = Products(x, y, ddof)
        return torch.stack([products.distance(k, l) for k, l in choices])
    rows_x, rows_y = Rows(x, ddof), Rows(y, ddof)
    return torch.stack([between(rows_x.only(k), rows_y.only(l)) for k, l in choices])


def between(a: Gaussian, b: Gaussian) -> Tensor:
    """The Frechet distance of two Gaussians, a float64 scalar."""
    if a.covariance is None or b.covariance is None:
        root = torch.linalg.svdvals(a.factored().T @ b.factored()).sum()
    else:
        root = trace_of_root(a.covariance, b.covariance)
    return assembled(a.mean - b.mean, a.trace, b.trace, root)
