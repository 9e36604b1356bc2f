"""The parts of a Wan pipeline from a preset's sizes, with random weights: small ones for tries, or on the meta device."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from wanlab.pipelines.wan21 import Wan
from wanlab.pipelines.wan_presets import Preset
from wanlab.stages.clip import Clip
from wanlab.stages.dit import Dit
from wanlab.stages.experts import Experts
from wanlab.stages.pieces import small_tokenizer
from wanlab.stages.umt5 import Umt5
from wanlab.stages.vae import Vae


def random_pipeline(preset: Preset, seed: int = 0) -> Wan:
    """A pipeline of a preset's sizes whose weights are drawn from `seed`; vectors are perturbed too, so that every part matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = Wan(stages(preset), preset.config(), preset)
        with torch.no_grad():
            for value in pipe.dit.parameters():
                if value.ndim == 1 or value.shape[0] == 1:
                    value.add_(0.1 * torch.randn_like(value))
    return pipe


def stages(preset: Preset, tokenizer: Any = None, processor: Any = None) -> dict[str, nn.Module]:
    """Every stage, built where torch's default device is (`with torch.device("meta")`: without weights)."""
    from diffusers import AutoencoderKLWan
    from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

    text = UMT5Config(**preset.text, dropout_rate=0.0, feed_forward_proj="gated-gelu", pad_token_id=0, eos_token_id=1)
    made: dict[str, nn.Module] = {
        "text": Umt5(UMT5EncoderModel(text), tokenizer or small_tokenizer(text.vocab_size)),
        "dit": Dit(preset.dit) if preset.boundary is None else Experts(Dit(preset.dit), Dit(preset.dit), preset.boundary),
        "vae": Vae(AutoencoderKLWan(**preset.vae)),
    }
    if preset.clip is not None:
        tower = CLIPVisionModel(CLIPVisionConfig(**preset.clip))
        made["clip"] = Clip(tower, processor or image_processor(tower.config.image_size))
    return {name: stage.eval().requires_grad_(False) for name, stage in made.items()}


def image_processor(side: int) -> Any:
    """CLIP's own preparation of pictures: shortest edge to `side`, centre crop, normalised."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(crop_size=side, size={"shortest_edge": side})
