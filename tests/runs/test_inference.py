"""Intervals, p-values, effect sizes and corrections against scipy, by hand, and over many simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from wanlab.runs.inference import Resampler, cohens_dz, holm, rank_biserial

p_values = st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), min_size=1, max_size=12)
numbers = st.lists(st.integers(-40, 40).map(lambda x: x / 8), min_size=2, max_size=10).map(np.array)
RESAMPLER = Resampler()


@pytest.mark.parametrize("n", [7, 30, 200])
def test_intervals_are_scipys_at_the_expanded_level(n: int) -> None:
    values = np.random.default_rng(n).gamma(2.0, size=n)
    tail = stats.norm.cdf(stats.t.ppf(0.025, n - 1) * math.sqrt(n / (n - 1)))
    other = stats.bootstrap(
        (values,), np.mean, n_resamples=40_000, method="percentile", confidence_level=1 - 2 * tail, rng=0
    ).confidence_interval
    low, high = Resampler(40_000).interval(values)
    noise = 0.06 * (other.high - other.low)
    assert low == pytest.approx(other.low, abs=noise) and high == pytest.approx(other.high, abs=noise)


def test_a_column_has_the_same_interval_alone_and_among_others() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.normal(size=n) for n in (30, 9, 30, 1, 0, *[30] * 70)]
    together = zip(RESAMPLER.intervals(columns), RESAMPLER.p_values(columns))
    for column, (interval, p) in zip(columns, together):
        np.testing.assert_allclose(interval, RESAMPLER.interval(column), rtol=1e-12)
        np.testing.assert_array_equal(p, RESAMPLER.p_value(column))


def test_permutation_p_is_exact_for_few_units_and_agrees_with_scipy_for_many() -> None:
    rng = np.random.default_rng(3)
    for n in (2, 8, 14, 40):
        differences = rng.normal(0.3, 1.0, size=n)
        other = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=0)
        tolerance = 1e-12 if n <= 14 else 0.015
        assert Resampler(20_000).p_value(differences) == pytest.approx(other.pvalue, abs=tolerance)


def test_enumeration_ends_where_the_resamples_do() -> None:
    assert [Resampler(10_000).exact(n) for n in (13, 14)] == [True, False]
    assert Resampler(10_000).smallest_p(8) == Resampler(10_000).p_value(np.arange(1.0, 9.0)) == 2 / 2**8
    assert Resampler(10_000).smallest_p(40) == Resampler(10_000).p_value(np.arange(1.0, 41.0)) == 1 / 10_001


def test_degenerate_samples() -> None:
    assert RESAMPLER.interval(np.full(20, 0.1)) == (0.1, 0.1)
    assert np.isnan(RESAMPLER.interval(np.ones(1))).all() and np.isnan(RESAMPLER.interval(np.array([]))).all()
    assert RESAMPLER.p_value(np.zeros(20)) == 1.0 and np.isnan(RESAMPLER.p_value(np.array([])))
    assert RESAMPLER.p_value(np.full(6, 2.0)) == 2 / 2**6


def test_an_interval_of_rates_stays_in_range() -> None:
    values = np.array([1.0] * 47 + [0.0])
    low, high = RESAMPLER.interval(values)
    assert 0.8 < low < values.mean() < high <= 1.0


@given(numbers, st.integers(-20, 20), st.sampled_from([-4.0, -0.5, 0.25, 3.0]))
@settings(deadline=None)
def test_shift_and_scale_move_an_interval_and_nothing_else(values: np.ndarray, shift: int, scale: float) -> None:
    low, high = RESAMPLER.interval(values)
    moved = sorted(scale * bound + shift for bound in (low, high))
    slack = 1e-9 * (1 + abs(shift) + abs(scale) * np.abs(values).max())
    found = RESAMPLER.interval(scale * values + shift)
    if scale > 0:
        np.testing.assert_allclose(found, moved, atol=slack)
    assert found[0] <= found[1] and values.min() <= low <= high <= values.max()
    assert RESAMPLER.p_value(scale * values) == RESAMPLER.p_value(values)
    assume(np.ptp(values) > 0)
    sign = math.copysign(1, scale)
    np.testing.assert_allclose(cohens_dz(scale * values), sign * cohens_dz(values), rtol=1e-9)
    np.testing.assert_allclose(rank_biserial(scale * values), sign * rank_biserial(values), rtol=1e-9)


@given(numbers, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(values: np.ndarray, random: object) -> None:
    other = values.copy()
    random.shuffle(other)  # type: ignore[attr-defined]
    assert RESAMPLER.p_value(other) == RESAMPLER.p_value(values)
    np.testing.assert_allclose([cohens_dz(other), rank_biserial(other)], [cohens_dz(values), rank_biserial(values)], rtol=1e-9)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, float("nan"), 0.005]) == pytest.approx([0.03, 0.06, 0.06, math.nan, 0.02], nan_ok=True)
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


@given(p_values, st.floats(0, 1))
def test_holm_rejects_what_its_steps_reject(given_p: list[float], alpha: float) -> None:
    """Independently: walk up the sorted p-values and stop at the first above alpha / (hypotheses left)."""
    adjusted = holm(given_p)
    known = sorted((p, i) for i, p in enumerate(given_p) if not math.isnan(p))
    rejected = set()
    for step, (p, i) in enumerate(known):
        if p * (len(known) - step) > alpha:
            break
        rejected.add(i)
    tied = {i for i, p in enumerate(given_p) for j in rejected if p == given_p[j]}
    assert rejected <= {i for i, p in enumerate(adjusted) if p <= alpha} <= rejected | tied or alpha >= 1
    pairs = sorted((p, q) for p, q in zip(given_p, adjusted) if not math.isnan(p))
    assert all(p <= q <= 1 for p, q in pairs) and [q for _, q in pairs] == sorted(q for _, q in pairs)
    assert [math.isnan(p) for p in given_p] == [math.isnan(q) for q in adjusted]


@given(p_values, st.randoms(use_true_random=False))
def test_holm_does_not_know_the_order(given_p: list[float], random: object) -> None:
    order = list(range(len(given_p)))
    random.shuffle(order)  # type: ignore[attr-defined]
    adjusted = holm(given_p)
    np.testing.assert_array_equal(holm([given_p[i] for i in order]), [adjusted[i] for i in order])


def test_cohens_dz_is_unbiased_and_by_hand() -> None:
    differences = np.array([1.0, 2.0, 4.0, 5.0])
    factor = math.gamma(1.5) / (math.sqrt(1.5) * math.gamma(1.0))  # J at three degrees of freedom
    assert cohens_dz(differences) == pytest.approx(factor * 3.0 / math.sqrt(10 / 3))
    rng = np.random.default_rng(0)
    estimates = np.array([cohens_dz(row) for row in rng.normal(0.5, 1.0, size=(20_000, 6))])
    assert estimates.mean() == pytest.approx(0.5, abs=4 * estimates.std() / math.sqrt(len(estimates)))
    assert cohens_dz(np.zeros(5)) == 0.0
    assert all(np.isnan(cohens_dz(np.array(x))) for x in ([], [1.0, 2.0], [0.1, 0.1, 0.1]))


def test_rank_biserial_is_what_wilcoxons_sums_say() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        differences = np.round(rng.normal(0.4, 1.0, size=25), 1)
        moved = differences[differences != 0]
        above = stats.wilcoxon(moved, alternative="greater", method="approx").statistic
        assert rank_biserial(differences) == pytest.approx(2 * above / (len(moved) * (len(moved) + 1) / 2) - 1)
    assert rank_biserial(np.array([1.0, 3.0, 0.0])) == 1.0 and rank_biserial(np.array([-1.0])) == -1.0
    assert rank_biserial(np.zeros(4)) == 0.0 and np.isnan(rank_biserial(np.array([])))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "kind", "at_least"),
    [(6, "normal", 0.91), (8, "normal", 0.925), (12, "normal", 0.93), (24, "normal", 0.935), (48, "normal", 0.94),
     (8, "gamma", 0.87), (12, "gamma", 0.90), (24, "gamma", 0.91), (48, "gamma", 0.93),
     (8, "rates", 0.83), (12, "rates", 0.93), (24, "rates", 0.93), (48, "rates", 0.94)],
)  # fmt: skip
def test_coverage_of_the_stated_interval(n: int, kind: str, at_least: float) -> None:
    """The floors are docs/statistics.md's figures less three standard errors of 2,000 studies (1.5 points)."""
    rng, studies = np.random.default_rng([n, 7]), 2_000
    draw = {
        "normal": lambda: (rng.normal(size=(studies, n)), 0.0),
        "gamma": lambda: (rng.gamma(1.0, size=(studies, n)), 1.0),
        "rates": lambda: (rng.choice([-1.0, 0.0, 1.0], size=(studies, n), p=[0.25, 0.6, 0.15]), -0.1),
    }
    values, truth = draw[kind]()
    bounds = np.array(RESAMPLER.intervals(list(values)))
    covered = ((bounds[:, 0] - 1e-12 <= truth) & (truth <= bounds[:, 1] + 1e-12)).mean()
    assert at_least <= covered <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 10, 24])
@pytest.mark.parametrize("shape", ["normal", "heavy", "steps"])
def test_type_one_error_is_at_most_the_level(n: int, shape: str) -> None:
    rng, studies = np.random.default_rng([n, 8]), 4_000
    values = {
        "normal": rng.normal(size=(studies, n)),
        "heavy": rng.standard_cauchy(size=(studies, n)),
        "steps": rng.integers(-2, 3, size=(studies, n)).astype(float),  # ties
    }[shape]
    p = np.array(RESAMPLER.p_values(list(values)))
    for level in (0.01, 0.05, 0.2):
        slack = 3.5 * math.sqrt(level * (1 - level) / studies)
        assert (p <= level).mean() <= level + slack
        if shape != "steps" and RESAMPLER.smallest_p(n) < level / 4:
            assert (p <= level).mean() >= level - RESAMPLER.smallest_p(n) - slack  # and not needlessly shy


@pytest.mark.slow
def test_the_family_is_wrong_at_most_once_in_twenty() -> None:
    """Eight cells that do nothing, correlated through the baseline they share: any rejection in a family is an error."""
    rng, studies, n, cells = np.random.default_rng(9), 1_500, 24, 8
    base = rng.normal(size=(studies, 1, n))
    differences = rng.normal(size=(studies, cells, n)) - base
    p = np.array(RESAMPLER.p_values(list(differences.reshape(-1, n)))).reshape(studies, cells)
    wrong = np.mean([min(holm(row)) < 0.05 for row in p])
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
    assert np.mean(p.min(1) < 0.05) > 0.12  # without the correction it would be
