"""The Frechet distance against independent implementations, known answers, and its own invariances."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metrics import (
    Moments,
    frechet_bias,
    frechet_bias_from_moments,
    frechet_distance,
    frechet_from_moments,
    frechet_of_gaussians,
)

# d = 400, N(0, I) against N(0, I), n of each: the mean distance, whose whole size is bias (true distance 0)
BIAS_400 = {16: 726.8, 64: 546.7, 128: 435.3, 256: 297.9, 512: 158.5, 1024: 79.3, 2048: 39.7, 4096: 19.7, 8192: 9.88}


def gaussian(n: int, d: int, seed: int, mean: float = 0.0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(n, d, generator=generator, dtype=torch.float64)


def by_moments(x: Tensor, y: Tensor, ddof: int = 1) -> float:
    return float(frechet_from_moments(Moments.of(x), Moments.of(y), ddof))


def scipy_distance(x: Tensor, y: Tensor) -> float:
    from scipy.linalg import sqrtm

    cov_x, cov_y = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    root = np.trace(np.real(sqrtm(cov_x @ cov_y)))
    return float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(cov_x) + np.trace(cov_y) - 2 * root


@pytest.mark.parametrize(("n", "m", "d"), [(300, 300, 32), (400, 250, 64), (90, 200, 8), (700, 600, 200)])
@pytest.mark.parametrize("decay", [0, 2])
def test_equals_scipy_and_torchmetrics_where_they_are_sane(n: int, m: int, d: int, decay: int) -> None:
    """Flat spectra, and such that fall by a factor of 100 in deviation."""
    from torchmetrics.image.fid import _compute_fid

    spectrum = torch.logspace(0, -decay, d, dtype=torch.float64)
    x, y = gaussian(n, d, 0) * spectrum, gaussian(m, d, 1, mean=0.3, scale=1.4) * spectrum
    for found in (float(frechet_distance(x, y)), by_moments(x, y)):
        assert found == pytest.approx(scipy_distance(x, y), rel=1e-10)
        assert found == pytest.approx(float(_compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())), rel=1e-10)


@pytest.mark.parametrize(("n", "m"), [(60, 60), (30, 64), (20, 500), (64, 500), (65, 70), (2, 2), (2, 100)])
@pytest.mark.parametrize("ddof", [0, 1])
def test_features_and_moments_agree_at_every_rank(n: int, m: int, ddof: int) -> None:
    x, y = gaussian(n, 64, 0), gaussian(m, 64, 1, mean=0.2)
    expected = float(frechet_distance(x, y, ddof))
    assert by_moments(x, y, ddof) == pytest.approx(expected, rel=1e-10)
    assert float(frechet_distance(y, x, ddof)) == pytest.approx(expected, rel=1e-10)


def test_the_divisor_is_the_one_that_is_asked_for() -> None:
    x, y = gaussian(40, 8, 0), gaussian(30, 8, 1, scale=2)
    moments = [(part.mean(0), torch.from_numpy(np.cov(part.numpy(), rowvar=False, bias=True))) for part in (x, y)]
    expected = frechet_of_gaussians(*moments[0], *moments[1])
    assert float(frechet_distance(x, y, ddof=0)) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("n", [2, 4, 16, 40, 41, 256])
def test_identical_sets_are_at_zero(n: int) -> None:
    """Where the usual formulas give -2e-3 at n = 4."""
    x = gaussian(n, 40, 3)
    assert 0 <= float(frechet_distance(x, x)) < 1e-12 * 40
    assert 0 <= by_moments(x, x) < 1e-12 * 40
    dead = torch.cat([x, torch.zeros(n, 5), x[:, :3]], 1)  # constant and repeated features: no full rank at any n
    assert 0 <= float(frechet_distance(dead, dead)) < 1e-12 * 40
    assert 0 <= by_moments(dead, dead) < 1e-12 * 40


def test_dead_and_repeated_features_change_nothing() -> None:
    x, y = gaussian(90, 12, 0), gaussian(80, 12, 1, mean=0.5)
    base = float(frechet_distance(x, y))
    dead = [torch.cat([part, torch.zeros(len(part), 20)], 1) for part in (x, y)]
    assert float(frechet_distance(*dead)) == pytest.approx(base, rel=1e-12)
    twice = [torch.cat([part, part], 1) / 2**0.5 for part in (x, y)]
    assert float(frechet_distance(*twice)) == pytest.approx(base, rel=1e-9)


def test_features_of_very_different_size_keep_their_digits() -> None:
    """Deviations over six decades: the eigenvalues of S_x S_y span 24, more than float64 has digits."""
    spectrum = torch.logspace(0, -6, 30, dtype=torch.float64)
    a, b = spectrum.square(), (spectrum * torch.linspace(0.5, 2, 30, dtype=torch.float64)).square()
    zero, rotation = torch.zeros(30, dtype=torch.float64), torch.linalg.qr(gaussian(30, 30, 0)).Q
    found = frechet_of_gaussians(zero, rotation @ a.diag() @ rotation.T, zero, rotation @ b.diag() @ rotation.T)
    assert float(found) == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-9)


def test_commuting_covariances_have_the_known_distance() -> None:
    a, b = torch.linspace(0.1, 3, 400).double(), torch.linspace(2, 0.2, 400).double()  # grids of float32, as published
    zero = torch.zeros(400, dtype=torch.float64)
    found = float(frechet_of_gaussians(zero, a.diag(), zero, b.diag()))
    assert found == pytest.approx(174.15769118560746, rel=1e-12)
    assert found == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-12)
    shift = torch.full((400,), 0.5, dtype=torch.float64)
    assert float(frechet_of_gaussians(shift, a.diag(), zero, b.diag())) == pytest.approx(found + 100, rel=1e-12)


def test_gaussians_of_one_covariance_are_as_far_as_their_means() -> None:
    x = gaussian(200, 10, 0)
    gap = gaussian(1, 10, 5)
    assert float(frechet_distance(x, x + gap)) == pytest.approx(float(gap.square().sum()), rel=1e-12)


def test_rank_one_sets_have_the_known_distance() -> None:
    """Two samples each: covariances a a^T and b b^T, whose root has the trace |a . b|."""
    a, b = gaussian(1, 9, 0)[0], gaussian(1, 9, 1)[0]
    x, y = torch.stack([a, -a]) / 2**0.5, torch.stack([b, -b]) / 2**0.5  # divisor n - 1 = 1
    expected = float(a @ a + b @ b - 2 * (a @ b).abs())
    assert float(frechet_distance(x, y)) == pytest.approx(expected, rel=1e-12)
    assert by_moments(x, y) == pytest.approx(expected, rel=1e-12)


def test_one_dimension_is_the_difference_of_means_and_deviations() -> None:
    x, y = gaussian(50, 1, 0), gaussian(70, 1, 1, mean=2, scale=3)
    expected = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2
    assert float(frechet_distance(x, y)) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("n", [8, 80])
def test_scaling_rotation_and_order_of_arguments(n: int) -> None:
    x, y = gaussian(n, 12, 0), gaussian(n, 12, 1, mean=0.5)
    rotation = torch.linalg.qr(gaussian(12, 12, 2)).Q
    base = float(frechet_distance(x, y))
    assert float(frechet_distance(3 * x, 3 * y)) == pytest.approx(9 * base, rel=1e-11)
    assert float(frechet_distance(x @ rotation, y @ rotation)) == pytest.approx(base, rel=1e-11)
    assert float(frechet_distance(y, x)) == pytest.approx(base, rel=1e-11)
    assert float(frechet_distance(x.flip(0) + 5, y + 5)) == pytest.approx(base, rel=1e-11)


@settings(max_examples=60)
@given(
    n=st.integers(2, 12), m=st.integers(2, 12), d=st.integers(1, 9), scale=st.floats(1e-6, 1e6), far=st.floats(-1e6, 1e6),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_never_negative_never_nan(n: int, m: int, d: int, scale: float, far: float, seed: int) -> None:
    x, y = gaussian(n, d, seed, far, scale), gaussian(m, d, seed + 1, far + scale, scale)
    y[0] = x[0]
    for other in (y, x[:1].expand(m, d), torch.cat([x, x])):  # overlapping; constant; the same samples twice
        assert float(frechet_distance(x, other)) >= 0
        assert by_moments(x, other) >= 0
        assert float(frechet_bias(x, other)) >= 0


def test_half_precision_features_are_widened_first() -> None:
    x, y = gaussian(50, 6, 0).half(), gaussian(50, 6, 1).half()
    found = frechet_distance(x, y)
    assert found.dtype == torch.float64 and float(found) == float(frechet_distance(x.double(), y.double()))


def test_the_bias_is_the_one_that_is_measured() -> None:
    """N(0, I) in 40 dimensions: at n = 400 the distance of two samples lies where the analytic bias says."""
    pairs = [(gaussian(400, 40, 2 * k), gaussian(400, 40, 2 * k + 1)) for k in range(12)]
    measured = torch.stack([frechet_distance(x, y) for x, y in pairs]).mean()
    predicted = torch.stack([frechet_bias(x, y) for x, y in pairs]).mean()
    exact = 2 * 40 / 400 + (40**2 + 40) / (2 * 400)
    assert float(measured) == pytest.approx(exact, rel=0.03)
    assert float(predicted) == pytest.approx(exact, rel=0.05)
    x, y = pairs[0]
    assert float(frechet_bias_from_moments(Moments.of(x), Moments.of(y))) == pytest.approx(float(frechet_bias(x, y)), rel=1e-10)


def assert_biased_as_published(n: int, draws: int) -> None:
    """The spread of one draw is about 1.74 at n = 256; five deviations of the mean and half the last printed digit are allowed."""
    values = torch.stack([frechet_distance(gaussian(n, 400, 2 * k), gaussian(n, 400, 2 * k + 1)) for k in range(draws)])
    spread = 5 * float(values.std()) * (1 / draws + 1 / 4) ** 0.5  # the published means are of a few draws, too
    assert abs(float(values.mean()) - BIAS_400[n]) < spread + 0.05


@pytest.mark.parametrize("n", [16, 64, 128, 256, 512])
def test_the_bias_table(n: int) -> None:
    assert_biased_as_published(n, draws=6)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1024, 2048, 4096, 8192])
def test_the_bias_table_where_it_falls_as_one_over_n(n: int) -> None:
    assert_biased_as_published(n, draws=6)
    assert BIAS_400[n] == pytest.approx(2 * 400 / n + (400**2 + 400) / (2 * n), rel=0.006)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), "x holds 1 sample: needs at least 2"),
        (torch.zeros(4, 3), torch.zeros(0, 3), "y holds 0 samples: needs at least 2"),
        (torch.zeros(4, 3), torch.zeros(4, 5), "3 features per sample, y has 5"),
        (torch.full((4, 3), torch.nan), torch.zeros(4, 3), "NaN or infinite features in 4 of 4 rows: 0, 1, 2, 3"),
        (torch.zeros(4, 3).index_fill(0, torch.tensor([1]), torch.inf), torch.zeros(4, 3), "in 1 of 4 rows: 1"),
        (torch.zeros(4), torch.zeros(4), r"\(n, d\)"),
    ],
)
def test_bad_features_are_refused(x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(x, y)


def test_no_scipy_is_involved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it would raise here; published distances of -1.9e28 came from one of its versions."""
    for name in ("scipy", "scipy.linalg", "scipy.special"):
        monkeypatch.setitem(sys.modules, name, None)
    for n in (5, 50):
        assert float(frechet_distance(gaussian(n, 9, 0), gaussian(n, 9, 1))) > 0


def test_arrays_are_told_how_to_come() -> None:
    with pytest.raises(TypeError, match=r"x must be a tensor of .n, d. features, got ndarray: torch.as_tensor makes one"):
        frechet_distance(np.zeros((4, 2)), np.zeros((4, 2)))
