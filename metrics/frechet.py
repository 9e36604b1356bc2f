"""Frechet distance between two sets of features.

FD = |mu_x - mu_y|^2 + Tr S_x + Tr S_y - 2 Tr (S_x S_y)^(1/2): the squared 2-Wasserstein distance of two Gaussians
(Dowson and Landau 1982; Heusel et al. 2017 for images, Unterthiner et al. 2018 for videos). Nobody takes the root.

The trace term never goes through a general matrix square root: with n <= d it is the nuclear norm of A B^T, A and B
the centred features over sqrt(n - ddof); else it comes from a Cholesky factor. Both are real and stable.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_features(features: Tensor, name: str) -> Tensor:
    """Features (n, d) as float64, n >= 2.

    Raises:
        ValueError: not a matrix, fewer than two rows, NaN or infinite values.
    """
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name} must be (n, d) features, got shape {tuple(features.shape)}")
    if len(features) < 2:
        raise ValueError(f"{name} holds {len(features)} sample: a covariance needs at least 2")
    if not torch.isfinite(features).all():
        raise ValueError(f"{name} holds NaN or infinite features")
    return features.to(torch.float64)


def trace_of_root(a: Tensor, b: Tensor) -> Tensor:
    """Tr (S_a S_b)^(1/2) for covariances (d, d), by S_a = L L^T and the eigenvalues of L^T S_b L."""
    factor, failed = torch.linalg.cholesky_ex(a)
    if failed:
        values, vectors = torch.linalg.eigh(a)
        factor = vectors * values.clamp_min(0).sqrt()
    inner = factor.T @ b @ factor
    return torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()


def frechet_from_moments(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> Tensor:
    """Frechet distance from means (d) and covariances (d, d), float64; a scalar, never negative."""
    gap = (mean_x - mean_y).square().sum()
    return (gap + cov_x.trace() + cov_y.trace() - 2 * trace_of_root(cov_x, cov_y)).clamp_min(0)


def frechet_distance(x: Tensor, y: Tensor, ddof: int = 1) -> Tensor:
    """Frechet distance between two sets of features.

    Args:
        x: features (n, d) of one set, n >= 2.
        y: features (m, d) of the other; m may differ from n.
        ddof: divisor n - ddof of the covariances (StyleGAN-V uses 0, most others 1).

    Returns:
        A float64 scalar, 0 for identical sets, never negative. Biased upwards by about `frechet_bias`.

    Raises:
        ValueError: features that are not two matrices of one width, fewer than two rows, NaN.
    """
    x, y = check_features(x, "x"), check_features(y, "y")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} features per sample, y has {y.shape[1]}")
    mean_x, mean_y = x.mean(0), y.mean(0)
    a, b = (x - mean_x) / (len(x) - ddof) ** 0.5, (y - mean_y) / (len(y) - ddof) ** 0.5
    if min(len(x), len(y)) > x.shape[1]:
        return frechet_from_moments(mean_x, a.T @ a, mean_y, b.T @ b)
    root = torch.linalg.svdvals(a @ b.T).sum()
    gap = (mean_x - mean_y).square().sum()
    return (gap + a.square().sum() + b.square().sum() - 2 * root).clamp_min(0)


def frechet_bias(x: Tensor, y: Tensor) -> Tensor:
    """How far `frechet_distance` of finite sets lies above the distance of their populations, to first order.

    (1/n + 1/m) [Tr S + 1/2 sum_ij l_i l_j (1 + d_ij) / (l_i + l_j)], l the eigenvalues of the pooled covariance.
    Measured 3-4 % low at n = 5 d, about 10 % low at n = 1.3 d; with n < d it is a rough figure only.
    """
    x, y = check_features(x, "x"), check_features(y, "y")
    pooled = torch.cat([x - x.mean(0), y - y.mean(0)])
    values = torch.linalg.svdvals(pooled).square() / max(len(pooled) - 2, 1)
    sums = values[:, None] + values[None]
    pairs = torch.where(sums > 0, values[:, None] * values[None] / sums.clamp_min(1e-300), 0.0)
    return (1 / len(x) + 1 / len(y)) * (values.sum() + (pairs.sum() + pairs.diagonal().sum()) / 2)
