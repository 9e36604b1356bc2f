"""The fusion stage: image tokens and slots read the words that are there, at the present noise level."""

from __future__ import annotations

import pytest
import torch

from wanlab.core import Bypass, Zero, trace
from wanlab.pipelines.load import CLASSES
from wanlab.stages.fusion import Condition, Config, CrossAttentionFusion, Fusion
from wanlab.stages.image import Image
from wanlab.stages.text import Text

B, J, N, WIDTH, SLOTS = 2, 6, 9, 16, 3


@pytest.fixture(params=CLASSES["fusion"])
def fusion(request: pytest.FixtureRequest, placed: str) -> Fusion:
    return CLASSES["fusion"][request.param][0](Config(width=WIDTH, heads=4, slots=SLOTS)).eval()


@pytest.fixture
def cross(placed: str) -> CrossAttentionFusion:
    return CrossAttentionFusion(Config(width=WIDTH, heads=4, slots=SLOTS)).eval()


@pytest.fixture
def text(placed: str) -> Text:
    mask = torch.ones(B, J)
    mask[0, 4:] = 0
    return Text(torch.randn(B, J, WIDTH) * mask[..., None], mask)


@pytest.fixture
def image(placed: str) -> Image:
    frame = torch.zeros(B, 3, 12, 12)
    return Image(torch.randn(B, N, WIDTH), torch.randn(B, WIDTH), frame, frame, torch.ones(B))


def sigma() -> torch.Tensor:
    return torch.tensor([0.3, 0.8])


def rows(values, start: int):
    return type(values)(*(v[start:] for v in values))


def test_the_context_is_text_then_image_then_slots(fusion, text: Text, image: Image) -> None:
    out = fusion(text, image, sigma())
    assert isinstance(out, Condition) and out.context.shape == (B, J + N + SLOTS, WIDTH)
    assert torch.equal(out.context[:, :J], text.tokens)
    assert torch.equal(out.context[:, J : J + N], out.grounded) and torch.equal(out.context[:, J + N :], out.slots)
    assert out.pooled.shape == (B, WIDTH)


def test_only_padding_is_hidden_from_later_stages(fusion, text: Text, image: Image) -> None:
    bias = fusion(text, image, sigma()).bias
    assert (bias[0, 4:J] < -1e6).all()
    bias[0, 4:J] = 0
    assert not bias.any()


def test_padding_is_not_read(fusion, text: Text, image: Image) -> None:
    other = text._replace(tokens=torch.where(text.mask[..., None] > 0, text.tokens, torch.randn(B, J, WIDTH)))
    one, two = fusion(text, image, sigma()), fusion(other, image, sigma())
    assert torch.allclose(one.grounded, two.grounded, atol=1e-6) and torch.allclose(one.slots, two.slots, atol=1e-6)
    assert torch.allclose(one.pooled, two.pooled, atol=1e-6)


def test_words_image_and_noise_level_are_read(fusion, text: Text, image: Image) -> None:
    plain = fusion(text, image, sigma()).slots
    for changed in (
        fusion(text._replace(tokens=torch.randn(B, J, WIDTH)), image, sigma()),
        fusion(text, image._replace(tokens=torch.randn(B, N, WIDTH)), sigma()),
        fusion(text, image, sigma() / 2),
    ):
        assert not torch.allclose(changed.slots, plain, atol=1e-4)


def test_slots_of_equal_words_differ(fusion, text: Text, image: Image) -> None:
    slots = fusion(text, image, sigma()).slots
    assert (slots[:, 1] - slots[:, 2]).abs().max() > 0.1


def test_without_fusion_words_do_not_reach_image_tokens_and_slots(fusion, text: Text, image: Image) -> None:
    other = text._replace(tokens=torch.randn(B, J, WIDTH))
    with trace(fusion, edits=[Bypass("out")]) as t:
        one, two = fusion(text, image, sigma()), fusion(other, image, sigma())
    assert t.ledger.ok and torch.equal(one.grounded, two.grounded) and torch.equal(one.slots, two.slots)
    assert torch.allclose(one.grounded, fusion.norm_out(image.tokens))


def test_the_attention_map_of_a_word_can_be_read(cross, text: Text, image: Image) -> None:
    with trace(cross, capture=["attn.pattern"]) as t:
        cross(text, image, sigma())
    pattern = t.record["attn.pattern"].tensor
    assert pattern.shape == (B, 4, N + SLOTS, J) and pattern[0, ..., 4:].max() == 0
    assert torch.allclose(pattern.sum(-1), pattern.new_ones(()), atol=1e-5)


def test_rows_do_not_see_each_other(fusion, text: Text, image: Image) -> None:
    both, alone = fusion(text, image, sigma()), fusion(rows(text, 1), rows(image, 1), sigma()[1:])
    assert all(torch.allclose(a[1:], b, atol=1e-5) for a, b in zip(both, alone, strict=True))


@pytest.mark.parametrize("name", ["concat", "film", "gated"])
def test_pooled_fusion_tells_every_token_the_mean_of_the_words(name: str, text: Text, image: Image) -> None:
    fusion = CLASSES["fusion"][name][0](Config(width=WIDTH, heads=4, slots=SLOTS)).eval()
    with trace(fusion, capture=["told"]) as t:
        plain = fusion(text, image, sigma())
    shown = fusion.norm_text(text.tokens[0, :4]).mean(0)
    assert torch.allclose(t.record["told"].tensor[0], shown.cpu(), atol=1e-5)
    order = torch.tensor([3, 1, 0, 2, 4, 5])
    shuffled = fusion(text._replace(tokens=text.tokens[:, order]), image, sigma())
    assert torch.allclose(shuffled.slots[0], plain.slots[0], atol=1e-5)


def test_what_is_read_can_be_left_out(text: Text, image: Image) -> None:
    fusion = CLASSES["fusion"]["gated"][0](Config(width=WIDTH, heads=4, slots=SLOTS)).eval()
    other = text._replace(tokens=torch.randn(B, J, WIDTH))
    with trace(fusion, edits=[Bypass("read")]):
        one, two = fusion(text, image, sigma()), fusion(other, image, sigma())
    assert torch.equal(one.slots, two.slots)
    with trace(fusion, edits=[Zero("gate")]):
        assert torch.allclose(fusion(text, image, sigma()).slots, one.slots, atol=1e-5)
