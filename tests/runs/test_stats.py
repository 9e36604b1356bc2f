"""The table of results: pairing, units, families, placebos, sets of unequal samples."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from wanlab.runs.inference import Resampler, holm
from wanlab.runs.stats import COLUMNS, Scores, analyse, by_unit, to_csv


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


def test_pairs_are_of_image_prompt_and_seed() -> None:
    """A seed that one cell lacks is left out of the other too: without it every difference here is exactly 1."""
    base = np.array([0.0, 10.0, 20.0, 100.0, 110.0, np.nan])
    cells = {"baseline": scores(base, seeds=2), "other": scores(np.nan_to_num(base, nan=500.0) + 1, seeds=2)}
    result = analyse(cells, "baseline", [Mean()], Resampler())[1]
    assert (result.delta, result.delta_low, result.delta_high, result.pairs, result.n) == (1.0, 1.0, 1.0, 3, 3)


def test_cells_of_unequal_samples_are_compared_on_what_they_share() -> None:
    rng = np.random.default_rng(8)
    base = rng.normal(size=30)
    order = rng.permutation(20)
    other = Scores(order, np.zeros(20, int), {"score": base[order] + 2.0}, {})
    found = analyse({"baseline": scores(base), "other": other}, "baseline", [Mean()], Resampler())[1]
    assert found.delta == pytest.approx(2.0) and (found.pairs, found.n) == (20, 20)
    stranger = Scores(np.arange(90, 95), np.zeros(5, int), {"score": np.ones(5)}, {})
    lonely = analyse({"baseline": scores(base), "s": stranger}, "baseline", [Mean()], Resampler())[1]
    assert lonely.value == 1.0 and np.isnan([lonely.delta, lonely.p, lonely.p_adjusted]).all() and lonely.pairs == 0


def test_one_sample_and_none() -> None:
    one = {"baseline": scores(np.array([1.0])), "other": scores(np.array([3.0])), "void": scores(np.array([np.nan]))}
    _, other, void = analyse(one, "baseline", [Mean()], Resampler())
    assert (other.value, other.delta, other.n, other.p) == (3.0, 2.0, 1, 1.0)
    assert np.isnan([other.ci_low, other.delta_low, other.dz]).all() and not other.significant
    assert np.isnan([void.value, void.delta, void.p]).all() and void.n == void.pairs == 0


def test_effect_sizes_stand_beside_their_differences() -> None:
    base = np.random.default_rng(9).normal(size=24)
    cells = {"baseline": scores(base), "up": scores(base + np.linspace(0.5, 1.5, 24)), "same": scores(base)}
    _, up, same = analyse(cells, "baseline", [Mean()], Resampler())
    assert up.rank_biserial == 1.0 and up.dz > 2 and (same.rank_biserial, same.dz) == (0.0, 0.0)
    assert (up.verdict, same.verdict) == ("better", "same")


def test_without_a_baseline_there_are_values_and_no_differences() -> None:
    result = analyse({"other": scores(np.arange(5.0))}, "baseline", [Mean()], Resampler())[0]
    assert result.value == 2.0 and np.isnan([result.delta, result.p_adjusted]).all()


def test_placebos_are_a_family_of_their_own_and_rank_what_they_stand_for() -> None:
    rng = np.random.default_rng(10)
    base = rng.normal(size=40)
    cells = {"baseline": scores(base), "real": scores(base - 1.0 + rng.normal(0, 0.2, 40))}
    shifts = {"p0": 0.1, "p1": -0.2, "p2": 1.6}
    cells |= {name: scores(base + shift + rng.normal(0, 0.2, 40)) for name, shift in shifts.items()}
    placebos = dict.fromkeys(shifts, "real")
    found = {r.cell: r for r in analyse(cells, "baseline", [Mean()], Resampler(), "study", placebos)}
    real = found["real"]
    assert real.p_adjusted == real.p and real.placebo_rank == 2  # one placebo did more than the component
    assert real.placebos == tuple(found[name].delta for name in shifts)
    assert [found[name].p_adjusted for name in shifts] == holm([found[name].p for name in shifts])
    assert found["p0"].placebo_of == "real" and found["p0"].placebos == ()


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


def test_named_families_are_corrected_by_themselves_under_each_metric() -> None:
    rng = np.random.default_rng(7)
    base = rng.normal(size=(2, 30))
    shifts = {"text": 0.3, "image": 0.1, "head0": 0.2, "head1": 0.25, "head2": 0.4}
    cells = {"baseline": Scores(np.arange(30), np.zeros(30), dict(zip("ab", base)), {})}
    for name, shift in shifts.items():
        moved = base + shift * rng.normal(1, 1.5, size=(2, 30))
        cells[name] = Scores(np.arange(30), np.zeros(30), dict(zip("ab", moved)), {})
    named = {name: "heads" if name.startswith("head") else "parts" for name in shifts}
    found = analyse(cells, "baseline", [Mean("a", "a"), Mean("b", "b")], Resampler(), named)
    for metric in "ab":
        for family in ("heads", "parts"):
            rows = [r for r in found if r.metric == metric and named.get(r.cell) == family]
            assert [r.p_adjusted for r in rows] == holm([r.p for r in rows])
            assert {r.family for r in rows} == {f"{family} under {metric}"}
    whole = analyse(cells, "baseline", [Mean("a", "a"), Mean("b", "b")], Resampler())
    assert sum(r.p_adjusted for r in whole[2:]) > sum(r.p_adjusted for r in found[2:])


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


def test_sets_leave_out_rows_that_are_not_finite_and_keep_units_together() -> None:
    from wanlab.measure import SetMeasure

    measure = SetMeasure("d", "d[toy]", False, frozenset({"reference"}), lambda video: video)
    rng = torch.Generator().manual_seed(1)
    reference, base = torch.randn(40, 3, generator=rng).repeat(2, 1), torch.randn(80, 3, generator=rng)

    def cell(features: torch.Tensor, rows: slice = slice(None)) -> Scores:
        index, seed = np.tile(np.arange(40), 2)[rows], np.repeat([0, 1], 40)[rows]
        return Scores(index, seed, {}, {"d.video": features[rows], "d.reference": reference[rows]})

    broken = base + 1.0
    broken[3] = broken[43] = float("nan")
    cells = {"baseline": cell(base), "broken": cell(broken), "half": cell(base + 1.0, slice(0, 30))}
    _, broken_row, half = analyse(cells, "baseline", [measure], Resampler(confidence=0.9))
    assert (broken_row.n, broken_row.pairs, half.n, half.pairs) == (39, 39, 30, 30)
    keep = torch.tensor([i for i in range(80) if i not in (3, 43)])
    units = torch.arange(40).repeat(2)[keep]
    wanted = measure.difference(broken[keep], base[keep], reference[keep], 0.9, units)
    assert (broken_row.delta, broken_row.delta_low, broken_row.delta_high, broken_row.p) == pytest.approx(wanted)
    assert broken_row.significant and np.isnan(broken_row.dz) and broken_row.statistic == "distance"


def test_csv_has_the_columns_of_the_contract() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(analyse({"baseline": scores(np.arange(5.0))}, "baseline", [Mean()], Resampler())))))
    assert rows[0] == list(COLUMNS) == "cell metric value ci_low ci_high delta delta_low delta_high p_adjusted n better".split()
    assert rows[1][:3] == ["baseline", "score", "2"] and rows[1][5:9] == ["", "", "", ""] and rows[1][9:] == ["5", "higher"]
