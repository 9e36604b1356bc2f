"""The preset of the article at its full size, on the meta device: what the article says of its sizes, and what may be swapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import wanlab
from wanlab.pipelines.load import build_stage
from wanlab.pipelines.weights import WeightsError
from wanlab.stages.fusion import Condition
from wanlab.stages.generator import Config, Generator
from wanlab.stages.pieces import small_tokenizer


@pytest.fixture(scope="module")
def pipe() -> Any:
    return wanlab.load("article", init="meta")


def millions(pipe: Any, stage: str) -> int:
    return round(sum(value.numel() for value in pipe.get_submodule(stage).parameters()) / 1e6)


def test_sizes_are_those_of_the_article(pipe: Any) -> None:
    sites = pipe.sites()
    shapes = {
        "text.encoder.norm": (1, 77, 768), "text.out": (1, 77, 768),                                # T5-base
        "image.latent": (1, 4, 32, 32), "image.features": (1, 256, 1152), "image.dit.blocks.27.resid_post": (1, 256, 1152),
        "image.projected": (1, 256, 768), "image.pooled": (1, 768), "image.dit.time": (1, 1152), "fusion.time": (1, 768),
        "generator.noisy": (1, 16, 3, 64, 64), "generator.down.0.res.out": (1, 16, 320, 32, 32),
        "generator.mid.res.out": (1, 16, 1280, 8, 8), "align.masks": (1, 3, 64, 64),
        "upsample.0.out": (1, 16, 3, 128, 128), "upsample.1.out": (1, 16, 3, 256, 256), "upsample.2.out": (1, 16, 3, 512, 512),
        "upsample.3.out": (1, 16, 3, 1024, 1024), "upsample.3.residual.skip": (1, 16, 3, 1024, 1024),
        "detail.gan": (1, 16, 3, 1024, 1024), "discriminator.temporal": (1, 16, 1, 256, 256),
    }
    assert {name: sites[name].shape for name in shapes} == shapes
    assert [millions(pipe, stage) for stage in ("text", "image", "generator")] == [110, 710, 276]
    assert pipe.discriminator.config.taps == (64, 128, 256)                                         # of VGG-16


def test_one_forward_of_the_unet_is_at_most_two_teraflop(pipe: Any) -> None:
    before: list[int] = []
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        handles = [pipe.generator.register_forward_pre_hook(lambda *_: before.append(counter.get_total_flops())),
                   pipe.generator.register_forward_hook(lambda *_: before.append(counter.get_total_flops()))]
        try:
            pipe.generate(None, "", steps=1, guidance=1)
        finally:
            for handle in handles:
                handle.remove()
    assert 1e12 < before[1] - before[0] <= 2e12


def test_components_mean_what_they_mean_everywhere(pipe: Any) -> None:
    assert set(pipe.components) == set(wanlab.load("tiny", init="meta").components)
    for component in pipe.components:
        assert all(len(pipe.sites(edit.where.at)) for edit in pipe.ablate(component))


@pytest.mark.parametrize(("stage", "variant"), [
    ("image", "mlp_projection"), ("image", "attention_pooling"), ("fusion", "fourier_time"), ("fusion", "film"),
    ("align", "deformable"), ("upsample", "trilinear"), ("generator", "no_temporal")])
def test_every_stage_can_be_swapped_when_told_that_it_is_untrained(stage: str, variant: str) -> None:
    pipe = wanlab.load("article-random-tiny", init="random")
    with pytest.raises(WeightsError, match="say init='random'"):
        pipe.swap(stage, variant)
    other = pipe.swap(stage, variant, init="random")
    assert torch.isfinite(other.generate(torch.rand(3, 64, 64), "a circle", steps=1).video).all()
    assert other.hash_of(stage) != pipe.hash_of(stage)


def test_it_is_untrained_and_says_so(pipe: Any) -> None:
    assert pipe.config["note"].startswith("untrained")
    with pytest.raises(WeightsError, match=r"stage text, variant 't5_base' has no weights.*init='random'"):
        wanlab.load("article")


@pytest.mark.parametrize("build", [
    lambda: Config(size=64, patch=2, widths=(32, 64, 128, 256, 512, 1024, 2048)), lambda: Config(widths=(20, 40)),
    lambda: Config(widths=())])
def test_a_unet_that_cannot_be_is_told(build: Callable[[], Config]) -> None:
    with pytest.raises(ValueError, match=r"generator\.Config: (\d levels on patches|widths must be)"):
        build()


@pytest.mark.parametrize("widths", [(16,), (16, 24, 32, 40)])
def test_a_unet_of_any_depth_uses_every_weight_and_tokens_of_a_coarser_grid(widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    stage = Generator(Config(size=32, patch=2, widths=widths, heads=4, context=16))
    for parameter in stage.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    told = Condition(torch.randn(1, 24, 16), torch.zeros(1, 24), torch.randn(1, 16, 16), torch.randn(1, 3, 16), torch.randn(1, 16))
    draft = stage(torch.randn(1, 2, 3, 32, 32), torch.randn(1, 2, 3, 5), torch.randn(1, 3, 32, 32), told)
    assert draft.paint.shape == (1, 2, 3, 32, 32) and draft.features.shape == (1, 2, widths[0], 16, 16)
    (draft.paint.sum() + draft.hint.sum() + draft.motion.sum()).backward()
    idle = [name for name, value in stage.named_parameters() if value.grad is None and not name.startswith("blend")]
    assert not idle and set(stage.SITES) >= {f"skip.{i}" for i in range(len(widths))}


def test_a_stage_on_the_meta_device_has_no_values(pipe: Any) -> None:
    stage = build_stage(pipe.config, pipe.folder, "image", "dit_xl", "meta")
    assert all(value.is_meta for value in stage.parameters())


def test_the_tokenizer_is_part_of_the_content_key() -> None:
    pipe = wanlab.load("article-random-tiny", init="random")
    key, ids = pipe.hash_of("text"), pipe.text.ids(["a zebra"])
    assert pipe.hash_of("text") == key
    pipe.text.__dict__["tokenizer"] = small_tokenizer(30)
    assert not torch.equal(pipe.text.ids(["a zebra"]), ids) and pipe.hash_of("text") != key
