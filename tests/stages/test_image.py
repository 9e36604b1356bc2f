"""The image stage: what it hands on, and the trained null condition where there is no image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from wanlab.core import Bypass, Zero, trace
from wanlab.pipelines.load import CLASSES
from wanlab.stages import latent
from wanlab.stages.image import Config, Encoder, Image, ImageEncoder

PIXELS = Config(size=16, output=32, width=16, heads=2)
LATENT = latent.Config(size=16, output=32, picture=32, vae_widths=(8, 8), vae_blocks=1, vae_groups=4, patch=4, dit_width=16,
                       heads=2, depth=2, layer="blocks.0", width=16)


@pytest.fixture(params=CLASSES["image"])
def encoder(request: pytest.FixtureRequest, placed: str) -> Encoder:
    module = CLASSES["image"][request.param][0](LATENT if request.param == "latent_dit" else PIXELS)
    torch.nn.init.normal_(module.null_frame)
    return module.eval()


def same(one: Image, other: Image, row: int = 0, of: int = 0) -> bool:
    return all(torch.allclose(a[row], b[of], atol=1e-6) for a, b in zip(one, other, strict=True))


def test_it_hands_on_tokens_and_the_frame_at_two_sizes(encoder: Encoder) -> None:
    image = torch.rand(2, 3, 32, 32)
    out = encoder(image)
    assert out.tokens.shape == (2, 16, 16) and torch.allclose(out.pooled, out.tokens.mean(1))
    assert torch.equal(out.reference, 2 * image - 1)
    assert torch.allclose(out.frame, 2 * F.interpolate(image, (16, 16), mode="area") - 1, atol=1e-6)
    assert out.present.tolist() == [1, 1]


def test_tokens_lie_in_raster_order(encoder: Encoder) -> None:
    """A change in one patch moves that patch's embedding most, and of a transformer no other."""
    image = torch.rand(1, 3, 32, 32)
    other = image.clone()
    other[..., 8:16, 24:32] = 0                         # row 1, column 3 of 4 x 4 patches
    if isinstance(encoder, latent.LatentEncoder):
        pytest.skip("an autoencoder spreads a change over the frame; patches of the latent are tested with the DiT")
    with trace(encoder, capture=["embed"]) as t:
        encoder(torch.cat([image, other]))
    a, b = t.record["embed"].tensor
    change = (a - b).square().sum(-1)
    assert change.argmax() == 7
    if isinstance(encoder, ImageEncoder):
        assert change.nonzero().flatten().tolist() == [7]


def test_rows_without_an_image_are_the_learned_null(encoder: Encoder) -> None:
    image = torch.rand(2, 3, 32, 32)
    out = encoder(image, torch.tensor([0.0, 1.0]))
    assert same(out, encoder.null_image(1)) and same(out, encoder(image), 1, 1)
    assert torch.equal(out.frame[0], encoder.null_frame) and not out.reference[0].any()


def test_the_stage_removed_is_no_image(encoder: Encoder) -> None:
    image = torch.rand(1, 3, 32, 32)
    with trace(encoder, edits=[Bypass("{tokens,pooled,frame,reference,present}")]) as t:
        removed = encoder(image)
    assert t.ledger.ok and same(removed, encoder(image, torch.zeros(1))) and not same(removed, encoder(image))


def test_what_it_hands_on_can_be_edited_one_by_one(encoder: Encoder) -> None:
    image = torch.rand(1, 3, 32, 32)
    plain = encoder(image)
    with trace(encoder, edits=[Zero("reference")]):
        edited = encoder(image)
    assert not edited.reference.any() and torch.equal(edited.tokens, plain.tokens) and torch.equal(edited.frame, plain.frame)


def test_rows_do_not_see_each_other(encoder: Encoder) -> None:
    image = torch.rand(3, 3, 32, 32)
    assert same(encoder(image), encoder(image[2:]), 2, 0)


def test_sizes_that_do_not_fit_are_told(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match=r"image must be b 3 32 32, got \(1, 3, 16, 16\)"):
        encoder(torch.rand(1, 3, 16, 16))
    with pytest.raises(ValueError, match="patch 5 must divide size 16"):
        ImageEncoder(Config(size=16, output=32, patch=5))
    with pytest.raises(ValueError, match=r"patch must be 2, 4, 8, .* not 1"):
        CLASSES["image"]["conv"][0](Config(size=16, output=32, patch=1))


def test_a_convolution_sees_as_far_as_its_blocks_reach() -> None:
    encoder = CLASSES["image"]["conv"][0](Config(size=64, output=64, width=16, depth=1)).eval()
    image = torch.rand(1, 3, 64, 64)
    other = image.clone()
    other[..., :4, :4] = 1 - other[..., :4, :4]
    change = (encoder(image).tokens - encoder(other).tokens).square().sum(-1)[0].unflatten(0, (16, 16))
    near, far = change[:4, :4].mean(), change[8:, 8:].mean()
    assert near > 10 * far                                  # what is left there comes through the norms, which see the whole frame
