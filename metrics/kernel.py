"""Polynomial-kernel distances between two sets of features: KVD, and the distance of JEDi.

MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y), k(x, y) = (gamma x . y + coef)^degree, gamma = 1/d unless stated.
KVD (Binkowski et al. 2018 for images as KID; Unterthiner et al. 2018 for videos): degree 3, coef 1, without the diagonals, and
so unbiased: below 0 as often as above for equal populations. JEDi (Luo et al. 2024): 100 times degree 2, coef 0, with them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .moments import Moments
from .rows import check_sets, warn_small

JEDI_SCALE = 100
CHUNK = 2**24  # values of a kernel matrix that are held at once


class KernelDistance(NamedTuple):
    """Mean and standard deviation of MMD^2 over subsets, float64 scalars; std is NaN where all subsets are one."""

    mean: Tensor
    std: Tensor


class Kernel(NamedTuple):
    """k(x, y) = (gamma x . y + coef)^degree."""

    degree: int
    gamma: float
    coef: float

    def of(self, products: Tensor) -> Tensor:
        """Of inner products; writes into them."""
        return products.mul_(self.gamma).add_(self.coef).pow_(self.degree)

    def sums(self, x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor) -> Tensor:
        """For each subset g the sum of k over its rows of x and of y; in_x (g, n) and in_y (g, m) are 0 or 1."""
        rows = max(1, CHUNK // len(y))
        parts = zip(x.split(rows), in_x.split(rows, 1), strict=True)
        return torch.stack([((chosen @ self.of(part @ y.T)) * in_y).sum(1) for part, chosen in parts]).sum(0)

    def mmd(self, x: Tensor, y: Tensor, in_x: Tensor, in_y: Tensor, unbiased: bool) -> Tensor:
        """MMD^2 (g) of each pair of subsets; unbiased: pairs of a row with itself are left out."""
        total = -2 * self.sums(x, y, in_x, in_y) / (in_x.sum(1) * in_y.sum(1))
        for rows, chosen in ((x, in_x), (y, in_y)):
            n, own = chosen.sum(1), self.sums(rows, rows, chosen, chosen)
            diagonal = chosen @ self.of(rows.square().sum(1))
            total = total + ((own - diagonal) / (n * (n - 1)) if unbiased else own / n**2)
        return total


def polynomial_mmd(
    x: Tensor, y: Tensor, degree: int = 3, gamma: float | None = None, coef: float = 1.0, unbiased: bool = True
) -> Tensor:
    """MMD^2 of two whole sets under a polynomial kernel.

    Args:
        x: features (n, d).
        y: features (m, d).
        degree: of the polynomial.
        gamma: None = 1/d.
        coef: the constant inside the power.
        unbiased: U-statistic, which leaves out k(x_i, x_i) and may be negative; else V-statistic, at least 0.

    Returns:
        A float64 scalar.

    Raises:
        ValueError: what `check_sets` refuses; a single sample where the statistic is unbiased.
    """
    x, y = check_sets(x, y, minimum=2 if unbiased else 1)
    kernel = Kernel(degree, 1 / x.shape[1] if gamma is None else gamma, coef)
    return kernel.mmd(x, y, x.new_ones(1, len(x)), y.new_ones(1, len(y)), unbiased)[0]


def kernel_distance(
    x: Tensor, y: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0,
    degree: int = 3, gamma: float | None = None, coef: float = 1.0,
) -> KernelDistance:  # fmt: skip
    """KVD: unbiased MMD^2 averaged over random subsets.

    The kernel matrix is made once, in slices; all subsets are sums of its entries, so a hundred cost little more than one.

    Args:
        x: features (n, d).
        y: features (m, d).
        subsets: how many.
        subset_size: rows of each side in a subset; more than n or m become min(n, m), with a warning.
        seed: of the draw.
        degree: of the polynomial kernel.
        gamma: None = 1/d.
        coef: the constant inside the power.

    Raises:
        ValueError: what `check_sets` refuses; fewer than 1 subset or 2 rows in one.
    """
    x, y = check_sets(x, y)
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"KVD needs at least 1 subset of at least 2 samples, got {subsets} of {subset_size}")
    size = min(subset_size, len(x), len(y))
    if size < subset_size:
        warn_small(f"KVD over subsets of {size} instead of {subset_size}: only n = {len(x)} and {len(y)} samples")
    generator = torch.Generator().manual_seed(seed)
    if size == len(x) == len(y):
        subsets = 1
    in_x, in_y = torch.zeros(subsets, len(x)), torch.zeros(subsets, len(y))
    for chosen in (in_x, in_y):
        for row in chosen:
            row[torch.randperm(len(row), generator=generator)[:size]] = 1
    kernel = Kernel(degree, 1 / x.shape[1] if gamma is None else gamma, coef)
    values = kernel.mmd(x, y, in_x.to(x), in_y.to(x), unbiased=True)
    return KernelDistance(values.mean(), values.std(correction=0) if subsets > 1 else values.new_tensor(torch.nan))


def jedi_distance(x: Tensor, y: Tensor, unbiased: bool = False) -> Tensor:
    """The distance of JEDi between features (n, d) and (m, d): 100 MMD^2, degree 2, gamma 1/d, coef 0; a float64 scalar.

    The published one is the V-statistic, which is at least 0 and biased upwards by about 1/n; `unbiased` gives the U-statistic.

    Raises:
        ValueError: what `check_sets` refuses; a single sample where it is unbiased.
    """
    x, y = check_sets(x, y, minimum=2 if unbiased else 1)
    return jedi_from_moments(Moments.of(x), Moments.of(y), unbiased)


def jedi_from_moments(a: Moments, b: Moments, unbiased: bool = False) -> Tensor:
    """The same scalar exactly, from streamed moments, since (x . y)^2 = <x x^T, y y^T>.

    V = |M_x - M_y|_F^2 / d^2, M the uncentred second moment; U = V - (mean |x|^4 - |M_x|^2) / (n - 1) / d^2, and so for y.
    M_x - M_y is put together from differences of covariances and means, which keeps its digits far from zero.

    Raises:
        ValueError: no samples (unbiased: fewer than 2), or different widths.
    """
    least = 2 if unbiased else 1
    if min(a.n, b.n) < least:
        raise ValueError(f"JEDi's distance needs at least {least} samples of each set, got {a.n} and {b.n}")
    if a.width != b.width:
        raise ValueError(f"x has {a.width} features per sample, y has {b.width}")
    gap = (a.shift - b.shift) + (a.sum / a.n - b.sum / b.n)
    apart = a.covariance(0) - b.covariance(0) + torch.outer(a.mean, gap) + torch.outer(gap, b.mean)
    value = apart.square().sum()
    if unbiased:
        for part in (a, b):
            second = part.covariance(0) + torch.outer(part.mean, part.mean)
            value = value - (part.fourth / part.n - second.square().sum()) / (part.n - 1)
    return JEDI_SCALE * value / a.width**2
