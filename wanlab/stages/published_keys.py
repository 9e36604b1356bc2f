"""Names of umT5's, CLIP's and the VAE's parameters in Wan's published files, and what becomes of them in other libraries' modules.

Files that those libraries saved have their names; old ones of CLIP stand one module deeper.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from wanlab.stages.takes import Take, Takes, renamed

# -- umT5 -----------------------------------------------------------------------------------------------------------------
_TEXT = {"token_embedding": "shared", "norm": "encoder.final_layer_norm"}
_TEXT_BLOCK = {
    "norm1": "layer.0.layer_norm",
    **{f"attn.{name}": f"layer.0.SelfAttention.{name}" for name in "qkvo"},
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


def text_takes(encoder: nn.Module, names: Collection[str]) -> Takes:
    """Of umT5's encoder (`models_t5_umt5-xxl-enc-bf16.pth`)."""
    def ours(name: str) -> str | None:
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        inner = renamed(block[2], _TEXT_BLOCK) if block else None
        return f"encoder.block.{block[1]}.{inner}" if block and inner else renamed(name, _TEXT)

    return _own if any(name.startswith("encoder.block.") for name in names) else _by(ours, "umT5 encoder")


# -- CLIP -----------------------------------------------------------------------------------------------------------------
_IMAGE = {"patch_embedding": "embeddings.patch_embedding", "pre_norm": "pre_layrnorm", "post_norm": "post_layernorm"}
_IMAGE_BLOCK = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj", "mlp.0": "mlp.fc1",
                "mlp.2": "mlp.fc2"}
_NO_IMAGE = ("textual.", "text_model.", "log_scale", "logit_scale", "visual.head", "visual_projection.", "text_projection.",
             "embeddings.position_ids")      # of CLIP's text half, and what compares the halves: nothing of Wan reads it


def image_takes(tower: nn.Module, names: Collection[str]) -> Takes:
    """Of CLIP's vision tower (`models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`)."""
    deeper = "vision_model." if hasattr(tower, "vision_model") else ""

    def takes(name: str) -> list[Take]:
        plain = name.removeprefix("vision_model.")
        if plain.startswith(_NO_IMAGE):
            return []
        found = _published_image(plain) if plain.startswith("visual.") else _own(plain)
        return [take._replace(name=deeper + take.name) for take in found]

    return takes


def _published_image(name: str) -> list[Take]:
    inner = name.removeprefix("visual.")
    if inner == "cls_embedding":
        return [Take("embeddings.class_embedding", ones=2)]
    if inner == "pos_embedding":
        return [Take("embeddings.position_embedding.weight", ones=1)]
    block = re.fullmatch(r"transformer\.(\d+)\.(.+)", inner)
    if block is None:
        return [Take(_found(renamed(inner, _IMAGE), name, "CLIP vision tower"))]
    joint = re.fullmatch(r"attn\.to_qkv\.(weight|bias)", block[2])
    layer = f"encoder.layers.{block[1]}"
    if joint:
        return [Take(f"{layer}.self_attn.{part}_proj.{joint[1]}", i, 3) for i, part in enumerate("qkv")]
    return [Take(f"{layer}.{_found(renamed(block[2], _IMAGE_BLOCK), name, 'CLIP vision tower')}")]


# -- VAE ------------------------------------------------------------------------------------------------------------------
_VAE = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
_HALF = {"conv1": "conv_in", "middle.0": "mid_block.resnets.0", "middle.1": "mid_block.attentions.0",
         "middle.2": "mid_block.resnets.1", "head.0": "norm_out", "head.2": "conv_out"}
_RESIDUAL = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2",
             "shortcut": "conv_shortcut"}


def vae_takes(vae: Any, names: Collection[str]) -> Takes:
    """Of the autoencoder (`Wan2.1_VAE.pth`, `Wan2.2_VAE.pth`), whose blocks are counted through there and by level here."""
    deep, blocks = bool(vae.config.is_residual), int(vae.config.num_res_blocks)

    def ours(name: str) -> str | None:
        half = re.fullmatch(r"(encoder|decoder)\.(.+)", name)
        if half is None:
            return renamed(name, _VAE)
        level = re.fullmatch(r"(?:down|up)samples\.(\d+)(?:\.(?:down|up)samples\.(\d+))?\.(.+)", half[2])
        inner = _level(half[1], level, deep, blocks) if level else renamed(half[2], _HALF)
        return None if inner is None else f"{half[1]}.{_residual(inner)}"

    return _by(ours, "Wan autoencoder") if "encoder.conv1.weight" in names else _own


def _level(half: str, at: re.Match[str], deep: bool, blocks: int) -> str | None:
    """Which level, and which of its parts: residual blocks, one more of them in the decoder, then what changes the size."""
    down = half == "encoder"
    if (at[2] is None) == deep:
        return None
    if down and not deep:
        return f"down_blocks.{at[1]}.{at[3]}"
    some = blocks if down else blocks + 1
    level, part = (int(at[1]), int(at[2])) if deep else divmod(int(at[1]), some + 1)
    resize = "downsampler" if down else "upsampler" if deep else "upsamplers.0"
    return f"{'down' if down else 'up'}_blocks.{level}.{f'resnets.{part}' if part < some else resize}.{at[3]}"


def _residual(name: str) -> str:
    """The parts of a residual block by their names instead of their places."""
    block = re.fullmatch(r"(.+?)\.((?:residual\.\d|shortcut)\..+)", name)
    return name if block is None else f"{block[1]}.{renamed(block[2], _RESIDUAL) or block[2]}"


# -- all ------------------------------------------------------------------------------------------------------------------
def _own(name: str) -> list[Take]:
    return [Take(name)]


def _by(ours: Callable[[str], str | None], what: str) -> Takes:
    return lambda name: [Take(_found(ours(name), name, what))]


def _found(ours: str | None, name: str, what: str) -> str:
    if ours is None:
        raise KeyError(f"no {what} has a parameter {name!r}")
    return ours
