"""Frechet distance between two sets of features.

FD = |mu_x - mu_y|^2 + Tr S_x + Tr S_y - 2 Tr (S_x S_y)^(1/2): the squared 2-Wasserstein distance of two Gaussians
(Dowson and Landau 1982; Heusel et al. 2017 for images, Unterthiner et al. 2018 for videos). Nobody takes the root.

The trace term never goes through a general matrix square root. With S = F F^T it is the nuclear norm (the sum of singular
values) of F_x^T F_y, F the centred features over sqrt(n - ddof): so where n <= d, and identical sets are at 0 to rounding.
Where n > d, S_x = L L^T (Cholesky) and it is the sum of the roots of the eigenvalues of L^T S_y L, as long as rounding, which
roots magnify, cannot move that sum; else the nuclear norm again, of factors from Cholesky or from the clamped eigenvalues.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .moments import Moments
from .rows import check_sets

EPS = torch.finfo(torch.float64).eps
EXACT = 1e-12  # how far, relatively, rounding may move the trace term before a slower way is taken
STRIP = 192  # columns that are multiplied at once


def frechet_distance(x: Tensor, y: Tensor, ddof: int = 1) -> Tensor:
    """Frechet distance between two sets of features.

    Args:
        x: features (n, d) of one set, n >= 2.
        y: features (m, d) of the other; m may differ from n.
        ddof: divisor n - ddof of the covariances (StyleGAN-V uses 0, most others 1).

    Returns:
        A float64 scalar, 0 for identical sets, never negative. Biased upwards by about `frechet_bias`.

    Raises:
        TypeError: no tensors. ValueError: features that are not two matrices of one width, fewer than two rows, NaN.
    """
    x, y = check_sets(x, y)
    if min(len(x), len(y)) > x.shape[1]:
        return frechet_from_moments(Moments.of(x), Moments.of(y), ddof)
    mean_x, mean_y = x.mean(0), y.mean(0)
    a, b = (x - mean_x) / (len(x) - ddof) ** 0.5, (y - mean_y) / (len(y) - ddof) ** 0.5
    return assembled(mean_x - mean_y, a.square().sum(), b.square().sum(), nuclear_norm(short(a), short(b)))


def frechet_from_moments(a: Moments, b: Moments, ddof: int = 1) -> Tensor:
    """The same from streamed moments; a float64 scalar, never negative.

    Raises:
        ValueError: fewer than two rows in either, or different widths.
    """
    if a.n and b.n and a.width != b.width:
        raise ValueError(f"x has {a.width} features per sample, y has {b.width}")
    cov_a, cov_b = a.covariance(ddof), b.covariance(ddof)
    root = trace_of_root(cov_a, cov_b, min(a.n - 1, a.width), min(b.n - 1, b.width))
    gap = (a.shift - b.shift) + (a.sum / a.n - b.sum / b.n)
    return assembled(gap, cov_a.trace(), cov_b.trace(), root)


def frechet_of_gaussians(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> Tensor:
    """The same from means (d) and covariances (d, d); a float64 scalar, never negative."""
    mean_x, cov_x, mean_y, cov_y = (part.double() for part in (mean_x, cov_x, mean_y, cov_y))
    return assembled(mean_x - mean_y, cov_x.trace(), cov_y.trace(), trace_of_root(cov_x, cov_y))


def assembled(gap: Tensor, trace_x: Tensor, trace_y: Tensor, root: Tensor) -> Tensor:
    """|gap|^2 + Tr S_x + Tr S_y - 2 root, a scalar from a gap (d) and scalars; what rounding left below 0 is 0."""
    return (gap.square().sum() + trace_x + trace_y - 2 * root).clamp_min(0)


def nuclear_norm(a: Tensor, b: Tensor) -> Tensor:
    """||A B^T||_*, the trace term of covariances A^T A and B^T B, for A (n, d) and B (m, d)."""
    return torch.linalg.svdvals(a @ b.T).sum()


def short(a: Tensor) -> Tensor:
    """A (n, d) with at most d rows and the same A^T A: where there are more, the R of its QR decomposition."""
    return torch.linalg.qr(a, mode="r").R if len(a) > a.shape[1] else a


def trace_of_root(a: Tensor, b: Tensor, rank_a: int | None = None, rank_b: int | None = None) -> Tensor:
    """Tr (S_a S_b)^(1/2) for covariances (d, d) of at most these ranks (n - 1 where n is not above d)."""
    lower = cholesky(a) if rank_a in (None, len(a)) and rank_b in (None, len(a)) else None
    if lower is not None:
        roots = torch.linalg.eigvalsh(congruence(lower, b)).clamp_min(0).sqrt()
        moved = (EPS * roots[-1].square() / (2 * roots)).clamp_max(EPS**0.5 * roots[-1])  # by rounding, at first order
        if moved.sum() <= EXACT * roots.sum():
            return roots.sum()
    return torch.linalg.svdvals(factor(a, rank_a).T @ factor(b, rank_b)).sum()


def congruence(lower: Tensor, b: Tensor) -> Tensor:
    """L^T S L (d, d) for a lower triangular L, with zeros above the diagonal: eigvalsh reads what is below.

    In strips that leave out the zeros of L and the half that is not read: a third of the multiplications of two full products.
    """
    half, product = torch.empty_like(b), torch.zeros_like(b)
    for j in range(0, len(b), STRIP):
        half[:, j : j + STRIP] = b[:, j:] @ lower[j:, j : j + STRIP]
    for i in range(0, len(b), STRIP):
        product[i : i + STRIP, : i + STRIP] = lower[i:, i : i + STRIP].T @ half[i:, : i + STRIP]
    return product


def cholesky(a: Tensor) -> Tensor | None:
    """L (d, d) of S = L L^T; None where S is singular to rounding, so that Cholesky fails or ends in pivots that are noise."""
    lower, failed = torch.linalg.cholesky_ex(a)
    pivots = lower.diagonal().square()
    return None if failed or pivots.min() <= len(a) * EPS * pivots.max() else lower


def factor(a: Tensor, rank: int | None = None) -> Tensor:
    """F (d, r) of S = F F^T for a covariance (d, d): Cholesky, or, below full rank, what the largest eigenvalues span."""
    if rank in (None, len(a)) and (lower := cholesky(a)) is not None:
        return lower
    values, vectors = torch.linalg.eigh(a)
    kept = values > len(a) * EPS * values[-1]
    if rank is not None:
        kept[: len(a) - rank] = False
    return vectors[:, kept] * values[kept].sqrt()


def frechet_bias(x: Tensor, y: Tensor) -> Tensor:
    """How far `frechet_distance` of finite sets lies above the distance of their populations, to first order.

    (1/n + 1/m) [Tr S + 1/2 sum_ij l_i l_j (1 + d_ij) / (l_i + l_j)], l the eigenvalues of the pooled covariance.
    Measured 3-4 % low at n = 5 d, about 10 % low at n = 1.3 d; with n < d it is a rough figure only.
    """
    x, y = check_sets(x, y)
    pooled = torch.cat([x - x.mean(0), y - y.mean(0)])
    return bias_of(torch.linalg.svdvals(pooled).square() / max(len(pooled) - 2, 1), len(x), len(y))


def frechet_bias_from_moments(a: Moments, b: Moments) -> Tensor:
    """`frechet_bias` from streamed moments; a float64 scalar."""
    pooled = (a.covariance(0) * a.n + b.covariance(0) * b.n) / max(a.n + b.n - 2, 1)
    return bias_of(torch.linalg.eigvalsh(pooled).clamp_min(0), a.n, b.n)


def bias_of(values: Tensor, n: int, m: int) -> Tensor:
    """The first-order bias for sets of n and m with these eigenvalues (d) of their common covariance."""
    sums = values[:, None] + values[None]
    pairs = torch.where(sums > 0, values[:, None] * values[None] / sums.clamp_min(1e-300), 0.0)
    return (1 / n + 1 / m) * (values.sum() + (pairs.sum() + pairs.diagonal().sum()) / 2)
