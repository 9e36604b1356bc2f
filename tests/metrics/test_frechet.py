"""The Frechet distance against independent implementations, known answers, and its own invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metrics import frechet_bias, frechet_distance, frechet_of_gaussians


def gaussian(n: int, d: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


def scipy_distance(x: Tensor, y: Tensor) -> float:
    from scipy.linalg import sqrtm

    cov_x, cov_y = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    root = np.trace(np.real(sqrtm(cov_x @ cov_y)))
    return float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(cov_x) + np.trace(cov_y) - 2 * root


@pytest.mark.parametrize(("n", "m", "d"), [(300, 300, 32), (400, 250, 64), (90, 200, 8)])
def test_equals_scipy_and_torchmetrics_where_they_are_sane(n: int, m: int, d: int) -> None:
    from torchmetrics.image.fid import _compute_fid

    x, y = gaussian(n, d, 0), gaussian(m, d, 1, mean=0.3, scale=1.4)
    found = float(frechet_distance(x, y))
    assert found == pytest.approx(scipy_distance(x, y), rel=1e-10)
    assert found == pytest.approx(float(_compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())), rel=1e-10)


def test_both_forms_of_the_trace_agree() -> None:
    x, y = gaussian(60, 64, 0), gaussian(60, 64, 1, mean=0.2)  # n < d: nuclear norm
    by_moments = frechet_of_gaussians(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())  # singular: the eigenvalue route
    assert float(frechet_distance(x, y)) == pytest.approx(float(by_moments), rel=1e-6)


@pytest.mark.parametrize("n", [2, 4, 16, 256])
def test_identical_sets_are_at_zero(n: int) -> None:
    x = gaussian(n, 40, 3)
    assert 0 <= float(frechet_distance(x, x)) < 1e-9


def test_commuting_covariances_have_the_known_distance() -> None:
    a, b = torch.linspace(0.1, 3, 400, dtype=torch.float64), torch.linspace(2, 0.2, 400, dtype=torch.float64)
    zero = torch.zeros(400, dtype=torch.float64)
    found = float(frechet_of_gaussians(zero, a.diag(), zero, b.diag()))
    assert found == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-12)
    assert found == pytest.approx(174.15769118560746, rel=1e-7)  # the published figure used float32 grids


def test_one_dimension_is_the_difference_of_means_and_deviations() -> None:
    x, y = gaussian(50, 1, 0), gaussian(70, 1, 1, mean=2, scale=3)
    expected = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2
    assert float(frechet_distance(x, y)) == pytest.approx(float(expected), rel=1e-10)


def test_scaling_rotation_and_order_of_arguments() -> None:
    x, y = gaussian(80, 12, 0), gaussian(80, 12, 1, mean=0.5)
    rotation = torch.linalg.qr(gaussian(12, 12, 2)).Q
    base = float(frechet_distance(x, y))
    assert float(frechet_distance(3 * x, 3 * y)) == pytest.approx(9 * base, rel=1e-9)
    assert float(frechet_distance(x @ rotation, y @ rotation)) == pytest.approx(base, rel=1e-9)
    assert float(frechet_distance(y, x)) == pytest.approx(base, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 12), m=st.integers(2, 12), d=st.integers(1, 9), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 99)
)  # fmt: skip
def test_never_negative_never_nan(n: int, m: int, d: int, scale: float, seed: int) -> None:
    x, y = gaussian(n, d, seed, scale=scale), gaussian(m, d, seed + 1, mean=scale)
    y[0] = x[0]
    assert float(frechet_distance(x, y)) >= 0
    assert float(frechet_distance(x, x[:1].expand(m, d))) >= 0  # a constant set has no covariance


def test_the_bias_is_the_one_that_is_measured() -> None:
    """N(0, I) in 40 dimensions: at n = 400 the distance of two samples lies where the analytic bias says."""
    pairs = [(gaussian(400, 40, 2 * k), gaussian(400, 40, 2 * k + 1)) for k in range(12)]
    measured = torch.stack([frechet_distance(x, y) for x, y in pairs]).mean()
    predicted = torch.stack([frechet_bias(x, y) for x, y in pairs]).mean()
    exact = 2 * 40 / 400 + (40**2 + 40) / (2 * 400)
    assert float(measured) == pytest.approx(exact, rel=0.03)
    assert float(predicted) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), "needs at least 2"),
        (torch.zeros(4, 3), torch.zeros(4, 5), "3 features per sample, y has 5"),
        (torch.full((4, 3), torch.nan), torch.zeros(4, 3), "NaN"),
        (torch.zeros(4), torch.zeros(4), r"\(n, d\)"),
    ],
)
def test_bad_features_are_refused(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(x, y)
