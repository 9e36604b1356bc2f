"""The UNet's blocks: who sees whom, and what is left when a part is removed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wanlab.core import Bypass, Zero, trace
from wanlab.nn.spacetime import MLP, Block, CrossAttention, ResBlock, SpatialAttention, TemporalAttention

B, F, W, H, SLOTS = 2, 4, 16, 3, 2


def lively(module: nn.Module) -> nn.Module:
    """Layers that start at zero would hide what lies before them."""
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return module.eval()


def moved(module: nn.Module, x: Tensor, at: tuple[int, ...], *args: Tensor) -> Tensor:
    """Where the output (b f n c) changes, b f n, when the input changes at one (row, frame, token)."""
    other = x.clone()
    other[at] += torch.randn(x.shape[-1])
    return (module(other, *args) - module(x, *args)).abs().amax(-1) > 1e-6


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Grid, slots, condition, context and bias for a `Block`."""
    return (torch.randn(B, F, W, H, H), torch.randn(B, F, SLOTS, W), torch.randn(B, 12), torch.randn(B, 5, 10),
            torch.zeros(B, 5))  # fmt: skip


def test_spatial_attention_stays_in_its_frame() -> None:
    changed = moved(SpatialAttention(W, 4), torch.randn(B, F, 5, W), (1, 2, 3))
    assert changed[1, 2].all() and changed.sum() == 5


def test_temporal_attention_stays_at_its_token() -> None:
    changed = moved(TemporalAttention(W, 4), torch.randn(B, F, 5, W), (1, 2, 3))
    assert changed[1, :, 3].all() and changed.sum() == F


def test_temporal_attention_knows_the_order_of_frames() -> None:
    module, x = TemporalAttention(W, 4), torch.randn(B, F, 5, W)
    assert not torch.allclose(module(x.flip(1)), module(x).flip(1), atol=1e-4)


def test_cross_attention_reads_what_is_not_hidden() -> None:
    module, tokens, context = CrossAttention(W, 4, 10), torch.randn(B, F, 5, W), torch.randn(B, 6, 10)
    bias = torch.zeros(B, 6)
    bias[:, 4:] = -1e9
    assert torch.allclose(module(tokens, context, bias), module(tokens, context[:, :4], bias[:, :4]), atol=1e-6)
    assert moved(module, tokens, (1, 2, 3), context, bias).sum() == 1


def test_an_mlp_shows_its_hidden_units() -> None:
    module, x = MLP(W, 24), torch.randn(B, F, 5, W)
    with trace(module, capture=["pre", "post"]) as t:
        module(x)
    pre, post = t.record["pre"].tensor, t.record["post"].tensor
    assert pre.shape[-1] == 24 and torch.allclose(nn.functional.gelu(pre), post)


def test_a_res_block_starts_as_its_skip_and_is_modulated_by_the_condition() -> None:
    module, grid = ResBlock(W, 12), torch.randn(B, F, W, H, H)
    assert torch.allclose(module(grid, torch.randn(B, 12)), grid + module.conv2.bias[:, None, None], atol=1e-6)
    lively(module)
    assert not torch.allclose(module(grid, torch.randn(B, 12)), module(grid, torch.randn(B, 12)), atol=1e-3)
    with trace(module, edits=[Zero("branch")]):
        assert torch.equal(module(grid, torch.randn(B, 12)), grid)


def test_a_block_keeps_shapes_and_lets_grid_and_slots_speak() -> None:
    block, args = lively(Block(W, 4, 10, 12)), inputs()
    grid, slots = block(*args)
    assert grid.shape == args[0].shape and slots.shape == args[1].shape
    other = (args[0], args[1] + torch.randn(SLOTS, W), *args[2:])
    assert not torch.allclose(block(*other)[0], grid, atol=1e-4)


def test_without_temporal_attention_frames_stand_alone() -> None:
    args = inputs()
    alone = (args[0][:, 1:2], args[1][:, 1:2], *args[2:])
    bypassed, built = lively(Block(W, 4, 10, 12)), lively(Block(W, 4, 10, 12, temporal=False))
    for block, edits in ((bypassed, [Bypass("temporal.out")]), (built, [])):
        with trace(block, edits=edits):
            whole = block(*args)[0][:, 1:2]
            assert torch.allclose(whole, block(*alone)[0], atol=1e-5)
    block = lively(Block(W, 4, 10, 12))
    assert not torch.allclose(block(*args)[0][:, 1:2], block(*alone)[0], atol=1e-4)


@pytest.mark.parametrize("part", ["spatial", "cross", "temporal", "mlp"])
def test_bypassing_a_part_takes_away_what_it_added(part: str) -> None:
    block, args = lively(Block(W, 4, 10, 12)), inputs()
    with trace(block, edits=[Bypass(f"{part}.out")]):
        bypassed = block(*args)[0]
    with trace(block, edits=[Zero(f"{part}.out")]):
        assert torch.equal(block(*args)[0], bypassed)
    assert not torch.allclose(block(*args)[0], bypassed, atol=1e-4)


def test_the_stream_is_the_sum_of_its_parts() -> None:
    block, args = lively(Block(W, 4, 10, 12)), inputs()
    with trace(block, capture=["resid_*", "*.out"]) as t:
        block(*args)
    value = {name: t.record[name].tensor for name in t.record}
    mid = value["resid_pre"] + value["spatial.out"] + value["cross.out"] + value["temporal.out"]
    assert torch.allclose(value["resid_mid"], mid, atol=1e-6)
    assert torch.allclose(value["resid_post"], mid + value["mlp.out"], atol=1e-6)


def test_samples_do_not_see_each_other() -> None:
    block, args = lively(Block(W, 4, 10, 12)), inputs()
    assert torch.allclose(block(*args)[0][1:], block(*(x[1:] for x in args))[0], atol=1e-5)
