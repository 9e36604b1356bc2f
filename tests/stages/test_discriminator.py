"""Discriminator: one logit per patch and frame, from the content network's activations and from changes."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange

from wanlab.core import Bypass, Zero, sites_of, trace
from wanlab.nn.vgg import Vgg
from wanlab.stages.discriminator import Config, Discriminator


@pytest.fixture
def network() -> Vgg:
    return Vgg().eval().requires_grad_(False)


@pytest.fixture
def video() -> torch.Tensor:
    return torch.rand(2, 4, 3, 32, 24) * 2 - 1


def taps(network: Vgg, video: torch.Tensor) -> list[torch.Tensor]:
    """Activations of all frames."""
    return network((rearrange(video, "b f c h w -> (b f) c h w") + 1) / 2)


def test_it_judges_every_patch_of_every_frame(network, video) -> None:
    judge = Discriminator(Config())
    assert judge(video, taps(network, video)).shape == (2, 4, 1, 8, 6)
    assert judge(video[:, :1], taps(network, video[:, :1])).shape == (2, 1, 1, 8, 6)


def test_activations_and_both_sides_are_sites(network, video) -> None:
    judge = Discriminator(Config())
    layers = [f"{side}.{i}" for side, count in (("read", 3), ("judge", 4), ("change", 5)) for i in range(count)]
    names = ["features.0", "features.1", "features.2", *layers, "realness", "spatial", "temporal"]
    assert sorted(sites_of(judge).names) == sorted(names)
    with trace(judge, capture="**") as seen:
        logits = judge(video, taps(network, video))
    value = {name: seen.record[name].tensor for name in names}
    assert value["features.1"].shape == (2, 4, 32, 16, 12)
    assert torch.equal(value["judge.3"], value["spatial"]) and torch.equal(value["spatial"] + value["temporal"], logits)
    assert torch.equal(rearrange(value["change.4"], "b c f h w -> b f c h w"), value["temporal"])


def test_a_layer_changes_what_comes_after_it_alone(network, video) -> None:
    judge = Discriminator(Config())
    with trace(judge, capture="**") as plain:
        judge(video, taps(network, video))
    with trace(judge, Zero("judge.1"), capture="**") as edited:
        judge(video, taps(network, video))
    moved = {name for name in plain.record if not torch.equal(plain.record[name].tensor, edited.record[name].tensor)}
    assert moved == {"judge.1", "judge.2", "judge.3", "spatial", "realness"}


def test_the_temporal_side_sees_the_order_of_frames_and_the_spatial_does_not(network, video) -> None:
    judge = Discriminator(Config()).eval()
    back = video.flip(1)
    for cut, same in (("temporal", True), ("spatial", False)):
        with trace(judge, edits=[Bypass(cut)]):
            there, and_back = judge(video, taps(network, video)), judge(back, taps(network, back)).flip(1)
        assert torch.allclose(there, and_back, atol=1e-5) == same


def test_gradients_reach_the_video_through_the_activations(network, video) -> None:
    video.requires_grad_(True)
    Discriminator(Config())(video.detach(), taps(network, video)).sum().backward()
    assert video.grad is not None and video.grad.abs().sum() > 0


def test_too_few_taps_and_odd_sizes_are_told(network, video) -> None:
    with pytest.raises(ValueError, match=r"needs 3 taps .* got 2 taps of a 32x24 video"):
        Discriminator(Config())(video, taps(network, video)[:2])
    with pytest.raises(ValueError, match="sides divisible by 4"):
        Discriminator(Config())(video[..., :22], taps(network, video[..., :22]))
    with pytest.raises(ValueError, match="at least one tap"):
        Config(taps=())
