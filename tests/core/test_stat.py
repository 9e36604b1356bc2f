"""Statistics: streamed equals dense, parts merged equal the whole, memory does not grow, nothing is lost in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.core.models import Denoiser, start
from wanlab.core import (
    Capture,
    CovarianceStat,
    Mean,
    MeanStat,
    Moment,
    QuantileStat,
    Record,
    RecordError,
    SampleStat,
    SelectionError,
    Statistic,
    StatisticError,
    Steer,
    Tick,
    TopStat,
    trace,
)

AXES = ("b", "f", "n", "c")
KINDS = [(MeanStat, {}), (MeanStat, {"per": ("c",)}), (CovarianceStat, {}), (CovarianceStat, {"per": ("f",)}), (QuantileStat, {}),
         (QuantileStat, {"per": ("c",)}), (TopStat, {"k": 7}), (TopStat, {"k": 3, "per": ("c",), "order": "magnitude"}),
         (SampleStat, {"k": 7}), (SampleStat, {"k": 3, "per": ("f",), "seed": 1})]
ID = [f"{kind.name}-{'-'.join(options)}" for kind, options in KINDS]


def values(rows: int = 6, seed: int = 0) -> Tensor:
    """Correlated channels far from zero, with some that are small and some that are large."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, 5, 8, generator=draw) @ torch.randn(8, 8, generator=draw)
    return x * 10.0 ** torch.arange(-4, 4) + 3


def filled(kind: type, options: dict[str, Any], parts: list[Tensor]) -> Any:
    stat, row = kind(AXES, **options), 0
    for part in parts:
        stat.add(part, Moment(Tick(1, 0.5, "cond"), coords={"b": range(row, row + len(part))}))
        row += len(part)
    return stat


# ------------------------------------------------------------------------------------------------ against dense references

def test_mean_and_covariance_equal_numpys() -> None:
    x = values()
    flat = x.double().reshape(-1, 8).numpy()
    parts = list(x.split([1, 2, 3]))
    np.testing.assert_allclose(filled(MeanStat, {}, parts).value, x.double().mean(0), rtol=1e-6)
    np.testing.assert_allclose(filled(MeanStat, {"per": ("c",)}, parts).value, flat.mean(0), rtol=1e-6)
    stat = filled(CovarianceStat, {}, parts)
    np.testing.assert_allclose(stat.value, np.cov(flat.T), rtol=1e-6)
    np.testing.assert_allclose(stat.mean, flat.mean(0), rtol=1e-6)
    heads = filled(CovarianceStat, {"per": ("f",)}, parts)
    assert heads.axes == ("f", "c", "c'") and heads.value.shape == (4, 8, 8)
    np.testing.assert_allclose(heads.value[2], np.cov(x[:, 2].double().reshape(-1, 8).numpy().T), rtol=1e-6)


def test_a_covariance_far_from_zero_keeps_its_digits() -> None:
    x = 1e6 + torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stat = CovarianceStat(("b", "c"))
    for row in x.split(1):
        stat.add(row)
    np.testing.assert_allclose(stat.value, np.cov(x.numpy().T), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"error": 0.01}, {"per": ("c",)}, {"per": ("c", "f"), "error": 0.2}])
@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e6])
def test_quantiles_are_within_the_stated_error(options: dict[str, Any], spread: float) -> None:
    x = values() * spread
    stat = filled(QuantileStat, options, list(x.split(1)))
    at = np.linspace(0, 1, 101)
    apart = [i for i, axis in enumerate(AXES) if axis not in options.get("per", ())]
    per = [AXES.index(axis) for axis in options.get("per", ())]
    exact = np.quantile(x.double().permute(*per, *apart).flatten(len(per)).numpy(), at, axis=-1)
    near = [np.quantile(x.double().permute(*per, *apart).flatten(len(per)).numpy(), at, axis=-1, method=way)
            for way in ("lower", "higher")]
    bound = stat.error * np.maximum(*np.abs(near)) + 2.0**-64
    assert stat.error <= options.get("error", 0.02 if per else 0.001)
    assert (np.abs(stat.quantile(at.tolist()).double().numpy() - exact) <= bound * (1 + 1e-6) + 1e-7 * np.abs(exact)).all()
    assert torch.equal(stat.quantile(0.0).double(), torch.from_numpy(np.asarray(exact[0])).float().double())
    assert stat.quantile([0.5]).shape == (1, *stat.quantile(0.5).shape)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40), st.floats(0, 1))
def test_quantiles_of_any_numbers(numbers: list[float], at: float) -> None:
    stat = QuantileStat(("b",))
    x = torch.tensor(numbers)
    stat.add(x)
    around = [np.quantile(x.double().numpy(), at, method=way) for way in ("lower", "higher")]
    off = abs(float(stat.quantile(at)) - np.quantile(x.double().numpy(), at))
    assert off <= (stat.error + 1e-6) * max(map(abs, around)) + 2.0**-63


@pytest.mark.parametrize("order", ["largest", "smallest", "magnitude"])
def test_topk_equals_a_sort_and_knows_the_places(order: str) -> None:
    x = values()
    stat = filled(TopStat, {"k": 9, "order": order}, list(x.split(2)))
    key = {"largest": x, "smallest": -x, "magnitude": x.abs()}[order].flatten()
    best = np.argsort(-key.numpy(), kind="stable")[:9]
    assert torch.equal(stat.value, x.flatten()[best])
    at = stat.places
    assert np.array_equal(np.stack([at[axis] for axis in AXES]), np.stack(np.unravel_index(best, x.shape)))
    assert set(at["branch"]) == {"cond"} and set(at["s"]) == {1}


def test_topk_for_each_channel() -> None:
    x = values()
    stat = filled(TopStat, {"k": 4, "per": ("c",)}, list(x.split(1)))
    assert stat.axes == ("c", "rank")
    assert torch.equal(stat.value, x.flatten(0, 2).T.topk(4).values)
    at = stat.places
    assert torch.equal(x[at["b"], at["f"], at["n"], np.arange(8)[:, None]], stat.value)


def test_a_sample_is_of_the_rows_that_passed_and_every_place_is_drawn_alike() -> None:
    """Rows stand where they are said to; over many seeds each of 120 places is drawn in 10 of 120 cases, within five errors."""
    x, seen = values(), np.zeros((6, 4, 5))
    for seed in range(400):
        stat = filled(SampleStat, {"k": 10, "seed": seed}, [x])
        at = tuple(stat.places[axis] for axis in "bfn")
        assert torch.equal(stat.value, x[at])
        seen[at] += 1
    assert seen.sum() == 4000 and seen.max() <= 2 * 4000 / 120, "no place twice in a sample"
    assert np.abs(seen - 4000 / 120).max() < 5 * np.sqrt(4000 / 120)


def test_a_sample_of_each_row_is_the_same_in_any_batch() -> None:
    x = values()
    whole = filled(SampleStat, {"k": 4, "per": ("b",)}, [x])
    assert whole.axes == ("b", "rank", "c") and whole.value.shape == (6, 4, 8)
    for row in range(6):
        alone = SampleStat(AXES, k=4, per=("b",), first=row)
        alone.add(x[row:row + 1], Moment(Tick(1, 0.5, "cond")))
        assert torch.equal(alone.value[0], whole.value[row])
    assert len({tuple(places) for places in (whole.places["f"] * 5 + whole.places["n"]).tolist()}) == 6


# ------------------------------------------------------------------------------------------------ parts and memory

@pytest.mark.parametrize(("kind", "options"), KINDS, ids=ID)
def test_parts_merged_equal_the_whole(kind: type, options: dict[str, Any]) -> None:
    x = values()
    whole = filled(kind, options, [x])
    first, second = kind(AXES, **options), kind(AXES, **options)
    for stat, begin, end in ((first, 0, 1), (second, 1, 4), (first, 4, 6)):
        stat.add(x[begin:end], Moment(Tick(1, 0.5, "cond"), coords={"b": range(begin, end)}))
    empty = kind(AXES, **options)
    for merged in (first.merge(second), second.merge(first), empty.merge(first).merge(second).merge(empty)):
        assert merged.count == whole.count
        np.testing.assert_allclose(merged.value, whole.value, rtol=1e-6)
        if kind in (QuantileStat, TopStat, SampleStat):
            assert merged.value.equal(whole.value) and merged.merge(empty) == merged
    if kind in (TopStat, SampleStat):
        assert first.merge(second) == whole == second.merge(first)
    assert first.count + second.count == whole.count        # neither was changed


def test_equal_values_rank_by_their_place_whatever_the_order_of_the_parts() -> None:
    parts = {name: TopStat(("b", "n"), k=5) for name in ("cond", "uncond")}
    for name, part in parts.items():
        part.add(torch.ones(2, 3), Moment(Tick(0, 1.0, name), seeds=(7, 8)))
    one, other = parts["cond"].merge(parts["uncond"]), parts["uncond"].merge(parts["cond"])
    assert one == other and one.places["branch"].tolist() == ["cond"] * 5
    assert one.places["seed"].tolist() == [7, 7, 7, 8, 8] and one.places["n"].tolist() == [0, 1, 2, 0, 1]


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=ID)
def test_memory_does_not_grow_with_what_is_added(kind: type, options: dict[str, Any]) -> None:
    x, stat = values(), kind(AXES, **options)
    stat.add(x)
    few = stat.nbytes
    for _ in range(20):
        stat.add(x)
    assert stat.nbytes == few <= max(2 * stat.forecast(dict(zip(AXES, x.shape, strict=True))), 10_000)


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=ID)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.uint8, torch.bool])
def test_every_type_of_values(kind: type, options: dict[str, Any], dtype: torch.dtype) -> None:
    x = (values().abs() / 1000).to(dtype)
    low, wide = filled(kind, options, [x]), filled(kind, options, [x.double()])
    assert torch.equal(low.value, wide.value) and low.value.dtype == torch.float32


# ------------------------------------------------------------------------------------------------ nothing in silence

@pytest.mark.parametrize(("kind", "options"), KINDS, ids=ID)
def test_nothing_and_nan_are_errors(kind: type, options: dict[str, Any]) -> None:
    stat = kind(AXES, **options)
    with pytest.raises(StatisticError, match=f"a {stat.name} needs at least . samples?, none added"):
        stat.value      # noqa: B018
    stat.add(torch.zeros(0, 4, 5, 8))
    assert stat.count == 0
    stat.add(values())
    before = stat.value
    for bad in (float("nan"), float("inf")):
        with pytest.raises(StatisticError, match="NaN or infinite"):
            stat.add(values().index_fill(0, torch.tensor(2), bad))
    assert torch.equal(stat.value, before)
    with pytest.raises(StatisticError, match="axes 'b f n c' cannot take in"):
        stat.add(torch.zeros(2, 2))
    with pytest.raises(StatisticError, match="not parts of one statistic"):
        stat.merge(kind(("b", "f", "k", "c"), **options))


def test_large_tensors_are_taken_in_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [filled(kind, options, [values()]) for kind, options in KINDS]
    monkeypatch.setattr("wanlab.core.moments.CHUNK", 100)
    monkeypatch.setattr("wanlab.core.quantiles.CHUNK", 100)
    for (kind, options), one in zip(KINDS, whole, strict=True):
        parts = filled(kind, options, [values()])
        assert parts.count == one.count
        np.testing.assert_allclose(parts.value, one.value, rtol=1e-6)
        with pytest.raises(StatisticError, match="NaN"):
            parts.add(values().index_fill(0, torch.tensor(5), float("nan")))
        assert parts.count == one.count


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(StatisticError, match="needs features"):
        CovarianceStat(("b", "f"))
    with pytest.raises(StatisticError, match="no axis 'k' to keep apart; the axes are 'b f n c'"):
        MeanStat(AXES, per=("k",))
    with pytest.raises(StatisticError, match="a sample needs features"):
        SampleStat(("b", "f"))
    with pytest.raises(StatisticError, match="c cannot be kept apart"):
        SampleStat(AXES, per=("c",))
    with pytest.raises(StatisticError, match="at least 2 samples, 1 added"):
        filled(CovarianceStat, {}, [values()[:1, :1, :1]]).value      # noqa: B018
    changed = filled(MeanStat, {}, [values()])
    with pytest.raises(StatisticError, match="the sizes changed"):
        changed.add(torch.zeros(1, 3, 5, 8))
    with pytest.raises(StatisticError, match="from 0 to 1"):
        filled(QuantileStat, {}, [values()]).quantile(1.5)


@pytest.mark.parametrize(("text", "message"), [
    ("a -> topkk", "cannot keep 'topkk'; nearest: topk"), ("a -> topk(n=3)", "topk has no 'n'; nearest: "),
    ("a -> topk(k=0)", r"k=0 \(expected 1 or more\)"), ("a -> quantiles(error=2)", "from 0.0001 to 0.25"),
    ("a -> mean(by=stp)", "no 'stp'; nearest: step"), ("a -> topk(order=up)", "expected largest, smallest, magnitude"),
    ("a -> topk(k=1,k=2)", "k is given twice"),
])
def test_captures_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(SelectionError, match=message):
        Capture(text)


def test_options_are_read_and_written() -> None:
    one = Capture("a[heads=2]@steps=0:8 -> topk( 16, per=c|f )")
    assert one.keep == "topk(k=16,per=c|f)" and Capture.of(one.to_dict()) == one == Capture.of(str(one)) and one.streams
    assert Capture("a -> mean(by=branch|step)").by == ("step", "branch") and Capture("a -> quantiles").by == ()


# ------------------------------------------------------------------------------------------------ in a run

def kept(*capture: str, rows: int = 3, **kwargs: Any) -> Record:
    with torch.no_grad(), trace(model := Denoiser(), capture=capture, **kwargs) as t:
        model(start(rows))
    return t.record


SITE = "blocks.0.out"


def test_streamed_over_a_run_equals_the_captured_values() -> None:
    record = kept(SITE, *(f"{SITE} -> {keep}" for keep in (
        "mean", "mean(per=c)", "covariance", "quantiles", "quantiles(per=c)", "topk(k=3)", "mean(by=step|branch)")))
    x = record[SITE].tensor.double()
    near = {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(record[f"{SITE} -> mean"].tensor, x.mean((0, 1, 2)), **near)
    np.testing.assert_allclose(record[f"{SITE} -> mean(per=c)"].tensor, x.mean((0, 1, 2, 3, 4)), **near)
    np.testing.assert_allclose(record[f"{SITE} -> covariance"].tensor, np.cov(x.reshape(-1, 8).numpy().T), **near)
    each = record[f"{SITE} -> mean(by=step|branch)"]
    assert each.axes == ("s", "branch", "f", "n", "c")
    np.testing.assert_allclose(each.tensor, x.mean(2), **near)
    array = record[f"{SITE} -> quantiles"].to_xarray()
    assert array.dims == ("q",) and abs(float(array.sel(q=0.5)) - np.quantile(x.numpy(), 0.5)) < 0.001 * x.abs().max()
    best = record[f"{SITE} -> topk"].to_xarray()
    for one in best:
        place = {axis: int(one[axis]) for axis in ("s", "b", "f", "n", "c")}
        assert int(one["seed"]) == 10 + place["b"]
        assert float(one) == float(record[SITE].to_xarray().sel(s=place.pop("s"), branch=str(one["branch"].values)).isel(place))
    assert float(best[0]) == x.max().float()


def test_statistics_of_different_parts_do_not_mix() -> None:
    record = kept(f"{SITE}[frames=0] -> mean", f"{SITE}[frames=1] -> mean", f"{SITE}@branch=uncond -> covariance", SITE)
    x = record[SITE].tensor
    for frame in (0, 1):
        mean = record[f"{SITE}[frames={frame}] -> mean"].tensor
        assert torch.allclose(mean, x[:, :, :, [frame]].mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(record[f"{SITE} -> covariance"].tensor, np.cov(x[:, 1].flatten(0, -2).T), atol=1e-5)


def test_a_statistic_of_a_part_knows_its_positions_and_takes_in_no_other() -> None:
    one, other = (kept(f"{SITE}[frames={frame}] -> mean") for frame in (1, 2))
    assert one[SITE].coords == {"f": (1,)}
    with pytest.raises(StatisticError, match=r"positions f \[1\] cannot take in f \[2\]"):
        one.update(other)


def test_a_run_that_yields_nan_names_the_site_and_the_moment() -> None:
    model = Denoiser()
    model.blocks[0].spatial.qkv.weight.data[-1] = float("nan")
    with pytest.raises(StatisticError, match=r"blocks.0.out -> mean \(step 0, branch cond\): a mean of NaN"), \
            trace(model, capture=f"{SITE} -> mean"):
        model(start())
    with pytest.raises(StatisticError, match=r"text -> covariance at text: .* needs features"):
        trace(model, capture="text -> covariance")


@pytest.mark.parametrize("keep", ["mean", "mean(by=step)", "covariance", "quantiles(per=c)", "topk(k=5)", "sample(k=5)"])
def test_parts_of_a_study_are_saved_loaded_and_merged(keep: str, tmp_path: Path) -> None:
    parts = [kept(f"{SITE}[rows={row}] -> {keep}") for row in range(3)]
    whole = kept(f"{SITE} -> {keep}")
    paths = [part.save(tmp_path / f"{i}.safetensors") for i, part in enumerate(parts)]
    read = [Record.load(path) for path in paths]
    assert read == parts
    read[0].update(read[1])
    read[0].update(read[2])
    assert all(isinstance(one, Statistic) for one in read[0].statistics.values())
    assert [one.count for one in read[0].statistics.values()] == [one.count for one in whole.statistics.values()]
    np.testing.assert_allclose(read[0][SITE].tensor, whole[SITE].tensor, rtol=1e-5, atol=1e-6)


def test_the_difference_of_two_means_is_a_direction() -> None:
    mean = kept(f"{SITE} -> mean(per=c,by=branch)")
    direction = mean[SITE, None, "cond"].tensor - mean[SITE, None, "uncond"].tensor
    assert direction.shape == (8,)
    plain = kept(SITE)[SITE].tensor[0]
    with torch.no_grad(), trace(model := Denoiser(), Steer(SITE, direction=direction, strength=2.0), SITE) as t:
        model(start())
    assert torch.allclose(t.record[SITE].tensor[0], plain + 2 * direction, atol=1e-6)


def test_a_statistic_in_a_record_answers_more_than_its_value() -> None:
    record = kept(f"{SITE} -> quantiles", f"{SITE} -> covariance", SITE)
    x = record[SITE].tensor.double()
    quantiles, covariance = record.statistics[f"{SITE} -> quantiles"], record.statistics[f"{SITE} -> covariance"]
    assert isinstance(quantiles, QuantileStat) and isinstance(covariance, CovarianceStat)
    assert abs(float(quantiles.quantile(0.3)) - float(x.quantile(0.3))) <= quantiles.error * float(x.abs().max())
    np.testing.assert_allclose(covariance.mean, x.mean((0, 1, 2, 3, 4)), rtol=1e-5, atol=1e-6)


def test_a_streamed_mean_is_the_reference_of_an_edit(tmp_path: Path) -> None:
    path = kept(f"{SITE} -> mean(by=step|branch)").save(tmp_path / "mean.safetensors")
    values = kept(SITE)[SITE].tensor
    with torch.no_grad(), trace(model := Denoiser(), Mean(SITE, reference=path), SITE) as t:
        model(start(2))
    got = t.record[SITE].tensor[0]
    assert torch.allclose(got, values[0].mean(1, keepdim=True).expand_as(got), atol=1e-5)
    with pytest.raises(RecordError, match="it cannot stand there"), \
            trace(model, Mean(SITE, reference=kept(f"{SITE} -> quantiles"))):
        model(start())
