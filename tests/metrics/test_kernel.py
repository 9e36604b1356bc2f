"""KVD and JEDi's distance against torchmetrics, plain sums, published values, and their own definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metrics import Moments, SmallSampleWarning, jedi_distance, jedi_from_moments, kernel, kernel_distance, polynomial_mmd
from metrics.moments import merged

X = torch.arange(1.0, 10).reshape(3, 3)
Y = torch.tensor([[7.0, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5]])


def draw(n: int, d: int, seed: int, mean: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def plain_mmd(x: Tensor, y: Tensor, degree: int, gamma: float, coef: float, unbiased: bool) -> float:
    """Sums over pairs, one by one."""
    def mean(a: Tensor, b: Tensor, without_self: bool) -> float:
        values = [(gamma * float(p @ q) + coef) ** degree
                  for i, p in enumerate(a) for j, q in enumerate(b) if not (without_self and i == j)]  # fmt: skip
        return sum(values) / len(values)

    return mean(x, x, unbiased) + mean(y, y, unbiased) - 2 * mean(x, y, False)


def test_the_values_of_jedis_own_example() -> None:
    """Its file says 270.7; the call that it prints gives the second value, which its comment never did."""
    assert float(polynomial_mmd(X, Y, degree=2, gamma=1 / 3, coef=0, unbiased=False)) == pytest.approx(270.7222, abs=5e-5)
    assert float(polynomial_mmd(X, Y, degree=3, gamma=1 / 3, coef=1, unbiased=False)) == pytest.approx(23088.0833, abs=5e-5)
    assert float(polynomial_mmd(X, Y, degree=2, gamma=1, coef=0, unbiased=False)) == pytest.approx(2436.5, abs=5e-5)
    assert float(jedi_distance(X, Y)) == pytest.approx(27072.22, abs=5e-3)


@settings(max_examples=30)
@given(n=st.integers(2, 9), m=st.integers(2, 9), d=st.integers(1, 6), degree=st.integers(1, 4), coef=st.floats(-2, 2),
       unbiased=st.booleans(), seed=st.integers(0, 99))  # fmt: skip
def test_equals_sums_over_pairs(n: int, m: int, d: int, degree: int, coef: float, unbiased: bool, seed: int) -> None:
    x, y = draw(n, d, seed), draw(m, d, seed + 1, mean=0.5)
    found = float(polynomial_mmd(x, y, degree, coef=coef, unbiased=unbiased))
    assert found == pytest.approx(plain_mmd(x, y, degree, 1 / d, coef, unbiased), rel=1e-9, abs=1e-9)


@settings(max_examples=30)
@given(n=st.integers(2, 30), m=st.integers(2, 30), d=st.integers(1, 20), far=st.sampled_from([0.0, 3.0, 1e3]),
       parts=st.integers(1, 5), seed=st.integers(0, 99))  # fmt: skip
def test_jedis_distance_follows_exactly_from_streamed_moments(n: int, m: int, d: int, far: float, parts: int, seed: int) -> None:
    x, y = draw(n, d, seed, mean=far), draw(m, d, seed + 1, mean=far + 0.4)
    streamed = merged([Moments.of(part) for part in x.chunk(parts)]), Moments.of(y)
    for unbiased in (False, True):
        expected = 100 * float(polynomial_mmd(x, y, degree=2, coef=0, unbiased=unbiased))
        size = 100 * float(x.square().sum(1).square().mean()) / d**2  # the terms that the plain sum subtracts
        assert float(jedi_from_moments(*streamed, unbiased)) == pytest.approx(expected, rel=1e-10, abs=1e-12 * size)


def test_jedis_distance_far_from_zero_keeps_digits_that_the_plain_sum_loses() -> None:
    """At a mean of 1e6 the terms are 1e24 and their difference 1e13; in whole numbers the truth is known exactly."""
    near = torch.randint(-5, 6, (40, 8), generator=torch.Generator().manual_seed(0))
    x, y = near[:20] + 10**6, near[20:] + 10**6 + 1
    gap = sum(((int(x[:, i] @ x[:, j]) - int(y[:, i] @ y[:, j])) ** 2) for i in range(8) for j in range(8))
    expected = 100 * gap / 20**2 / 8**2
    assert float(jedi_distance(x.double(), y.double())) == pytest.approx(expected, rel=1e-12)
    assert float(jedi_distance(x.double(), x.double())) == 0


def test_equals_torchmetrics_on_one_subset() -> None:
    from torchmetrics.image.kid import poly_mmd

    x, y = draw(80, 24, 0), draw(80, 24, 1, mean=0.2)
    expected = float(poly_mmd(x, y))
    assert float(polynomial_mmd(x, y)) == pytest.approx(expected, rel=1e-12)
    found = kernel_distance(x, y, subsets=100, subset_size=80)
    assert float(found.mean) == pytest.approx(expected, rel=1e-12) and torch.isnan(found.std)


def test_subsets_are_those_that_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over one kernel matrix, in slices, against each subset measured by itself by torchmetrics."""
    from torchmetrics.image.kid import poly_mmd

    monkeypatch.setattr(kernel, "CHUNK", 1000)
    x, y = draw(90, 12, 0), draw(70, 12, 1, mean=0.2)
    generator = torch.Generator().manual_seed(3)
    order = [[torch.randperm(n, generator=generator)[:40] for _ in range(7)] for n in (90, 70)]
    values = torch.stack([poly_mmd(x[a], y[b]) for a, b in zip(*order, strict=True)])
    found = kernel_distance(x, y, subsets=7, subset_size=40, seed=3)
    assert float(found.mean) == pytest.approx(float(values.mean()), rel=1e-12)
    assert float(found.std) == pytest.approx(float(values.std(correction=0)), rel=1e-10)


def test_equal_populations_lie_around_zero_and_the_biased_form_above() -> None:
    pairs = [(draw(60, 10, 2 * k), draw(60, 10, 2 * k + 1)) for k in range(60)]
    values = torch.stack([polynomial_mmd(x, y) for x, y in pairs])
    assert 15 < int((values < 0).sum()) < 45
    assert abs(float(values.mean())) < 3 * float(values.std()) / 60**0.5
    assert all(polynomial_mmd(x, y, unbiased=False) > 0 and jedi_distance(x, y) > 0 for x, y in pairs)
    assert abs(float(polynomial_mmd(draw(60, 10, 0), draw(60, 10, 0), unbiased=False))) < 1e-12


def test_few_samples_are_warned_of_and_impossible_ones_refused() -> None:
    x, y = draw(30, 4, 0), draw(20, 4, 1)
    with pytest.warns(SmallSampleWarning, match="subsets of 20 instead of 1000: only n = 30 and 20"):
        found = kernel_distance(x, y)
    assert found.std > 0  # the larger set still has different subsets
    with pytest.raises(ValueError, match="at least 1 subset of at least 2 samples, got 0 of 5"):
        kernel_distance(x, y, subsets=0, subset_size=5)
    with pytest.raises(ValueError, match="x holds 1 sample: needs at least 2"):
        polynomial_mmd(x[:1], y)
    assert float(polynomial_mmd(x[:1], y[:1], unbiased=False)) >= 0
    with pytest.raises(ValueError, match="at least 2 samples of each set, got 1 and 20"):
        jedi_from_moments(Moments.of(x[:1]), Moments.of(y), unbiased=True)
    with pytest.raises(ValueError, match="4 features per sample, y has 3"):
        jedi_from_moments(Moments.of(x), Moments.of(y[:, :3]))
    with pytest.raises(ValueError, match="NaN"):
        jedi_distance(x * torch.nan, y)
