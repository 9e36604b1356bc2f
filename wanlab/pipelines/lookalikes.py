"""What a file of weights looks like, from the names and shapes of its tensors: to say what was given instead of Wan."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from wanlab.pipelines.wan_presets import PRESETS
from wanlab.stages.dit import Config

DIT, TEXT, VAE, CLIP = "a Wan transformer", "a T5 text encoder", "a Wan autoencoder", "a CLIP image encoder"
# What the names of a model hold, all of one line; the first line that fits says what it is.
_SIGNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a LoRA, which is added to a model and is none", (r"lora_(A|B|down|up)\b",)),
    ("a Wan VACE transformer, with a branch for controls", (r"vace_blocks\.",)),
    ("a Wan Animate transformer", (r"face_adapter\.",)),
    ("a Wan transformer in scaled fp8", (r"(^|\.)time_projection\.1\.weight$", r"\.scale_weight$")),
    (DIT, (r"(^|\.)patch_embedding\.weight$", r"(^|\.)(time_projection\.1|condition_embedder\.time_proj)\.weight$")),
    (TEXT, (r"^blocks\.\d+\.pos_embedding\.embedding\.weight$",)),
    (TEXT, (r"^encoder\.block\.\d+\.layer\.0\.SelfAttention\.q\.weight$",)),
    (VAE, (r"^encoder\.conv1\.weight$", r"^decoder\.upsamples\.")),
    (VAE, (r"^encoder\.down_blocks\.", r"^quant_conv\.", r"\.norm_out\.gamma$")),
    ("the autoencoder of an image model", (r"(^|\.)encoder\.down(_blocks)?\.\d+\.", r"decoder\.up(_blocks)?\.\d+\.")),
    (CLIP, (r"(^|\.)visual\.transformer\.",)),
    (CLIP, (r"(^|\.)embeddings\.class_embedding$",)),
    ("Stable Diffusion 3", (r"joint_blocks\.\d+\.",)),
    ("FLUX or HunyuanVideo", (r"(^|\.)(double_blocks|single_transformer_blocks)\.\d+\.",)),
    ("Stable Diffusion 3", (r"transformer_blocks\.\d+\.attn\.add_q_proj\.", r"pos_embed\.proj\.")),
    ("CogVideoX", (r"patch_embed\.text_proj\.",)),
    ("LTX-Video or PixArt", (r"adaln_single\.", r"caption_projection\.")),
    ("a UNet of Stable Diffusion", (r"(^|\.)(input_blocks\.\d+\.|down_blocks\.\d+\.(resnets|attentions)\.)",)),
)


def kind_of(names: Collection[str]) -> str | None:
    """What a model with these tensors is, as far as it is known here."""
    return next((kind for kind, signs in _SIGNS if all(any(re.search(sign, name) for name in names) for sign in signs)), None)


def sizes_of(shapes: Mapping[str, tuple[int, ...]], head_width: int) -> dict[str, Any]:
    """The sizes of a Wan transformer from its shapes, under our names of the parameters, by the fields of its configuration.

    Heads cannot be told from shapes: they are as many as `head_width` makes. KeyError where a parameter lacks.
    """
    width, inputs, *patch = shapes["patch_embedding.weight"]
    head = shapes["head.head.weight"][0]
    blocks = [int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")]
    return {
        "heads": width // head_width, "head_width": head_width, "depth": max(blocks, default=-1) + 1,
        "hidden": shapes["blocks.0.ffn.0.weight"][0], "inputs": inputs, "outputs": head // math.prod(patch),
        "patch": tuple(patch), "text_width": shapes["text_embedding.0.weight"][1],
        "frequencies": shapes["time_embedding.0.weight"][1], "image_width": shapes.get("img_emb.proj.0.weight", (None,))[0],
        "image_places": shapes.get("img_emb.emb_pos", (1, None))[1],
    }


def presets_of(sizes: Mapping[str, Any]) -> list[str]:
    """The published models whose transformer has these sizes."""
    return [name for name, preset in PRESETS.items()
            if preset.hub and all(getattr(preset.dit, field) == value for field, value in sizes.items())]


def difference(sizes: Mapping[str, Any], expected: Config) -> str:
    """In what the sizes are not the expected ones, and whose they are; empty where they are the same."""
    differ = [f"{field} {value} instead of {getattr(expected, field)}" for field, value in sizes.items()
              if getattr(expected, field) != value]
    known = presets_of(sizes) if differ else []
    return ", ".join(differ) + (f"; those are the sizes of {' or '.join(known)}" if known else "")
