"""Precision, recall, density and coverage against their definitions taken literally, and where the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metrics import manifold, manifold_metrics


def draw(n: int, d: int, seed: int, mean: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def literally(real: list[list[float]], fake: list[list[float]], k: int) -> tuple[float, float, float, float]:
    """The definitions, pair by pair."""
    def radius(rows: list[list[float]], i: int) -> float:
        return sorted(math.dist(rows[i], other) for j, other in enumerate(rows) if j != i)[k - 1]

    balls, fake_balls = [radius(real, i) for i in range(len(real))], [radius(fake, j) for j in range(len(fake))]
    inside = [[math.dist(r, f) < balls[i] for f in fake] for i, r in enumerate(real)]
    within_fake = [any(math.dist(r, f) < fake_balls[j] for j, f in enumerate(fake)) for r in real]
    precision = sum(any(inside[i][j] for i in range(len(real))) for j in range(len(fake))) / len(fake)
    density = sum(map(sum, inside)) / (k * len(fake))
    return precision, sum(within_fake) / len(real), density, sum(map(any, inside)) / len(real)


@settings(max_examples=30)
@given(n=st.integers(4, 25), m=st.integers(4, 25), d=st.integers(1, 6), k=st.integers(1, 3), mean=st.floats(0, 3),
       seed=st.integers(0, 99))  # fmt: skip
def test_equals_the_definitions(n: int, m: int, d: int, k: int, mean: float, seed: int) -> None:
    real, fake = draw(n, d, seed), draw(m, d, seed + 1, mean)
    found = tuple(map(float, manifold_metrics(real, fake, k)))
    assert found == pytest.approx(literally(real.tolist(), fake.tolist(), k), abs=1e-12)


@pytest.mark.parametrize("far", [0.0, 1e4])
def test_equal_sets_cover_each_other(far: float) -> None:
    """Every sample lies on the rim of others' balls: rounding must not let it in."""
    x = draw(150, 40, 0, mean=far)
    assert tuple(map(float, manifold_metrics(x, x))) == (1, 1, 1, 1)


def test_sets_far_apart_do_not() -> None:
    assert tuple(map(float, manifold_metrics(draw(50, 5, 0), draw(60, 5, 1, mean=100)))) == (0, 0, 0, 0)


def test_dropped_modes_cost_recall_and_stray_samples_cost_precision() -> None:
    real = torch.cat([draw(100, 8, k, mean=30.0 * k) for k in range(4)])
    one_mode = draw(200, 8, 9)
    dropped = manifold_metrics(real, one_mode)
    assert dropped.precision > 0.9 and dropped.recall < 0.26 and dropped.coverage < 0.26
    stray = torch.cat([draw(100, 8, 10 + k, mean=30.0 * k) for k in range(4)] + [draw(400, 8, 20, mean=-500.0)])
    astray = manifold_metrics(real, stray)
    assert 0.4 < astray.precision <= 0.5 and astray.recall > 0.9 and astray.coverage > 0.9


def test_an_outlier_inflates_precision_and_not_density() -> None:
    """One real sample far out has a ball that swallows all: why density and coverage were proposed."""
    real, fake = draw(100, 4, 0), draw(100, 4, 1, mean=12.0)
    with_outlier = torch.cat([real, torch.full((1, 4), 24.0, dtype=torch.float64)])
    before, after = manifold_metrics(real, fake), manifold_metrics(with_outlier, fake)
    assert before.precision == 0 and after.precision > 0.95
    assert after.density < 0.25 and after.coverage < 0.02


def test_constant_features_are_one_spot() -> None:
    spot = torch.full((12, 3), 7.0)
    same = manifold_metrics(spot, spot)
    assert (float(same.precision), float(same.recall), float(same.coverage)) == (1, 1, 1)
    other = manifold_metrics(spot, spot + 1)
    assert (float(other.precision), float(other.recall)) == (0, 0)


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = draw(90, 6, 0), draw(70, 6, 1, mean=0.5)
    whole = manifold_metrics(real, fake)
    monkeypatch.setattr(manifold, "CHUNK", 500)
    assert manifold_metrics(real, fake) == whole


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="5 nearest neighbours need at least 6 samples in each set, got 5 and 9"):
        manifold_metrics(draw(5, 2, 0), draw(9, 2, 1))
    with pytest.raises(ValueError, match="NaN"):
        manifold_metrics(draw(9, 2, 0) * torch.nan, draw(9, 2, 1))
