"""Streamed moments: merged, moved and taken apart they are those of the rows, however far from zero these lie."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metrics import Moments, frechet_from_moments, jedi_from_moments
from metrics.moments import merged


def draw(n: int, d: int, seed: int, mean: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def assert_describes(found: Moments, x: Tensor, tolerance: float = 1e-12) -> None:
    """The moments are those of these rows, computed plainly."""
    assert found.n == len(x)
    torch.testing.assert_close(found.mean, x.mean(0), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.covariance(), x.T.cov().view(x.shape[1], -1), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.fourth, x.norm(dim=1).pow(4).sum(), rtol=tolerance, atol=tolerance)


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6), d=st.integers(1, 12), seed=st.integers(0, 99))
def test_the_merge_of_parts_is_the_whole(sizes: list[int], d: int, seed: int) -> None:
    x = draw(sum(sizes) + 2, d, seed)
    parts = [Moments.of(part) if len(part) else Moments() for part in x.split([*sizes, 2])]
    assert_describes(merged(parts), x)
    assert_describes(merged(parts[::-1]), x)


def test_what_is_taken_away_again_leaves_the_rest() -> None:
    x = draw(90, 7, 0)
    assert_describes(Moments.of(x).without(Moments.of(x[60:])), x[:60])


@pytest.mark.parametrize("far", [1e3, 1e6])
def test_a_mean_far_from_zero_costs_no_digits(far: float) -> None:
    """At a million standard deviations raw float64 moments are wrong in the third digit, float32 ones in the first."""
    near = draw(2000, 16, 1)
    x = near + far
    exact = (x - far).T.cov()       # what remains of the digits once x itself was rounded
    streamed = Moments()
    for part in x.split(16):
        streamed.add(part)
    halves = merged([Moments.of(x[:700]), Moments.of(x[700:])])
    for found in (streamed, halves):
        assert float((found.covariance() - exact).abs().max()) < 1e-12
        assert float((found.covariance() - near.T.cov()).abs().max()) < 1e-15 * far + 1e-12
    raw = (x.float().T @ x.float()) / 1999 - 2000 / 1999 * torch.outer(x.float().mean(0), x.float().mean(0))
    assert float((raw - exact).abs().max()) > 0.1


def test_published_statistics_stand_for_the_rows() -> None:
    """A mean and covariance with their n, as papers ship them, merge and measure like the features; |x|^4 is not in them."""
    x, y = draw(60, 5, 0), draw(80, 5, 1, mean=0.3)
    shipped = Moments.from_statistics(x.mean(0), x.T.cov(correction=0), 60, ddof=0)
    expected = frechet_from_moments(Moments.of(x), Moments.of(y))
    assert float(frechet_from_moments(shipped, Moments.of(y))) == pytest.approx(float(expected), rel=1e-12)
    both = merged([shipped, Moments.of(y)])
    torch.testing.assert_close(both.covariance(), torch.cat([x, y]).T.cov(), rtol=1e-12, atol=1e-12)
    assert torch.isnan(both.fourth)
    assert jedi_from_moments(shipped, Moments.of(y)) >= 0 and torch.isnan(jedi_from_moments(shipped, Moments.of(y), unbiased=True))


def test_impossible_moments_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        Moments.of(draw(1, 3, 0)).covariance()
    with pytest.raises(ValueError, match="different widths"):
        merged([Moments.of(draw(4, 3, 0)), Moments.of(draw(4, 5, 0))])
    with pytest.raises(ValueError, match=r"\(b, 3\)"):
        Moments.of(draw(4, 3, 0)).add(draw(4, 5, 0))
    with pytest.raises(ValueError, match="in 1 of 4 rows: 2"):
        Moments.of(draw(4, 3, 0).index_fill(0, torch.tensor([2]), torch.nan))
