"""Distances without some samples equal those of the samples that stay; and the extrapolation that is made of them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metrics import frechet_distance, frechet_infinity, jackknife_difference, jackknife_interval
from metrics.leaveout import frechet_replicates


def draw(n: int, d: int, seed: int, mean: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


@settings(max_examples=60)
@given(n=st.integers(3, 40), m=st.integers(3, 40), d=st.integers(1, 30), ddof=st.sampled_from([0, 1]),
       far=st.sampled_from([0.0, 1e4]), seed=st.integers(0, 99))  # fmt: skip
def test_equal_the_distances_of_the_rows_that_stay(n: int, m: int, d: int, ddof: int, far: float, seed: int) -> None:
    """At any n, m and d: inner products, rows, moments, and mixtures of the two."""
    x, y = draw(n, d, seed, far), draw(m, d, seed + 1, far + 0.3)
    generator = torch.Generator().manual_seed(seed)
    kept_x, kept_y = ([torch.randperm(size, generator=generator)[: size - k % (size - 1)] for k in range(4)] for size in (n, m))
    kept_x[0], kept_y[1] = None, None
    found = frechet_replicates(x, y, kept_x, kept_y, ddof)
    for value, k, l in zip(found, kept_x, kept_y, strict=True):
        expected = float(frechet_distance(x if k is None else x[k], y if l is None else y[l], ddof))
        assert float(value) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(24, 40), (90, 12)])
@pytest.mark.parametrize("ddof", [0, 1])
def test_intervals_are_those_of_distances_taken_anew(n: int, d: int, ddof: int) -> None:
    """A function that the jackknife does not know is called for every block; both ways give one interval."""
    x, y, other = draw(n, d, 0), draw(n, d, 1, 0.2), draw(n, d, 2, 0.4)
    known = partial(frechet_distance, ddof=ddof)
    def anew(a: Tensor, b: Tensor) -> Tensor:
        return frechet_distance(a, b, ddof)

    for paired in (True, False):
        assert jackknife_interval(x, y, known, paired) == pytest.approx(jackknife_interval(x, y, anew, paired), rel=1e-9)
    for reference in (other, other[1:]):
        found, expected = (jackknife_difference(x, y, reference, distance) for distance in (known, anew))
        assert found == pytest.approx(expected, rel=1e-7)


def test_too_small_a_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 samples"):
        frechet_replicates(draw(9, 3, 0), draw(9, 3, 1), [torch.tensor([4])], [None])


def test_at_infinity_equal_populations_lie_around_zero_and_others_at_their_distance() -> None:
    """d = 24, n = 2.5 d and above: the distance itself is 5 too large, or 2.5; the extrapolation is not."""
    for n, plain in ((60, 5.4), (120, 2.7)):
        pairs = [(draw(n, 24, 2 * k), draw(n, 24, 2 * k + 1)) for k in range(24)]
        values = torch.stack([frechet_infinity(x, y) for x, y in pairs])
        assert abs(float(values.mean())) < 3.5 * float(values.std()) / 24**0.5
        assert float(torch.stack([frechet_distance(x, y) for x, y in pairs]).mean()) == pytest.approx(plain, rel=0.1)
    gap = 0.5**2 * 24
    values = torch.stack([frechet_infinity(x, y + 0.5) for x, y in pairs])
    assert abs(float(values.mean()) - gap) < 3.5 * float(values.std()) / 24**0.5


def test_at_infinity_unequal_sets_are_allowed_and_too_small_ones_named() -> None:
    """All of the larger set at once would bend the line: the intercept would lie 0.34 below."""
    pairs = [(draw(70, 24, 2 * k), draw(300, 24, 2 * k + 1)) for k in range(16)]
    values = torch.stack([frechet_infinity(x, y) for x, y in pairs])
    assert abs(float(values.mean())) < 3.5 * float(values.std()) / 4
    assert float(frechet_infinity(*pairs[0])) == float(frechet_infinity(*pairs[0]))
    with pytest.raises(ValueError, match=r"n >= 2.5 d: n = 59 samples for d = 24 features, at least 60 needed"):
        frechet_infinity(draw(59, 24, 0), draw(300, 24, 1))
