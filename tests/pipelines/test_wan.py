"""Wan as a pipeline: against diffusers' own pipelines on the same weights and seeds, and what it says of wrong input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from PIL import Image

import wanlab
from tests.pipelines.wan import made
from wanlab.core import Bypass, CutFrames, trace
from wanlab.pipelines.wan21 import GeometryError, Wan, check_geometry
from wanlab.stages.dit_keys import to_diffusers


@pytest.fixture(scope="module")
def i2v() -> Wan:
    return made("i2v")


@pytest.fixture(scope="module")
def t2v() -> Wan:
    return made("t2v")


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    drawn = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(5))
    return Image.fromarray((drawn.numpy() * 255).astype(np.uint8))


def theirs(pipe: Wan) -> Any:
    """diffusers' pipeline around the same encoders and a transformer of its own with the same weights."""
    size = pipe.dit.config
    transformer = WanTransformer3DModel(
        patch_size=size.patch, num_attention_heads=size.heads, attention_head_dim=size.head_width, in_channels=size.inputs,
        out_channels=size.outputs, text_dim=size.text_width, freq_dim=size.frequencies, ffn_dim=size.hidden, num_layers=size.depth,
        image_dim=size.image_width, added_kv_proj_dim=size.width if size.image_width else None, rope_max_seq_len=32).eval()
    transformer.load_state_dict(to_diffusers(pipe.dit.state_dict()), strict=True)
    parts = {"tokenizer": pipe.text.tokenizer, "text_encoder": pipe.text.encoder.inner, "transformer": transformer,
             "vae": pipe.vae.encoder.net.inner,
             "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)}
    if size.image_width:
        made = WanImageToVideoPipeline(**parts, image_encoder=pipe.clip.tower.inner, image_processor=pipe.clip.processor)
    else:
        made = WanPipeline(**parts)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_text_to_video_equals_diffusers(t2v: Wan, guidance: float) -> None:
    expected = theirs(t2v)(prompt="a red circle moves left", negative_prompt="a dog", height=32, width=32, num_frames=9,
                           num_inference_steps=4, guidance_scale=guidance, generator=torch.Generator().manual_seed(7),
                           output_type="pt").frames
    ours = t2v.generate(None, "a red circle moves left", seed=7, steps=4, guidance=guidance, negative="a dog").video
    assert ours.shape == expected.shape == (1, 9, 3, 32, 32)
    assert (ours - expected).abs().max() <= 1e-4


def test_image_to_video_equals_diffusers(i2v: Wan, picture: Image.Image) -> None:
    expected = theirs(i2v)(image=picture, prompt="a cat moves right", negative_prompt="", height=32, width=32, num_frames=9,
                           num_inference_steps=4, guidance_scale=3.0, generator=torch.Generator().manual_seed(3),
                           output_type="pt").frames
    ours = i2v.generate(picture, "a cat moves right", seed=3, steps=4, guidance=3.0).video
    assert (ours - expected).abs().max() <= 1e-4


def test_an_image_where_none_is_taken_and_none_where_one_is(t2v: Wan, i2v: Wan, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match=r"text-to-video.*i2v-14b"):
        t2v.generate(picture, "a dog")
    with pytest.raises(ValueError, match="makes a video from an image"):
        i2v.generate(None, "a dog")


@pytest.mark.parametrize(("size", "frames", "says"), [
    ((30, 32), 9, r"multiples of 16, got 30 x 32; nearest: 32 x 32"), (32, 8, r"4n \+ 1 frames.*got 8; nearest: 9"),
    ((8, 32), 9, "nearest: 16 x 32"), (32, 0, "nearest: 1"),
])  # fmt: skip
def test_sizes_that_do_not_fit_name_the_nearest(size: Any, frames: int, says: str) -> None:
    with pytest.raises(GeometryError, match=says):
        check_geometry(size, frames, (1, 2, 2))


def test_words_are_found_through_the_pieces_of_the_tokenizer(t2v: Wan) -> None:
    request = t2v.request(None, "A red circle, zigzagging left")
    ids = t2v.text.tokenizer(request.prompts[0]).input_ids
    pieces = t2v.text.tokenizer.convert_ids_to_tokens(ids)
    assert t2v.words_of(request, 0) == ["A", "red", "circle", ",", "zigzagging", "left"]
    assert [pieces[i] for i in t2v.tokens_of(request, "left", 0)] == ["▁left"]
    spelled = "".join(pieces[i] for i in t2v.tokens_of(request, "zigzagging", 0))
    assert spelled.strip("▁") == "zigzagging"
    with pytest.raises(LookupError, match="circle"):
        t2v.tokens_of(request, "circel", 0)


def test_a_prompt_that_is_too_long_is_cut_and_says_what_was_lost(t2v: Wan) -> None:
    with pytest.warns(UserWarning, match=r"603 tokens.*takes 511.*blue cat'"):
        t2v.text(["red " * 600 + "the blue cat"])


def test_removing_text_is_the_empty_prompt_in_both_branches(t2v: Wan) -> None:
    empty = t2v.generate(None, "", seed=1, negative="").video
    assert torch.equal(t2v.generate(None, "a dog moves up", seed=1, negative="a cat", edits=t2v.ablate("text")).video, empty)


def test_every_component_changes_the_video(i2v: Wan, picture: Image.Image) -> None:
    plain = i2v.generate(picture, "a red circle", seed=1).video
    for component in i2v.components:
        removed = i2v.generate(picture, "a red circle", seed=1, edits=i2v.ablate(component))
        assert removed.ledger.ok and not torch.equal(removed.video, plain), component
    clip = i2v.generate(picture, "a red circle", seed=1, edits=[*i2v.ablate("image.clip"), *i2v.ablate("image.latent")]).video
    assert torch.equal(clip, i2v.generate(picture, "a red circle", seed=1, edits=i2v.ablate("image")).video)


def test_without_the_image_latent_no_frame_is_given(i2v: Wan, picture: Image.Image) -> None:
    out = i2v.generate(picture, "a dog", edits=Bypass("vae.encoder.{mask,latent}"), steps=1)
    other = i2v.generate(Image.new("RGB", (32, 32)), "a dog", edits=Bypass("vae.encoder.{mask,latent}"), steps=1)
    condition = out.nodes["first"]["condition"]
    assert not condition[:, :, :4].any() and torch.equal(condition, other.nodes["first"]["condition"])


def test_stages_of_a_cascade_can_stand_after_the_decoder(t2v: Wan) -> None:
    with pytest.raises(LookupError, match=r"no gan_head.*attach"):
        t2v.ablate("gan_head")
    tiny = wanlab.load("tiny")
    both = t2v.attach(tiny)
    assert both.config["name"] == "wan-random-tiny-t2v+tiny (upsample+detail trained on procedural videos)"
    out = both.generate(None, "a dog", seed=2, steps=1)
    plain = t2v.generate(None, "a dog", seed=2, steps=1)
    assert out.video.shape == (1, 9, 3, 128, 128) and torch.equal(out.nodes["decode"]["video"], plain.video)
    assert both.dit is t2v.dit and both.detail is tiny.detail and not hasattr(t2v, "detail")
    for component in ("gan_head", "detail", "upsample.residual"):
        removed = both.generate(None, "a dog", seed=2, steps=1, edits=both.ablate(component))
        assert removed.ledger.ok and not torch.equal(removed.video, out.video), component


def test_what_frames_attend_to_can_be_cut_by_layer(t2v: Wan) -> None:
    """With every layer cut apart, a frame's prediction depends on that frame alone."""
    def velocity(latent: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), trace(t2v.dit, CutFrames("blocks.*.self_attn.frames")):
            return t2v.dit(latent, torch.tensor([500.0]), torch.zeros(1, 512, 32))

    latent = torch.randn(1, 3, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    other = latent.clone()
    other[:, 2] = 0
    one, two = velocity(latent), velocity(other)
    assert torch.equal(one[:, :2], two[:, :2]) and not torch.equal(one[:, 2], two[:, 2])
    seen = t2v.generate(None, "a dog", seed=0, steps=1, edits=CutFrames("dit.blocks.*.self_attn.frames"))
    read = t2v.generate(None, "a dog", seed=0, steps=1, edits=CutFrames("dit.blocks.*.self_attn.frames"),
                        capture="dit.blocks.0.self_attn.pattern")
    assert torch.equal(seen.video, read.video)
    pattern = read.record["dit.blocks.0.self_attn.pattern", 0, "cond"].tensor[0, 0]         # f h w j
    assert not pattern[0, ..., 4:].any() and torch.allclose(pattern.sum(-1), torch.ones(3, 2, 2), atol=1e-5)
