"""Presets of Wan: sizes of the published models, and small ones with random weights for tests and tries.

Sizes as in the published configurations (Wan-Video/Wan2.1 `wan/configs`, and diffusers' conversion of them).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from wanlab.stages.dit import Config

# The negative prompt that the published code uses where none is given.
NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)
UMT5_XXL = {"vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
UMT5_TINY = {"vocab_size": 96, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4,
             "relative_attention_num_buckets": 8, "relative_attention_max_distance": 32}
CLIP_H = {"hidden_size": 1280, "intermediate_size": 5120, "projection_dim": 1024, "num_hidden_layers": 32,
          "num_attention_heads": 16, "image_size": 224, "patch_size": 14, "hidden_act": "gelu"}
CLIP_TINY = {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 8, "num_hidden_layers": 3, "num_attention_heads": 2,
             "image_size": 32, "patch_size": 8, "hidden_act": "gelu"}
VAE = {"base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [],
       "temperal_downsample": [False, True, True]}
VAE_TINY = VAE | {"base_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}

SMALL = Config()
LARGE = Config(heads=40, depth=40, hidden=13824)
LARGE_IMAGE = replace(LARGE, inputs=36, image_width=1280)
TINY = Config(heads=12, head_width=12, depth=30, hidden=256, text_width=32)   # as many blocks and heads as the 1.3B


@dataclass(frozen=True)
class Preset:
    """One published model, or a small random one.

    hub is where its weights are published in diffusers' layout; size (height, width) and frames are what it was made for.
    """

    name: str
    dit: Config
    size: tuple[int, int] | int
    frames: int
    shift: float
    steps: int = 50
    guidance: float = 5.0
    scheduler: str = "unipc"
    negative: str = NEGATIVE
    hub: str | None = None
    text: dict[str, Any] = field(default_factory=lambda: UMT5_XXL)
    clip: dict[str, Any] | None = None
    vae: dict[str, Any] = field(default_factory=lambda: VAE)
    random: bool = False

    def config(self) -> dict[str, Any]:
        """What a pipeline keeps of it."""
        return {"name": self.name, "size": self.size, "frames": self.frames, "negative": self.negative,
                "sampler": {"steps": self.steps, "guidance": self.guidance},
                "scheduler": {"kind": self.scheduler, "shift": self.shift}}


def _tiny(name: str, dit: Config, clip: dict[str, Any] | None = None) -> Preset:
    return Preset(name, dit, 32, 9, 3.0, steps=4, guidance=3.0, negative="", text=UMT5_TINY, clip=clip, vae=VAE_TINY, random=True)


PRESETS = {preset.name: preset for preset in (
    Preset("wan2.1-t2v-1.3b", SMALL, (480, 832), 81, 3.0, hub="Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    Preset("wan2.1-t2v-14b", LARGE, (720, 1280), 81, 5.0, hub="Wan-AI/Wan2.1-T2V-14B-Diffusers"),
    Preset("wan2.1-i2v-14b-480p", LARGE_IMAGE, (480, 832), 81, 3.0, steps=40, clip=CLIP_H, negative=f"镜头晃动，{NEGATIVE}",
           hub="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"),
    Preset("wan2.1-i2v-14b-720p", LARGE_IMAGE, (720, 1280), 81, 5.0, steps=40, clip=CLIP_H, negative=f"镜头晃动，{NEGATIVE}",
           hub="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"),
    _tiny("wan-random-tiny", replace(TINY, inputs=36, image_width=16), CLIP_TINY),
    _tiny("wan-random-tiny-t2v", TINY),
)}  # fmt: skip
