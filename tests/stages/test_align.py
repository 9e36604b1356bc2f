"""The align stage: four ways to carry the first frame over, and one meaning of leaving it out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from wanlab.core import Bypass, Identity, Replace, Zero, trace
from wanlab.nn.layers import compose
from wanlab.pipelines.load import CLASSES
from wanlab.stages.align import Config, still
from wanlab.stages.fusion import Condition
from wanlab.stages.generator import Draft
from wanlab.stages.image import Image

VARIANTS: dict[str, Any] = {name: build for name, (build, _) in CLASSES["align"].items()}
B, F, SLOTS, SIZE, CONTEXT, FEATURES = 2, 4, 3, 16, 12, 10
CONFIG = Config(size=SIZE, patch=4, features=FEATURES, context=CONTEXT, width=8, heads=2)


def inputs() -> tuple[Image, Condition, Draft, Tensor]:
    frame, n = torch.rand(B, 3, SIZE, SIZE) * 2 - 1, (SIZE // 4) ** 2
    image = Image(torch.randn(B, n, CONTEXT), torch.randn(B, CONTEXT), frame, frame, torch.tensor([1.0, 0.0]))
    condition = Condition(torch.randn(B, 9, CONTEXT), torch.zeros(B, 9), torch.randn(B, n, CONTEXT),
                          torch.randn(B, SLOTS, CONTEXT), torch.randn(B, CONTEXT))  # fmt: skip
    draft = Draft(torch.randn(B, F, 3, SIZE, SIZE), torch.randn(B, F, 1, SIZE, SIZE), torch.randn(B, F, SLOTS, 5),
                  torch.randn(B, F, FEATURES, 4, 4))  # fmt: skip
    return image, condition, draft, 0.2 * torch.randn(B, F, SLOTS, 5)


@pytest.fixture(params=VARIANTS)
def align(request: pytest.FixtureRequest, placed: str) -> torch.nn.Module:
    return VARIANTS[request.param](CONFIG).eval()


@pytest.fixture
def flow_warp() -> torch.nn.Module:
    return VARIANTS["flow_warp"](CONFIG).eval()


def test_every_variant_keeps_the_first_frame_and_says_what_is_valid(align) -> None:
    args = inputs()
    out = align(*args)
    assert out.frames.shape == (B, F, 3, SIZE, SIZE) and out.valid.shape == (B, F, 1, SIZE, SIZE)
    assert torch.equal(out.frames[:, 0], args[0].frame)
    assert (out.valid[0, 0] == 1).all() and out.valid.min() >= 0 and out.valid.max() <= 1 + 1e-5
    assert out.scope.shape == (B, F) and out.masks.shape[0] == B


def test_without_an_image_nothing_is_valid(align) -> None:
    out = align(*inputs())
    assert not out.valid[1].any() and not out.scope[1].any()


def test_leaving_any_variant_out_is_a_still_that_is_known_at_frame_0_alone(align) -> None:
    args = inputs()
    with trace(align, edits=[Bypass("{out,valid,scope}")]) as t:
        out = align(*args)
    expected = still(args[0], F)
    assert t.ledger.ok
    assert torch.equal(out.frames, expected.frames) and torch.equal(out.valid, expected.valid)
    assert torch.equal(out.scope, expected.scope) and out.scope[0].tolist() == [1, 0, 0, 0]


def test_rows_do_not_see_each_other(align) -> None:
    args = inputs()
    alone = align(*(x[1:] if isinstance(x, Tensor) else type(x)(*(v[1:] for v in x)) for x in args))
    both = align(*args)
    assert all(torch.allclose(a[1:], b, atol=1e-5) for a, b in zip(both, alone, strict=True))


def test_no_alignment_is_a_still_and_moves_no_layers() -> None:
    args = inputs()
    out = VARIANTS["none"](CONFIG)(*args)
    assert all(torch.equal(a, b) for a, b in zip(out, still(args[0], F), strict=True))
    assert out.masks.shape == (B, 0, SIZE, SIZE)


def test_flow_warp_moves_the_layers_that_it_segments(flow_warp) -> None:
    args = inputs()
    out = flow_warp(*args)
    moved = compose(args[0].frame, out.masks, args[3])
    assert torch.allclose(out.masks.sum(1), torch.ones(()), atol=1e-5)
    assert torch.equal(out.frames, moved.aligned) and torch.equal(out.valid[0], moved.inside[0])
    assert out.scope[0].tolist() == [1] * F


def test_flow_warp_does_what_its_masks_and_motion_are_edited_to(flow_warp) -> None:
    """All background, one pixel to the right a frame: the video is the frame, rolled."""
    args = inputs()

    def march(x: Tensor) -> Tensor:
        path = torch.zeros_like(x)
        path[..., 0] = (torch.arange(F) / SIZE)[:, None]
        return path

    ground = torch.tensor([1.0, 0, 0])[:, None, None]
    with trace(flow_warp, edits=[Replace("masks", lambda x: ground.expand_as(x).clone()), Replace("motion", march)]):
        out = flow_warp(*args)
    for f in range(F):
        assert torch.allclose(out.frames[0, f, :, :, f:], args[0].frame[0, :, :, : SIZE - f], atol=1e-4)
        assert not out.valid[0, f, :, :, :f].any()


def test_derived_maps_can_be_read_but_not_edited(flow_warp) -> None:
    args = inputs()
    plain = flow_warp(*args)
    with trace(flow_warp, edits=[Identity("flow")], capture=["flow", "owner"]) as t:
        assert torch.equal(flow_warp(*args).frames, plain.frames)
    moved = compose(args[0].frame, plain.masks, args[3])
    assert torch.equal(t.record["flow"].tensor, moved.flow) and torch.equal(t.record["owner"].tensor, moved.owner)
    with pytest.raises(ValueError, match="flow is derived and can only be recorded"):
        trace(flow_warp, edits=[Zero("flow")])


def test_attention_mixes_patches_of_the_first_frame_by_what_the_generator_sees() -> None:
    module, args = VARIANTS["temporal_attention"](CONFIG).eval(), inputs()
    with trace(module, capture=["attn.pattern"]) as t:
        out = module(*args)
    pattern = t.record["attn.pattern"].tensor
    assert pattern.shape == (B, 2, F * 16, 16) and torch.allclose(pattern.sum(-1), torch.ones(()), atol=1e-5)
    image, condition, draft, motion = args
    other = module(image, condition, draft._replace(features=torch.randn_like(draft.features)), motion)
    assert not torch.allclose(other.frames[:, 1:], out.frames[:, 1:], atol=1e-4)
    assert out.masks.shape[1] == 0 and out.scope[0].tolist() == [1, 0, 0, 0]


def test_deformable_alignment_looks_up_where_its_offsets_say() -> None:
    """One pixel to the right a frame, of every tap alike: the video is the frame, rolled."""
    module, args = VARIANTS["deformable"](CONFIG).eval(), inputs()

    def march(x: Tensor) -> Tensor:
        path = torch.zeros_like(x)                          # dy, dx of each tap
        path[:, :, 1::2] = -torch.arange(F, dtype=x.dtype)[:, None, None, None]
        return path

    edits = [Replace("offset", march), Replace("weight", torch.ones_like), Replace("trust", torch.ones_like)]
    with trace(module, edits=edits) as t:
        out = module(*args)
    assert t.ledger.ok and out.masks.shape[1] == 0 and out.scope[0].tolist() == [1, 0, 0, 0]
    for f in range(F):
        assert torch.allclose(out.frames[0, f, :, :, f:], args[0].frame[0, :, :, : SIZE - f], atol=1e-5)


def test_deformable_alignment_learns_where_to_look() -> None:
    module, (image, condition, draft, motion) = VARIANTS["deformable"](CONFIG), inputs()
    module(image, condition, draft, motion).frames.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in module.named_parameters() if "net" in name)


def test_gradients_reach_the_motion_and_the_segmentation(flow_warp) -> None:
    image, condition, draft, motion = inputs()
    motion.requires_grad_()
    flow_warp(image, condition, draft, motion).frames.square().sum().backward()
    assert motion.grad is not None and motion.grad[:, 1:].abs().sum() > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in flow_warp.parameters())
