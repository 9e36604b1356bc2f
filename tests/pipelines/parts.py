"""Folders of what the article's system takes from others, T5 and DiT, in their layouts and at the small sizes of
`article-random-tiny`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from transformers import T5Config, T5ForConditionalGeneration

import wanlab
from tests.stages.test_image_dit import theirs
from wanlab.stages.pieces import small_tokenizer

T5 = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "dropout_rate": 0.0,
      "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}  # fmt: skip


def write(root: Path) -> Path:
    """`t5`: as published, decoder and all. `dit`: as published, by a diffusers of 2022: torch files, settings that came later
    missing, and the autoencoder's attention under its old names."""
    torch.manual_seed(3)
    T5ForConditionalGeneration(T5Config(**T5)).save_pretrained(root / "t5")
    small_tokenizer(96).save_pretrained(root / "t5")
    config = wanlab.load("article-random-tiny", init="meta").image.config
    model = theirs(config.sizes)
    model.save_config(root / "dit" / "transformer")
    changed(root / "dit" / "transformer" / "config.json", norm_eps=None, _class_name="Transformer2DModel")
    torch.save(model.state_dict(), root / "dit" / "transformer" / "diffusion_pytorch_model.bin")
    vae = AutoencoderKL(
        block_out_channels=config.vae_widths, layers_per_block=config.vae_blocks, latent_channels=config.latent,
        norm_num_groups=config.vae_groups, down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    vae.save_pretrained(root / "dit" / "vae", safe_serialization=False)
    changed(root / "dit" / "vae" / "config.json", scaling_factor=None, shift_factor=None, force_upcast=None, use_quant_conv=None,
            use_post_quant_conv=None, mid_block_add_attention=None, latents_mean=None, latents_std=None)  # fmt: skip
    file = root / "dit" / "vae" / "diffusion_pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    assert any("to_q" in name for name in state)
    torch.save({_before(name): value for name, value in state.items()}, file)
    return root


def changed(path: Path, **settings: Any) -> None:
    """Other settings in a config.json; None: without that setting."""
    told = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in told.items() if value is not None or key not in settings}))


def _before(name: str) -> str:
    """The name that a parameter of the autoencoder had in 2022."""
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        name = name.replace(f".{new}.", f".{old}.")
    return name
