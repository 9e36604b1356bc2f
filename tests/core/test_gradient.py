"""Gradients at sites, against plain autograd and finite differences; nothing silent, nothing left behind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.core.models import BRANCHES, HEADS, Attention, Denoiser, N, start
from wanlab.core import (
    Capture,
    GradientError,
    Hookable,
    LedgerError,
    Patch,
    Place,
    Replace,
    Scale,
    UnknownSite,
    adapt,
    trace,
)
from wanlab.core.record import Key
from wanlab.nn.attention import Attention as HouseAttention
from wanlab.nn.norm import GroupNorm, LayerNorm


def loss_of(picture: Tensor) -> Tensor:
    return (picture * torch.linspace(-1, 1, picture.numel(), dtype=picture.dtype).reshape(picture.shape)).sum().sin()


# ------------------------------------------------------------------------------------------------ the numbers

def plain(model: Denoiser, x: Tensor, steps: int) -> tuple[Tensor, dict[tuple[Any, ...], Tensor]]:
    """The denoiser without sites, by hand; every value that a site would pass on, by (site, step, branch)."""
    seen: dict[tuple[Any, ...], Tensor] = {}

    def attend(layer: Attention, x: Tensor, key: tuple[Any, ...]) -> Tensor:
        x = x.transpose(1, 2) if layer.frames else x
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(-2, -3) for part in layer.qkv(x).chunk(3, -1))
        z = seen[key] = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v
        z = z.transpose(-2, -3).flatten(-2)
        return z.transpose(1, 2) if layer.frames else z

    text = {branch: torch.ones(len(x), N, dtype=x.dtype).requires_grad_() for branch in BRANCHES}
    seen |= {("text", None, branch): value for branch, value in text.items()}
    for step in range(steps):
        out = {}
        for branch in BRANCHES:
            y = x * text[branch][:, None, :, None] + (branch == "cond")
            for i, block in enumerate(model.blocks):
                y = seen[f"blocks.{i}.resid", step, branch] = y + 0
                y = y + attend(block.spatial, y, (f"blocks.{i}.spatial.z", step, branch))
                y = y + attend(block.temporal, y, (f"blocks.{i}.temporal.z", step, branch))
                seen[f"blocks.{i}.out", step, branch] = y
            out[branch] = y
        x = seen["latent", step, None] = x + 0.1 * (2 * out["cond"] - out["uncond"])
    picture = model.ends["head"](x).transpose(-1, -2).unflatten(-1, (1, N)) * model.scale
    seen["picture", None, None] = picture
    return loss_of(picture), seen


def test_gradients_are_those_of_a_plain_network() -> None:
    model, x = Denoiser().double(), start().double()
    loss, seen = plain(model, x, 2)
    wanted = dict(zip(seen, torch.autograd.grad(loss, list(seen.values()), allow_unused=True), strict=True))
    sites = "{text,latent,picture,**.resid,**.out,**.z}"
    text = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with trace(model, capture=f"{sites} -> grad") as t:
            loss_of(model(x, 2)).backward()
    finally:
        torch.set_default_dtype(text)
    assert len(t.record.firings) == len(wanted) and t.ledger.ok
    for (site, step, branch), gradient in wanted.items():
        entry = t.record.entry(Key(f"{site} -> grad", step, branch))
        assert entry.site == site and torch.allclose(entry.tensor, gradient, atol=1e-12, rtol=1e-9), (site, step, branch)


@pytest.mark.parametrize("site", ["blocks.0.temporal.z", "blocks.1.spatial.pattern", "blocks.0.out", "latent"])
def test_gradients_are_what_finite_differences_say(site: str) -> None:
    model, x = Denoiser().double(), start().double()
    at = f"{site}@steps=1" + ("" if site == "latent" else ",branch=cond")
    with trace(model, capture=f"{at} -> grad") as t:
        loss_of(model(x)).backward()
    [gradient] = t.record[f"{site} -> grad"].tensor
    way, eps = torch.randn_like(gradient), 1e-5

    def moved(by: float) -> float:
        with torch.no_grad(), trace(model, Replace(at, lambda value: value + by * way)):
            return float(loss_of(model(x)))

    assert float((gradient * way).sum()) == pytest.approx((moved(eps) - moved(-eps)) / (2 * eps), rel=1e-5)


def test_the_gradient_is_with_respect_to_what_leaves_the_site_after_its_edits() -> None:
    model, x = Denoiser(), start()
    with trace(model, Scale("picture", 3.0), ["picture -> grad", "picture -> graph"]) as t:
        out = model(x)
        (out ** 2).sum().backward()
    assert torch.allclose(t.record["picture -> grad"].tensor, 2 * out)
    assert t.record["picture"].tensor.requires_grad


def dense(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    q, k, v = (part.unflatten(-1, (layer.heads, -1)).transpose(-2, -3) for part in (layer.q(x), layer.k(x), layer.v(x)))
    pattern = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1)
    return layer.o((pattern @ v).transpose(-2, -3).flatten(-2)), pattern


def scaled(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    scale = (x.var(-1, correction=0) + layer.eps).rsqrt()
    return (x - x.mean(-1, keepdim=True)) * scale[..., None] * layer.weight + layer.bias, scale


def grouped(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    groups = x.unflatten(2, (layer.num_groups, -1))
    scale = (groups.var((3, 4, 5), correction=0) + layer.eps).rsqrt()
    out = ((groups - groups.mean((3, 4, 5), keepdim=True)) * scale[..., None, None, None]).flatten(2, 3)
    return out * layer.weight[:, None, None] + layer.bias[:, None, None], scale


@pytest.mark.parametrize(("layer", "site", "by_hand", "shape"), [
    (HouseAttention(8, 2), "pattern", dense, (3, 5, 8)), (LayerNorm(8), "scale", scaled, (3, 5, 8)),
    (GroupNorm(2, 8), "scale", grouped, (3, 4, 8, 2, 2)),
])
def test_values_that_stand_beside_a_kernel_have_gradients_and_leave_its_bytes(
        layer: Any, site: str, by_hand: Callable[..., tuple[Tensor, Tensor]], shape: tuple[int, ...]) -> None:
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(shape).requires_grad_()
    out, inner = by_hand(layer, x)
    wanted = torch.autograd.grad(out.sin().sum(), [inner, x])
    with trace(layer, capture=f"{site} -> grad") as t:
        traced = layer(x)
        traced.sin().sum().backward()
    assert torch.equal(traced, layer(x)) and torch.allclose(traced, out, atol=1e-5)
    assert torch.allclose(t.record[f"{site} -> grad"].tensor, wanted[0], atol=1e-5)
    assert torch.allclose(x.grad, wanted[1], atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_sites_of_another_librarys_module_have_gradients_before_what_is_written_in_place(frozen: bool) -> None:
    first, last = nn.Linear(4, 6).requires_grad_(not frozen), nn.Linear(6, 3).requires_grad_(not frozen)
    adapted, x = adapt(nn.Sequential(first, nn.ReLU(inplace=True), last),
                       {"hidden": Place("0", reshape="b (k d) -> b k d", sizes={"k": 2})}), torch.randn(5, 4)
    with trace(adapted, capture="hidden -> grad") as t:
        adapted(x).sin().sum().backward()
    hidden = first(x).detach().requires_grad_()
    [wanted] = torch.autograd.grad(last(hidden.relu()).sin().sum(), [hidden])
    assert torch.allclose(t.record["hidden -> grad"].tensor.flatten(1), wanted, atol=1e-6)


# ------------------------------------------------------------------------------------------------ how they are kept

def test_captures_of_gradients_give_the_same_bytes() -> None:
    model, x = Denoiser(), start()
    with trace(model, capture="** -> grad", strict=False):
        traced = model(x)
    assert torch.equal(traced, model(x))


def test_gradients_are_cut_streamed_written_and_kept_with_their_graph() -> None:
    model, site = Denoiser(), "blocks.0.temporal.z"
    ways = [f"{site} -> grad", f"{site} -> grad -> disk", f"{site} -> grad -> mean", f"{site} -> grad -> device"]
    kept = []
    for way in ways:
        with trace(model, capture=way) as t:
            loss_of(model(start())).backward()
        kept.append(t.record[next(iter(t.record))].tensor)
    assert torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[3])
    with trace(model, capture=f"{site}[heads=1,frames=2:]@steps=2,branch=cond -> grad") as t:
        loss_of(model(start())).backward()
    [part] = t.record[f"{site} -> grad"].tensor
    assert torch.equal(part, kept[0][2, 0][:, :, 1:, 2:])

    x = torch.tensor([2.0, 3.0])
    single = Single()
    with trace(single, capture="out -> grad -> graph") as t:
        torch.autograd.grad((single(x) ** 3).sum(), list(single.parameters()), create_graph=True)
    [entry] = [t.record.entry(key) for key in t.record.firings]
    assert torch.allclose(torch.autograd.grad(entry.tensor.sum(), single.weight)[0], (6 * x * x).sum())


class Single(Hookable):
    """out = weight * x: d/d out of out ** 3 is 3 out ** 2, and d/d weight of that 6 x ** 2 at weight 1."""

    SITES = {"out": "b", "count": "b"}

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.site("count", torch.arange(len(x)))
        return self.site("out", self.weight * x)


def test_a_gradient_is_written_down_and_is_never_taken_for_a_value(tmp_path: Any) -> None:
    capture = Capture("blocks.0.out[rows=0]@steps=1 -> grad -> mean")
    assert Capture(str(capture)) == capture == Capture.of(capture.to_dict())
    model = Denoiser()
    with trace(model, capture="picture -> grad") as t:
        loss_of(model(start())).backward()
    again = type(t.record).load(t.record.save(tmp_path / "record.safetensors"))
    assert torch.equal(again["picture -> grad"].tensor, t.record["picture -> grad"].tensor)
    with pytest.raises(UnknownSite, match="nearest: picture -> grad"):
        t.record["picture"]
    with pytest.raises(UnknownSite, match="'picture' is not recorded"):
        trace(model, Patch("picture", record=t.record))


def test_calls_are_numbered_as_the_forwards_and_then_the_backwards() -> None:
    single, x = Single(), torch.tensor([1.0, 2.0])
    with trace(single, capture="out -> grad") as t:
        a, b = single(x), single(x + 1)
        (a * b).sum().backward(retain_graph=True)
        a.sum().backward()
    kept = {key.call: t.record.entry(key).tensor.tolist() for key in t.record.firings}
    assert kept == {0: [2.0, 3.0], 1: [1.0, 2.0], 2: [1.0, 1.0]}


def test_with_frozen_weights_differentiation_begins_at_the_site() -> None:
    model, x = Denoiser().requires_grad_(False), start()
    with trace(model, capture="blocks.1.spatial.z@steps=2 -> grad") as t:
        loss_of(model(x)).backward()
    free = Denoiser()
    with trace(free, capture="blocks.1.spatial.z@steps=2 -> grad") as other:
        loss_of(free(x)).backward()
    site = "blocks.1.spatial.z -> grad"
    assert torch.equal(t.record[site].tensor, other.record[site].tensor)
    assert all(parameter.grad is None for parameter in model.parameters())


# ------------------------------------------------------------------------------------------------ nothing is silent

def test_a_gradient_that_never_came_is_an_error_that_names_the_site() -> None:
    model, x = Denoiser(), start()
    with pytest.raises(LedgerError, match=r"capture blocks.0.out@steps=0 -> grad at blocks.0.out: no gradient came back "
                                          r"at step 0, branch cond.*not on the path"), \
            trace(model, capture="blocks.0.out@steps=0 -> grad"):
        (model(x).detach() ** 2).sum()
    with pytest.raises(LedgerError, match=r"no gradient came back at step 1, branch uncond"), \
            trace(model, capture=["blocks.1.out@steps=1 -> grad", "blocks.1.out@steps=1,branch=cond -> graph"]) as t:
        model(x)
        t.record["blocks.1.out"].tensor.sum().backward()
    line = t.ledger.to_dict()["lines"][0]
    assert line["actual"] == [[1, "cond", 1]] and line["expected"] == [[1, "cond"], [1, "uncond"]] and line["fault"]
    with pytest.raises(LedgerError, match="picture: the site never fired"), trace(model, capture="picture -> grad"):
        pass


def test_where_nothing_is_differentiated_the_site_says_so() -> None:
    model, x = Denoiser(), start()
    with torch.no_grad(), pytest.raises(GradientError, match=r"come back to latent: it fires under torch.no_grad \(step 0\)"), \
            trace(model, capture="latent -> grad"):
        model(x)
    with torch.inference_mode(), pytest.raises(GradientError, match=r"latent: it fires under torch.inference_mode"), \
            trace(model, capture="latent -> grad"):
        model(x)
    with pytest.raises(GradientError, match=r"count passes torch.int64, which has no gradient"), \
            trace(Single(), capture="count -> grad") as t:
        t._modules.popitem()[1](x[:, 0, 0, 0])


def test_after_the_block_nothing_is_recorded_and_no_hook_is_left() -> None:
    model, x = Denoiser(), start()
    with trace(model, capture="latent -> grad", strict=False) as t:
        out = loss_of(model(x))
    out.backward()
    assert not t.record.firings and not any(line.acted for line in t.ledger)
    held = weakref.ref(t)
    with pytest.raises(ZeroDivisionError), trace(model, capture="latent -> grad") as t:
        out = model(x)
        raise ZeroDivisionError
    out.sum().backward()
    assert not t.record.firings and not any("_taps" in vars(module) for module in model.modules())
    del t
    gc.collect()
    assert held() is None


def test_a_budget_counts_gradients() -> None:
    model = Denoiser()
    with pytest.raises(MemoryError, match="-> grad need"), trace(model, capture="latent -> grad", budget=100):
        loss_of(model(start())).backward()
