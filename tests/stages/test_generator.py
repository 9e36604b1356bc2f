"""The generator: what it predicts, what it reads, and who decides between painting and carrying over."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wanlab.core import Bypass, Zero, trace
from wanlab.stages.fusion import Condition
from wanlab.stages.generator import Blend, Config, Draft, Generator

B, F, SLOTS, SIZE, CONTEXT = 2, 4, 3, 16, 12


def make(temporal: bool = True) -> Generator:
    """A small generator without the zeros that it starts from."""
    module = Generator(Config(size=SIZE, patch=4, widths=(16, 24), heads=4, context=CONTEXT, temporal=temporal))
    for parameter in module.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return module.eval()


@pytest.fixture
def generator() -> Generator:
    return make()


def condition() -> Condition:
    n = (SIZE // 4) ** 2
    context = torch.randn(B, 5 + n + SLOTS, CONTEXT)
    return Condition(context, torch.zeros(B, 5 + n + SLOTS), context[:, 5 : 5 + n], context[:, 5 + n :], torch.randn(B, CONTEXT))


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor, Condition]:
    return torch.randn(B, F, 3, SIZE, SIZE), torch.randn(B, F, SLOTS, 5), torch.rand(B, 3, SIZE, SIZE) * 2 - 1, condition()


def test_it_drafts_video_and_motion(generator: Generator, inputs) -> None:
    draft = generator(*inputs)
    assert draft.paint.shape == (B, F, 3, SIZE, SIZE) and draft.hint.shape == (B, F, 1, SIZE, SIZE)
    assert draft.motion.shape == (B, F, SLOTS, 5) and draft.features.shape == (B, F, 16, 4, 4)


@pytest.mark.parametrize("which", ["noisy", "noisy_motion", "frame", "context", "grounded", "slots", "pooled"])
def test_video_and_motion_depend_on_all_that_is_given(generator: Generator, inputs, which: str) -> None:
    noisy, motion, frame, given = inputs
    changed = {
        "noisy": lambda: (noisy + torch.randn_like(noisy), motion, frame, given),
        "noisy_motion": lambda: (noisy, motion + torch.randn_like(motion), frame, given),
        "frame": lambda: (noisy, motion, frame + torch.randn_like(frame), given),
    }.get(which, lambda: (noisy, motion, frame, given._replace(**{which: torch.randn_like(getattr(given, which))})))()
    plain, other = generator(*inputs), generator(*changed)
    assert not torch.allclose(plain.paint, other.paint, atol=1e-4)
    assert not torch.allclose(plain.motion, other.motion, atol=1e-4)


def test_hidden_context_is_not_read(generator: Generator, inputs) -> None:
    noisy, motion, frame, given = inputs
    bias = given.bias.clone()
    bias[:, 2:5] = -1e9
    other = given.context.clone()
    other[:, 2:5] = torch.randn(B, 3, CONTEXT)
    one, two = (generator(noisy, motion, frame, given._replace(bias=bias, context=x)) for x in (given.context, other))
    assert torch.allclose(one.paint, two.paint, atol=1e-5) and torch.allclose(one.motion, two.motion, atol=1e-5)


def test_frames_agree_through_temporal_attention_alone(generator: Generator, inputs) -> None:
    noisy, motion, frame, given = inputs
    other = noisy.clone()
    other[:, 3] += 1
    assert not torch.allclose(generator(*inputs).paint[:, :3], generator(other, motion, frame, given).paint[:, :3], atol=1e-5)
    for module, edits in ((generator, [Bypass("**.temporal.out")]), (make(temporal=False), [])):
        with trace(module, edits=edits):
            one, two = module(*inputs), module(other, motion, frame, given)
        assert torch.allclose(one.paint[:, :3], two.paint[:, :3], atol=1e-5)
        assert not torch.allclose(one.paint[:, 3], two.paint[:, 3], atol=1e-5)


def test_the_order_of_frames_is_known_without_temporal_attention(inputs) -> None:
    noisy, motion, frame, given = inputs
    module = make(temporal=False)
    still = module(noisy[:, :1].expand_as(noisy), motion[:, :1].expand_as(motion), frame, given)
    assert not torch.allclose(still.paint[:, 0], still.paint[:, 3], atol=1e-4)


@pytest.mark.parametrize("level", [0, 1])
def test_skips_can_be_cut(generator: Generator, inputs, level: int) -> None:
    plain = generator(*inputs).paint
    with trace(generator, edits=[Zero(f"skip.{level}")]) as t:
        assert not torch.allclose(generator(*inputs).paint, plain, atol=1e-4)
    assert t.ledger.ok


def test_every_site_fires_with_the_axes_it_declares(generator: Generator, inputs) -> None:
    with trace(generator, capture=["**"], strict=False) as t:
        draft = generator(*inputs)
        generator.blend(draft, torch.rand_like(draft.paint), torch.rand_like(draft.hint), inputs[0])
    assert t.ledger.ok and {"blend.gate", "mid.temporal.attn.z", "up.1.cross.attn.pattern", "input"} <= set(t.record)


def test_rows_do_not_see_each_other(generator: Generator, inputs) -> None:
    noisy, motion, frame, given = inputs
    alone = generator(noisy[1:], motion[1:], frame[1:], Condition(*(v[1:] for v in given)))
    both = generator(*inputs)
    assert all(torch.allclose(a[1:], b, atol=1e-4) for a, b in zip(both, alone, strict=True))


def blended(hint: float, valid: float) -> tuple[Tensor, Draft, Tensor, Tensor]:
    paint, aligned, noisy = (torch.randn(B, F, 3, SIZE, SIZE) for _ in range(3))
    draft = Draft(paint, torch.full((B, F, 1, SIZE, SIZE), hint), torch.zeros(B, F, SLOTS, 5), torch.zeros(B, F, 16, 4, 4))
    blend = Blend()
    with trace(blend, capture=["gate"]) as t:
        out = blend(draft, aligned, torch.full((B, F, 1, SIZE, SIZE), valid), noisy)
    return out, draft, aligned, t.record["gate"].tensor


def test_the_blend_lies_between_the_aligned_frame_and_the_paint() -> None:
    out, draft, aligned, gate = blended(0.0, 0.5)
    assert gate.min() > 0 and gate.max() <= 0.5
    assert torch.allclose(out, (1 - gate) * aligned + gate * draft.paint, atol=1e-6)


@pytest.mark.parametrize(("hint", "valid", "painted"), [(-50.0, 0.0, False), (50.0, 0.0, True), (50.0, 1.0, False)])
def test_what_was_not_seen_is_painted_as_the_hint_says_and_what_was_seen_never(hint: float, valid: float, painted: bool) -> None:
    out, draft, aligned, _ = blended(hint, valid)
    assert torch.allclose(out, draft.paint if painted else aligned, atol=1e-5)
