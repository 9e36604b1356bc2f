"""The article's image stage: how much noise the DiT is given, which layer is read, its projection and pooling."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler

from tests.stages.test_image import LATENT
from wanlab.core import Bypass, Zero, trace
from wanlab.stages.latent import Config, LatentEncoder


def made(**settings: object) -> LatentEncoder:
    torch.manual_seed(0)
    return LatentEncoder(replace(LATENT, **settings)).eval()


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("time", [0, 50, 999])
def test_the_latent_is_noised_as_in_the_training_of_the_dit(image: torch.Tensor, time: int) -> None:
    stage = made(time=time)
    schedule = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    with trace(stage, capture=["latent", "noise", "dit.patches"]) as t:
        stage(image)
    latent = t.record["latent"].tensor
    expected = schedule.add_noise(latent, stage.grain.expand_as(latent), torch.tensor([time, time]))
    assert torch.allclose(stage.kept * latent + t.record["noise"].tensor, expected, atol=1e-5)
    assert torch.equal(t.record["noise"].tensor[0], t.record["noise"].tensor[1])            # the same for every image


def test_the_layer_that_is_named_is_read(image: torch.Tensor) -> None:
    for i in range(LATENT.depth):
        stage = made(layer=f"blocks.{i}")
        with trace(stage, capture=[f"dit.blocks.{i}.resid_post", "features"]) as t:
            stage(image)
        assert torch.equal(t.record["features"].tensor, t.record[f"dit.blocks.{i}.resid_post"].tensor)


def test_noise_projection_pooling_and_time_are_sites(image: torch.Tensor) -> None:
    stage = made(pooling="attention")
    plain = stage(image)
    for edit in (Bypass("noise"), Zero("projected"), Bypass("dit.time"), Zero("pool.pattern", heads=0)):
        with trace(stage, edits=[edit]) as t:
            edited = stage(image)
        assert t.ledger.ok and not torch.equal(edited.pooled, plain.pooled), edit
        assert torch.equal(edited.tokens, plain.tokens) is (edit.where.at == "pool.pattern")


def test_both_pooled_and_token_features_are_there_in_every_variant(image: torch.Tensor) -> None:
    for settings in ({}, {"projection": "mlp"}, {"pooling": "attention"}):
        out = made(**settings)(image)
        assert out.tokens.shape == (2, 16, 16) and out.pooled.shape == (2, 16)
        assert torch.allclose(out.pooled, out.tokens.mean(1), atol=1e-6) is ("pooling" not in settings)


def test_sizes_are_the_article_s() -> None:
    sizes = Config().sizes
    assert (sizes.side, sizes.patch, sizes.width, sizes.depth, Config().grid) == (32, 2, 1152, 28, 16)


@pytest.mark.parametrize(("settings", "said"), [
    ({"picture": 36}, "8 must divide picture 36"), ({"output": 40}, "size 16 output 40"), ({"time": 1000}, "from 0 to 999"),
    ({"layer": "blocks.2"}, "no layer 'blocks.2'"), ({"pooling": "max"}, "no pooling 'max'"),
    ({"projection": "lin"}, "no projection 'lin'.*linear")])
def test_settings_that_cannot_be_are_told(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(**settings)
