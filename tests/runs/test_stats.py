"""Intervals, paired tests and corrections, against independent computations."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats

from wanlab.runs.stats import COLUMNS, Resampler, Scores, analyse, by_unit, holm, to_csv


@dataclass
class Mean:
    name: str = "score"
    key: str = "score"
    kind: str = "sample"
    higher_is_better: bool | None = True
    needs: frozenset[str] = frozenset()


def scores(values: np.ndarray, seeds: int = 1) -> Scores:
    n = len(values) // seeds
    return Scores(np.tile(np.arange(n), seeds), np.repeat(np.arange(seeds), n), {"score": values}, {})


def test_intervals_agree_with_scipy_up_to_the_expansion() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=200)
    low, high = Resampler(10_000).interval(values)
    other = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", random_state=0).confidence_interval
    assert low == pytest.approx(other.low, abs=0.02) and high == pytest.approx(other.high, abs=0.02)
    assert high - low > 0.99 * (other.high - other.low)


def test_intervals_cover_at_small_n() -> None:
    rng, resampler, inside = np.random.default_rng(2), Resampler(10_000), 0
    for _ in range(300):
        low, high = resampler.interval(rng.normal(size=12))
        inside += low <= 0 <= high
    assert 0.92 <= inside / 300 <= 0.98


def test_permutation_p_is_exact_for_few_units_and_agrees_with_scipy_for_many() -> None:
    rng = np.random.default_rng(3)
    for n in (8, 40):
        differences = rng.normal(0.3, 1.0, size=n)
        other = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=20_000, rng=0)
        assert Resampler(20_000).p_value(differences) == pytest.approx(other.pvalue, abs=0.0 if n == 8 else 0.015)


def test_degenerate_samples() -> None:
    resampler = Resampler()
    assert resampler.interval(np.ones(20)) == (1.0, 1.0)
    assert np.isnan(resampler.interval(np.ones(1))).all()
    assert resampler.p_value(np.zeros(20)) == 1.0 and np.isnan(resampler.p_value(np.array([])))


def test_an_interval_of_rates_stays_in_range() -> None:
    values = np.array([1.0] * 47 + [0.0])
    low, high = Resampler().interval(values)
    assert 0.8 < low < values.mean() < high <= 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, float("nan"), 0.005])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.01, 0.04, 0.03, float("nan"), 0.005])[4] == pytest.approx(0.02)
    assert np.isnan(holm([0.01, float("nan")])[1])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_seeds_are_averaged_within_units() -> None:
    index, values = np.array([0, 1, 2, 0, 1, 2]), np.array([1.0, 2.0, np.nan, 3.0, np.nan, np.nan])
    np.testing.assert_array_equal(by_unit(index, values), [2.0, 2.0, np.nan])


def test_pairing_finds_what_unpaired_means_hide() -> None:
    rng = np.random.default_rng(4)
    base = rng.normal(0, 10, size=48)
    cells = {"baseline": scores(base), "worse": scores(base - 0.5 + rng.normal(0, 0.3, size=48)), "same": scores(base.copy())}
    results = {r.cell: r for r in analyse(cells, "baseline", [Mean()], Resampler())}
    assert results["worse"].delta_high < 0 and results["worse"].significant
    assert results["worse"].ci_low < results["baseline"].value < results["worse"].ci_high
    assert results["same"].delta == 0 and results["same"].p_adjusted == 1.0
    assert np.isnan(results["baseline"].delta) and results["baseline"].n == 48


def test_duplicated_seeds_do_not_make_a_sample_larger() -> None:
    values = np.random.default_rng(5).normal(size=20)
    once = analyse({"baseline": scores(values)}, "baseline", [Mean()], Resampler())[0]
    twice = analyse({"baseline": scores(np.tile(values, 2), seeds=2)}, "baseline", [Mean()], Resampler())[0]
    assert (once.ci_low, once.ci_high, once.n) == (twice.ci_low, twice.ci_high, twice.n)


def test_rows_where_a_metric_does_not_apply_are_left_out_of_both_sides() -> None:
    base, other = np.arange(20.0), np.arange(20.0) + 1
    base[3], other[7] = np.nan, np.inf
    result = analyse({"baseline": scores(base), "other": scores(other)}, "baseline", [Mean()], Resampler())[1]
    assert result.delta == pytest.approx(1.0) and result.n == 19


def test_family_of_the_whole_study_corrects_more() -> None:
    rng = np.random.default_rng(6)
    base, other = rng.normal(size=30), rng.normal(size=30)
    cells = {
        name: Scores(np.arange(30), np.zeros(30), {"a": x, "b": x + rng.normal(size=30)}, {})
        for name, x in {"baseline": base, "x": base + 0.3 * other}.items()
    }
    measures = [Mean("a", "a"), Mean("b", "b")]
    narrow, wide = (analyse(cells, "baseline", measures, Resampler(), family) for family in ("metric", "study"))
    assert wide[2].p_adjusted >= narrow[2].p_adjusted == narrow[2].p


def test_set_distances_are_paired_and_small_sets_have_no_interval() -> None:
    from wanlab.measure import SetMeasure

    measure = SetMeasure("d", "d[toy]", False, frozenset({"reference"}), lambda video: video)
    rng = torch.Generator().manual_seed(0)
    reference, good = torch.randn(64, 3, generator=rng), torch.randn(64, 3, generator=rng)

    def cell(features: torch.Tensor) -> Scores:
        n = len(features)
        return Scores(np.arange(n), np.zeros(n), {}, {"d.video": features, "d.reference": reference[:n]})

    base, worse = analyse({"baseline": cell(good), "worse": cell(good + 1.0)}, "baseline", [measure], Resampler())
    assert worse.delta_low > 0 and worse.significant and worse.ci_low <= worse.value <= worse.ci_high and base.n == 64
    small = analyse({"baseline": cell(good[:3])}, "baseline", [measure], Resampler())[0]
    assert np.isnan(small.value) and small.n == 3


def test_csv_has_the_columns_of_the_contract() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(analyse({"baseline": scores(np.arange(5.0))}, "baseline", [Mean()], Resampler())))))
    assert rows[0] == list(COLUMNS) == "cell metric value ci_low ci_high delta delta_low delta_high p_adjusted n better".split()
    assert rows[1][:3] == ["baseline", "score", "2"] and rows[1][5:9] == ["", "", "", ""] and rows[1][9:] == ["5", "higher"]
