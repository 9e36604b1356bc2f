"""The published names of umT5, CLIP and VAE, against independent modules with those names and diffusers' own conversions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers, convert_wan_vae_to_diffusers
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from tests.stages import published
from wanlab.pipelines.wan_presets import CLIP_TINY, UMT5_TINY, VAE_TINY
from wanlab.stages.clip import Clip
from wanlab.stages.dit import Config, Dit
from wanlab.stages.dit_keys import dit_takes, to_diffusers
from wanlab.stages.published_keys import image_takes, text_takes, vae_takes
from wanlab.stages.takes import Takes

VAE_DEEP = {"base_dim": 4, "decoder_base_dim": 8, "z_dim": 6, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "is_residual": True,
            "in_channels": 12, "out_channels": 12, "patch_size": 2, "latents_mean": [0.0] * 6, "latents_std": [1.0] * 6}


def perturbed(module: nn.Module) -> nn.Module:
    """With every parameter random, so that none stands for another."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in module.parameters():
            value.copy_(0.3 * torch.randn_like(value) + (1.0 if value.ndim == 1 else 0.0))
    return module.eval()


def taken(state: dict[str, Tensor], takes: Takes) -> dict[str, Tensor]:
    """A state dict under the names of a module; no name twice."""
    pairs = [(take.name, take.of_tensor(value)) for name, value in state.items() for take in takes(name)]
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def test_umt5_computes_the_same_under_the_published_names() -> None:
    sizes = {key: value for key, value in UMT5_TINY.items() if not key.startswith("relative")}
    their = perturbed(published.T5(sizes["vocab_size"], sizes["d_model"], sizes["d_kv"] * sizes["num_heads"], sizes["num_heads"],
                                   sizes["d_ff"], sizes["num_layers"], 8, 32))
    ours = UMT5EncoderModel(UMT5Config(**UMT5_TINY, dropout_rate=0.0, feed_forward_proj="gated-gelu")).eval()
    state = taken(their.state_dict(), text_takes(ours, their.state_dict()))
    ours.load_state_dict(state | {"encoder.embed_tokens.weight": state["shared.weight"]}, strict=True)
    ids = torch.randint(0, 96, (2, 60), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(60) < torch.tensor([[60], [13]])).long()
    with torch.no_grad():
        one, other = their(ids, mask) * mask[..., None], ours(ids, mask).last_hidden_state * mask[..., None]
    assert one.abs().mean() > 0.1 and torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_clip_computes_the_same_under_the_published_names() -> None:
    their = perturbed(published.Clip(side=32, patch=8, width=16, heads=2, hidden=32, depth=3, out=8))
    tower = CLIPVisionModel(CLIPVisionConfig(**CLIP_TINY)).eval()
    takes = image_takes(tower, their.state_dict())
    tower.load_state_dict(taken(their.state_dict(), takes), strict=True)
    unread = [name for name in their.state_dict() if not takes(name)]
    assert unread == ["log_scale", "visual.head", "textual.weight", "textual.bias"]
    images = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(1)) / 255
    with torch.no_grad():
        one, other = their.visual(images), Clip(tower, lambda images: {"pixel_values": pixels(images)})(images)
    assert one.abs().mean() > 0.1 and torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def pixels(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Pictures of 8 bits (h w c) as numbers (c h w) in [0, 1]."""
    return [np.moveaxis(picture, -1, 0).astype(np.float32) / 255 for picture in pictures]


@pytest.mark.parametrize("name", ["vision_model.embeddings.position_ids", "visual_projection.weight", "logit_scale"])
def test_what_nothing_reads_of_clip_is_known_by_name(name: str) -> None:
    assert image_takes(nn.Module(), [])(name) == []


def test_the_vae_as_diffusers_converts_it() -> None:
    sizes = VAE_TINY | {"dim_mult": [1, 2, 4, 4], "num_res_blocks": 2}          # what diffusers' conversion is written for
    ours, their = AutoencoderKLWan(**sizes), published.vae(4, 16, [1, 2, 4, 4], 2)
    state = taken(their.state_dict(), vae_takes(ours, their.state_dict()))
    converted = convert_wan_vae_to_diffusers(dict(their.state_dict()))
    assert state.keys() == converted.keys() and all(state[name].equal(converted[name]) for name in state)
    ours.load_state_dict(state, strict=True)


@pytest.mark.parametrize(("sizes", "more"), [
    (VAE_TINY, {"many": [1, 2, 2, 2], "blocks": 1}),
    (VAE_DEEP, {"many": [1, 2, 4, 4], "blocks": 2, "channels": 12, "decoder": 8, "deep": True}),
])
def test_every_parameter_of_a_vae_has_its_own_name_and_shape(sizes: dict, more: dict) -> None:
    ours, their = AutoencoderKLWan(**sizes), published.vae(sizes["base_dim"], sizes["z_dim"], **more)
    state = taken(their.state_dict(), vae_takes(ours, their.state_dict()))
    ours.load_state_dict(state, strict=True)
    for half in ("encoder.down", "decoder.up"):                                 # levels are made in one order
        order = [name for name in state if name.startswith(half)]
        assert order == [name for name in ours.state_dict() if name.startswith(half)]


def test_the_transformer_as_diffusers_converts_it() -> None:
    dit = Dit(Config(heads=2, head_width=12, depth=2, hidden=32, inputs=36, text_width=32, image_width=16))
    converted = convert_wan_transformer_to_diffusers(dict(dit.state_dict()))
    ours = to_diffusers(dit.state_dict())
    assert ours.keys() == converted.keys() and all(ours[name].equal(converted[name]) for name in ours)
    for prefix in ("", "model.diffusion_model.", "diffusion_model."):
        for state in (dit.state_dict(), converted):
            names = [prefix + name for name in state]
            assert [dit_takes(names)(name)[0].name for name in names] == list(dit.state_dict())


@pytest.mark.parametrize(("takes", "name"), [
    (text_takes(nn.Module(), ["norm.weight"]), "blocks.0.attn.w.weight"),
    (image_takes(nn.Module(), []), "visual.transformer.0.mlp.7.weight"),
    (vae_takes(AutoencoderKLWan(**VAE_TINY), ["encoder.conv1.weight"]), "encoder.downsamples.0.downsamples.1.residual.0.gamma"),
])
def test_a_name_that_no_such_model_has_is_said(takes: Takes, name: str) -> None:
    with pytest.raises(KeyError, match=name):
        takes(name)
