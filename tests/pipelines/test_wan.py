"""Wan as a pipeline: against diffusers' own pipelines on the same weights and seeds, and what it says of wrong input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline, WanTransformer3DModel
from PIL import Image
from transformers import CLIPImageProcessor

import wanlab
from tests.pipelines.wan import made
from wanlab.analysis import attention
from wanlab.core import Bypass, CutFrames, Scale, SelectionError, trace
from wanlab.pipelines.wan21 import GeometryError, Wan, check_geometry
from wanlab.stages.dit import Dit
from wanlab.stages.dit_keys import to_diffusers
from wanlab.stages.experts import Experts
from wanlab.stages.pieces import small_tokenizer


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


def transformer(dit: Dit) -> WanTransformer3DModel:
    """diffusers' transformer with the weights of ours."""
    size = dit.config
    made = WanTransformer3DModel(
        patch_size=size.patch, num_attention_heads=size.heads, attention_head_dim=size.head_width, in_channels=size.inputs,
        out_channels=size.outputs, text_dim=size.text_width, freq_dim=size.frequencies, ffn_dim=size.hidden, num_layers=size.depth,
        image_dim=size.image_width, added_kv_proj_dim=size.width if size.image_width else None, rope_max_seq_len=32,
        pos_embed_seq_len=size.image_places).eval()
    made.load_state_dict(to_diffusers(dit.state_dict()), strict=True)
    return made


def theirs(pipe: Wan, image: bool | None = None) -> Any:
    """diffusers' pipeline around the same encoders and transformers of its own with the same weights."""
    experts = isinstance(pipe.dit, Experts)
    parts = {"tokenizer": pipe.text.tokenizer, "text_encoder": pipe.text.encoder.inner, "vae": pipe.vae.encoder.net.inner,
             "transformer": transformer(pipe.dit.high if experts else pipe.dit),
             "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
             "expand_timesteps": pipe.config.get("time_per_token", False)}
    if experts:
        parts |= {"transformer_2": transformer(pipe.dit.low), "boundary_ratio": pipe.dit.boundary}
    if pipe.takes_image if image is None else image:
        eye = {"image_encoder": pipe.clip.tower.inner, "image_processor": pipe.clip.processor} if pipe.dit.img_emb else {}
        made = WanImageToVideoPipeline(**parts, **eye)
    else:
        made = WanPipeline(**parts)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_text_to_video_equals_diffusers(t2v: Wan, guidance: float) -> None:
    expected = theirs(t2v)(prompt="a red circle moves left", negative_prompt="a dog", height=32, width=32, num_frames=9,
                           num_inference_steps=4, guidance_scale=guidance, generator=torch.Generator().manual_seed(7),
                           output_type="pt").frames
    negative = None if guidance == 1 else "a dog"         # which nothing reads there
    ours = t2v.generate(None, "a red circle moves left", seed=7, steps=4, guidance=guidance, negative=negative).video
    assert ours.shape == expected.shape == (1, 9, 3, 32, 32)
    assert (ours - expected).abs().max() <= 1e-4


def test_image_to_video_equals_diffusers(i2v: Wan, picture: Image.Image) -> None:
    expected = theirs(i2v)(image=picture, prompt="a cat moves right", negative_prompt="", height=32, width=32, num_frames=9,
                           num_inference_steps=4, guidance_scale=3.0, generator=torch.Generator().manual_seed(3),
                           output_type="pt").frames
    ours = i2v.generate(picture, "a cat moves right", seed=3, steps=4, guidance=3.0).video
    assert (ours - expected).abs().max() <= 1e-4


@pytest.fixture(scope="module")
def last() -> Image.Image:
    drawn = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(6))
    return Image.fromarray((drawn.numpy() * 255).astype(np.uint8))


def test_first_and_last_frame_to_video_equals_diffusers(picture: Image.Image, last: Image.Image) -> None:
    pipe = made("flf2v")
    expected = theirs(pipe)(image=picture, last_image=last, prompt="a cat moves right", negative_prompt="a dog",
                            height=32, width=32, num_frames=9, num_inference_steps=4, guidance_scale=3.0,
                            generator=torch.Generator().manual_seed(3), output_type="pt").frames
    ours = pipe.generate(picture, "a cat moves right", 3, last_image=last, steps=4, guidance=3.0, negative="a dog")
    assert (ours.video - expected).abs().max() <= 1e-4
    condition = ours.nodes["first"]["condition"][0, :, :4, 0, 0]
    assert condition.tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]]
    two = pipe.generate([picture, last], "a cat", [3, 4], last_image=[last, picture], steps=1).video
    assert torch.allclose(two[1:], pipe.generate(last, "a cat", 4, last_image=picture, steps=1).video, atol=1e-5)
    with pytest.raises(ValueError, match=r"between two images.*give last_image"):
        pipe.generate(picture, "a dog")


@pytest.mark.parametrize("kind", ["a14b", "a14b-t2v"])
def test_two_experts_equal_diffusers(kind: str, picture: Image.Image, last: Image.Image) -> None:
    pipe = made(kind)
    image = {"image": picture, "last_image": last} if kind == "a14b" else {}
    asked = {"prompt": "a cat moves right", "negative_prompt": "a dog", "height": 32, "width": 32, "num_frames": 9,
             "num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "pt"}
    settings = {"last_image": image.get("last_image"), "steps": 4, "guidance": 3.0, "negative": "a dog"}
    for more, ours in (({"guidance_scale_2": 1.5}, {"guidance_2": 1.5}), ({}, {})):
        expected = theirs(pipe)(**asked, **image, **more, generator=torch.Generator().manual_seed(3)).frames
        out = pipe.generate(image.get("image"), "a cat moves right", 3, **settings, **ours)
        assert (out.video - expected).abs().max() <= 1e-4
    assert {name: len(steps) for name, steps in pipe.dit.steps(pipe.sampler.times(4)).items()} == {"high": 2, "low": 2}


@pytest.mark.parametrize("image", [True, False])
def test_a_time_for_each_token_equals_diffusers(image: bool, picture: Image.Image) -> None:
    pipe = made("5b")
    given = {"image": picture} if image else {}
    expected = theirs(pipe, image)(**given, prompt="a cat moves right", negative_prompt="a dog", height=32, width=32, num_frames=9,
                                   num_inference_steps=4, guidance_scale=3.0, generator=torch.Generator().manual_seed(3),
                                   output_type="pt").frames
    ours = pipe.generate(given.get("image"), "a cat moves right", 3, steps=4, guidance=3.0, negative="a dog").video
    assert ours.shape == expected.shape and (ours - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", ["t2v", "a14b"])
def test_the_difference_of_the_branches_is_known_from_a_dry_run_of_one(kind: str, picture: Image.Image) -> None:
    pipe = made(kind)
    site, guided = pipe.sites()["sampler.video.difference"], pipe.sites()["sampler.video.guided"]
    assert (site.shape, site.clock, site.bypass) == (guided.shape, {"step"}, False)
    given = None if kind == "t2v" else picture
    plain, twice = (pipe.generate(given, "a cat", 3, guidance=scale, capture="sampler.video.difference") for scale in (2.0, 4.0))
    scaled = pipe.generate(given, "a cat", 3, guidance=2.0, edits=Scale("sampler.video.difference", 2.0))
    assert torch.equal(plain.record["sampler.video.difference", 0].tensor, twice.record["sampler.video.difference", 0].tensor)
    assert (scaled.video - twice.video).abs().max() < 1e-4 < (plain.video - twice.video).abs().max()


def test_edits_reach_the_experts_in_their_own_steps(picture: Image.Image) -> None:
    pipe = made("a14b")
    names = [site.name for site in pipe.sites("dit.**.blocks.1.mlp_out")]
    assert names == ["dit.high.blocks.1.mlp_out", "dit.low.blocks.1.mlp_out"] and all(site.shape for site in pipe.sites("dit.**"))
    plain = pipe.generate(picture, "a cat", 3, capture="sampler.video.latent")
    both = pipe.generate(picture, "a cat", 3, edits=Bypass("dit.**.blocks.1.mlp_out"), capture="dit.*.blocks.1.mlp_out")
    assert both.ledger.ok and not torch.equal(both.video, plain.video)
    assert {(key.site, key.step) for key in both.record.firings} == {(f"dit.{name}.blocks.1.mlp_out", step)
                                                                      for name, steps in (("high", (0, 1)), ("low", (2, 3)))
                                                                      for step in steps}
    low = pipe.generate(picture, "a cat", 3, edits=Bypass("dit.low.blocks.1.mlp_out"), capture="sampler.video.latent")
    before, after = (out.record["sampler.video.latent"].tensor for out in (plain, low))
    assert torch.equal(before[:2], after[:2]) and not torch.equal(before[2], after[2])
    some = pipe.generate(picture, "a cat", 3, edits=Bypass("dit.**.blocks.1.mlp_out", steps=0))
    assert some.ledger.ok and not torch.equal(some.video, plain.video)
    with pytest.raises(SelectionError, match=r"dit\.low\.blocks\.1\.mlp_out fires only in steps 2 to 3"):
        pipe.generate(picture, "a cat", 3, edits=Bypass("dit.low.blocks.1.mlp_out", steps="0:2"))
    with pytest.raises(SelectionError, match="in no step"):
        pipe.generate(picture, "a cat", 3, edits=Bypass("dit.low.blocks.1.mlp_out"), steps=1)


@pytest.mark.parametrize("kind", ["flf2v", "a14b", "5b"])
def test_every_component_of_the_later_models_changes_the_video(kind: str, picture: Image.Image, last: Image.Image) -> None:
    pipe = made(kind)
    asked = {"last_image": last} if kind == "flf2v" else {}
    plain = pipe.generate(picture, "a red circle", 1, **asked).video
    for component in pipe.components:
        removed = pipe.generate(picture, "a red circle", 1, edits=pipe.ablate(component), **asked)
        assert removed.ledger.ok and not torch.equal(removed.video, plain), component


def test_the_image_branch_says_what_it_reads_of_the_picture(i2v: Wan, picture: Image.Image) -> None:
    seen = attention.read(i2v, picture, "a cat", 0, at="dit.**", steps=1, maps="dit.blocks.0.cross_attn.img")
    numbers = seen.statistics().sel(step=0, branch="cond", layer="dit.blocks.0.cross_attn.img").isel(row=0)
    dense = i2v.generate(picture, "a cat", 0, steps=1, capture="dit.blocks.0.cross_attn.img.pattern@branch=cond").record
    dense = dense["dit.blocks.0.cross_attn.img.pattern", 0, "cond"].to_numpy()[0]
    patches = i2v.clip.side**2
    assert dense.shape[-1] == 1 + patches                                              # the class token, then the patches
    assert np.allclose(numbers["image"], dense[..., 1:].sum(-1).mean((1, 2, 3)), atol=1e-6)
    one = seen.map("dit.blocks.0.cross_attn.img", 0, "cond")
    assert np.allclose(one.row(0, 1, 0).values.reshape(2, -1), dense[:, 0, 1, 0, 1:], atol=1e-6)


def test_what_only_other_models_take_is_refused(t2v: Wan, i2v: Wan, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match=r"takes no last frame; wan2.1-flf2v-14b-720p"):
        i2v.generate(picture, "a dog", last_image=picture)
    with pytest.raises(ValueError, match="guidance_2 is for the second"):
        t2v.generate(None, "a dog", guidance_2=3.0)
    assert torch.equal(made("5b").generate(None, "a dog", steps=1).video, made("5b").generate(None, "a dog", steps=1).video)


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


def test_a_pipeline_that_was_moved_to_half_precision_as_a_whole_says_how_to_load_it() -> None:
    with pytest.raises(ValueError, match=r"the stage vae is in torch.bfloat16, .* wanlab.load\(name, dtype=torch.bfloat16\)"):
        made("t2v").to(torch.bfloat16).generate(None, "a cat", steps=1)


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


def test_content_keys_tell_the_tokenizer_and_the_preparation_of_pictures() -> None:
    """Equal weights read by another tokenizer give another output, and so another key; what a call asks of it does not."""
    pipe, other = made("i2v"), made("i2v")
    keys = {stage: pipe.hash_of(stage) for stage in ("text", "clip", "dit")}
    picture = torch.rand(1, 3, 48, 32, generator=torch.Generator().manual_seed(0))
    said, seen = pipe.text(["a zebra"]), pipe.clip(picture)
    assert {stage: pipe.hash_of(stage) for stage in keys} == keys == {stage: other.hash_of(stage) for stage in keys}
    other.text.__dict__["tokenizer"] = small_tokenizer(30)
    other.clip.__dict__["processor"] = CLIPImageProcessor(**{**pipe.clip.processor.to_dict(), "image_mean": (0.1, 0.2, 0.3)})
    assert not torch.equal(other.text(["a zebra"]), said) and not torch.equal(other.clip(picture), seen)
    assert [stage for stage in keys if other.hash_of(stage) != keys[stage]] == ["text", "clip"]
    other.text.__dict__["tokenizer"] = str.split
    with pytest.raises(TypeError, match="no content key for a tokenizer"):
        other.hash_of("text")
