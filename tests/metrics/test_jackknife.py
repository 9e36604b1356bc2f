"""Intervals that cover, differences that find what is there and do not find what is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metrics import frechet_distance, jackknife_difference, jackknife_interval


def draw(n: int, d: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_the_interval_covers_the_mean_of_the_estimate() -> None:
    """A percentile bootstrap excludes its own estimate here; the jackknife covers E[FD_n] nine times in ten."""
    pairs = [(draw(200, 24, 2 * k), draw(200, 24, 2 * k + 1)) for k in range(40)]
    truth = float(torch.stack([frechet_distance(x, y) for x, y in pairs]).mean())
    intervals = [jackknife_interval(x, y, frechet_distance, paired=False) for x, y in pairs]
    assert sum(low <= truth <= high for low, high in intervals) >= 36
    for (low, high), (x, y) in zip(intervals, pairs, strict=True):
        assert low <= float(frechet_distance(x, y)) <= high


def test_paired_and_unpaired_follow_the_sizes() -> None:
    x, y = draw(40, 6, 0), draw(30, 6, 1)
    low, high = jackknife_interval(x, y, frechet_distance)
    assert 0 <= low < high
    with pytest.raises(ValueError, match="equal n"):
        jackknife_interval(x, y, frechet_distance, paired=True)


def test_a_real_difference_is_found_and_none_is_not() -> None:
    reference, base = draw(128, 16, 0), draw(128, 16, 1)
    worse = base + 0.5
    found = jackknife_difference(worse, base, reference, frechet_distance)
    assert found.delta > 0 and found.low > 0 and found.p < 1e-3
    same = jackknife_difference(base, base, reference, frechet_distance)
    assert same == (0.0, 0.0, 0.0, 1.0)


def test_under_the_null_p_is_rarely_small() -> None:
    reference = draw(96, 8, 999)
    pairs = [(draw(96, 8, 2 * k), draw(96, 8, 2 * k + 1)) for k in range(40)]
    p = [jackknife_difference(a, b, reference, frechet_distance).p for a, b in pairs]
    assert sum(value < 0.05 for value in p) <= 5  # 2 expected


def test_pairing_narrows_the_interval() -> None:
    reference, base = draw(128, 16, 0), draw(128, 16, 1)
    near, far = base + 0.05 * draw(128, 16, 2), draw(128, 16, 3)
    paired = jackknife_difference(near, base, reference, frechet_distance)
    apart = jackknife_difference(far, base, reference, frechet_distance)
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


def test_too_few_or_unequal_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        jackknife_interval(draw(3, 2, 0), draw(3, 2, 1), frechet_distance)
    with pytest.raises(ValueError, match="same samples"):
        jackknife_difference(draw(8, 2, 0), draw(9, 2, 1), draw(8, 2, 2), frechet_distance)


def test_confidence_widens_by_students_t() -> None:
    from scipy.stats import t

    x, y, z = draw(64, 4, 0) + 1.0, draw(64, 4, 1), draw(64, 4, 2)
    for confidence in (0.8, 0.99):
        ratio = t.ppf((1 + confidence) / 2, 15) / t.ppf(0.975, 15)
        narrow, wide = (jackknife_interval(x, y, frechet_distance, confidence=c) for c in (0.95, confidence))
        assert (wide[1] - wide[0]) / (narrow[1] - narrow[0]) == pytest.approx(ratio, rel=1e-6)
        one, other = (jackknife_difference(x, z, y, frechet_distance, confidence=c) for c in (0.95, confidence))
        assert (other.high - other.low) / (one.high - one.low) == pytest.approx(ratio, rel=1e-6) and one.p == other.p


def test_rows_of_one_unit_leave_together() -> None:
    """Twice the same rows as two seeds of each scene: the interval must not become narrower by repetition."""
    x, y, units = draw(20, 3, 0), draw(20, 3, 1), torch.arange(20)
    once = jackknife_interval(x, y, lambda a, b: (a.mean(0) - b.mean(0)).square().sum())
    twice = jackknife_interval(
        torch.cat([x, x]), torch.cat([y, y]), lambda a, b: (a.mean(0) - b.mean(0)).square().sum(), units=units.repeat(2)
    )
    assert twice == pytest.approx(once, rel=1e-5)
    apart = jackknife_interval(torch.cat([x, x]), torch.cat([y, y]), lambda a, b: (a.mean(0) - b.mean(0)).square().sum())
    assert apart[1] - apart[0] < once[1] - once[0]
    with pytest.raises(ValueError, match="at least 4 samples, got 3"):
        jackknife_interval(x[:6], y[:6], frechet_distance, units=torch.arange(3).repeat(2))
