"""Records and statistics: named axes, moments, files, budgets; streams equal the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.core.models import Denoiser, start
from wanlab.core import (
    BudgetError,
    Capture,
    CovarianceStat,
    Entry,
    MeanStat,
    Probe,
    Record,
    RecordError,
    SelectionError,
    UnknownSite,
    trace,
)
from wanlab.core.record import Key

SITE = "blocks.0.temporal.z"


def record(*capture: str, rows: int = 3, **kwargs: object) -> Record:
    with trace(model := Denoiser(), capture=capture, **kwargs) as t:
        model(start(rows))
    return t.record


def test_steps_and_branches_stack_as_leading_axes() -> None:
    kept = record(SITE, "latent", "picture", "text")
    assert kept[SITE].axes == ("s", "branch", "b", "n", "k", "f", "d")
    assert kept[SITE].tensor.shape == (3, 2, 3, 5, 2, 4, 4)
    assert kept[SITE].coords == {"s": (0, 1, 2), "branch": ("cond", "uncond")}
    assert kept["latent"].axes == ("s", "b", "f", "n", "c") and kept["picture"].axes == ("b", "f", "c", "h", "w")
    assert kept["text"].axes == ("branch", "b", "j")
    one = kept[SITE, 1, "uncond"]
    assert one.axes == ("b", "n", "k", "f", "d") or one.axes[0] == "s"
    assert torch.equal(one.tensor.reshape(-1), kept[SITE].tensor[1, 1].reshape(-1))
    assert sorted(kept) == sorted(["text", SITE, "latent", "picture"]) and len(kept) == 4
    assert SITE in kept and "blocks.9" not in kept and (SITE, 7) not in kept


def test_a_limited_capture_keeps_the_part_with_its_positions() -> None:
    kept = record(f"{SITE}[heads=1,frames=2:]@steps=0|last,branch=cond")[SITE]
    whole = record(SITE)[SITE]
    assert torch.equal(kept.tensor, whole.tensor[[0, 2]][:, 0, :, :, 1:, 2:])
    assert kept.coords == {"s": (0, 2), "branch": "cond", "k": (1,), "f": (2, 3)}


def test_labelled_arrays_and_slices() -> None:
    kept = record(SITE)[SITE]
    array = kept.to_xarray()
    assert array.dims == kept.axes and float(array.sel(s=2, branch="cond").isel(b=0, n=1, k=1, f=0, d=3)) == float(
        kept.tensor[2, 0, 0, 1, 1, 0, 3])
    part = kept.take(heads=1, steps="1:", rows=[0, 2])
    assert torch.equal(part.tensor, kept.tensor[1:, :, [0, 2], :, 1:]) and part.coords["b"] == (0, 2)
    with pytest.raises(RecordError, match="no 'head' to take; nearest: heads"):
        kept.take(head=1)


def test_what_is_not_there_is_named() -> None:
    kept = record(f"{SITE}@steps=0", "latent")
    with pytest.raises(UnknownSite, match="'lantent' is not recorded; nearest: latent"):
        kept["lantent"]
    with pytest.raises(RecordError, match=r"step 2, branch cond\) is not recorded; there are step 0, branch cond"):
        kept[SITE, 2, "cond"]


def test_the_kept_value_is_not_the_models_tensor() -> None:
    class InPlace(Denoiser):
        def forward(self, x, steps=1):  # type: ignore[no-untyped-def]
            return self.site("latent", x).zero_()

    model, x = InPlace(), start()
    with trace(model, capture=["latent", "latent -> mean"]) as t:
        model(x.clone())
    assert torch.equal(t.record["latent"].tensor, x)


def test_graph_keeps_gradients_and_the_rest_does_not() -> None:
    model, x = Denoiser(), start().requires_grad_()
    with trace(model, capture=["latent -> graph", "picture"]) as t:
        model(x)
    t.record["latent", 2].tensor.sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert not t.record["picture"].tensor.requires_grad


def test_saved_and_loaded_and_on_disk_are_the_same(tmp_path: Path) -> None:
    kept = record(f"{SITE}[heads=1]", "latent -> mean")
    read = Record.load(kept.save(tmp_path / "r.safetensors"))
    disk = record(f"{SITE}[heads=1] -> disk", "latent -> mean")
    for other in (read, disk):
        assert other.firings == kept.firings and other.digest() == kept.digest()
        assert other[SITE].axes == kept[SITE].axes and other[SITE].coords == kept[SITE].coords
        assert torch.equal(other[SITE].tensor, kept[SITE].tensor)
    assert list(tmp_path.iterdir()) == [tmp_path / "r.safetensors"]
    folder = disk._folder
    assert folder is not None and folder.is_dir() and disk.bytes < kept.bytes
    del disk, other
    assert not folder.exists()


def test_parts_of_a_run_join() -> None:
    a, b = record("latent"), record("picture")
    a.update(b)
    assert set(a) == {"latent", "picture"}
    with pytest.raises(RecordError, match="is in both records"):
        a.update(b)


def test_a_site_that_fires_twice_at_one_moment_gets_an_axis_call() -> None:
    kept = Record()
    for i in range(2):
        kept.add(Key("a", 0, "cond"), Entry(torch.full((2,), float(i)), ("b",), "a"))
    assert kept["a"].axes == ("s", "call", "b") and kept["a"].tensor.tolist() == [[[0, 0], [1, 1]]]


def test_streamed_mean_and_covariance_equal_those_of_the_whole() -> None:
    kept = record("blocks.0.out", "blocks.0.out -> mean", "blocks.1.out -> covariance", "blocks.1.out")
    values = kept["blocks.0.out"].tensor
    assert torch.allclose(kept["blocks.0.out -> mean"].tensor, values.mean((0, 1, 2)), atol=1e-6)
    flat = kept["blocks.1.out"].tensor.flatten(0, -2).double()
    assert torch.allclose(kept["blocks.1.out -> covariance"].tensor, torch.cov(flat.T).float(), atol=1e-5)
    only = record("blocks.0.out -> mean")
    assert only["blocks.0.out"].axes == ("f", "n", "c")


@pytest.mark.parametrize("kind", [MeanStat, CovarianceStat])
def test_merged_parts_equal_the_whole(kind: type) -> None:
    x = 1000 + torch.randn(10, 4, 6, dtype=torch.float64)
    whole, first, second = (kind(("b", "n", "c")) for _ in range(3))
    whole.add(x)
    for part in (x[:1], x[1:3]):
        first.add(part)
    second.add(x[3:])
    merged = first.merge(second)
    assert merged.count == whole.count and torch.allclose(merged.value, whole.value, rtol=1e-6)
    assert torch.allclose(first.merge(kind(("b", "n", "c"))).value, first.value)


def test_over_the_budget_refuses_before_the_run_where_shapes_are_known() -> None:
    model = Denoiser()
    with Probe(model) as probe:
        model(start(), steps=1)
    site = "blocks.0.out"
    need = 4 * 3 * 4 * 5 * 8 * 3 * 2
    kwargs = {"steps": 3, "branches": ("cond", "uncond"), "sites": probe.sites}
    trace(model, capture=site, budget=need, **kwargs)
    with pytest.raises(BudgetError, match=r"budget is .* GiB.*'site -> mean'"):
        trace(model, capture=site, budget=need - 1, **kwargs)
    trace(model, capture=[f"{site} -> mean", f"{site} -> disk", f"{site}@steps=0"], budget=need // 3, **kwargs)
    with pytest.raises(BudgetError):
        trace(model, capture=site, budget=need, seeds=range(4), **kwargs)
    with pytest.raises(BudgetError), trace(model, capture=site, budget=need - 1):
        model(start())


def test_captures_read_from_strings_and_data() -> None:
    one = Capture("a[heads=2]@steps=0 -> mean")
    assert Capture.of(one.to_dict()) == one == Capture.of("a[heads=2]@steps=0->mean") and one.streams
    assert str(Capture("a")) == "a" and Capture.of({"at": "a"}) == Capture("a")
    with pytest.raises(SelectionError, match="cannot keep 'men'; nearest: mean"):
        Capture("a -> men")
