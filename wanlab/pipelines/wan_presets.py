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
VAE_5B = {
    "base_dim": 160, "decoder_base_dim": 256, "z_dim": 48, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_scales": [],
    "temperal_downsample": [False, True, True], "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [
        -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891, 0.157,
        -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502, -0.2055, -0.0322,
        0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123, -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.052,
        0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667],
    "latents_std": [
        0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165,
        0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659, 0.7069, 0.5338, 0.4889, 0.4917,
        0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.06,
        0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744],
}
VAE_5B_TINY = VAE_5B | {"base_dim": 4, "decoder_base_dim": 8, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}

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
    boundary: float | None = None           # of Wan2.2's two experts: the noise level (0 to 1) down to which the first is at work
    guidance_2: float | None = None         # of the second
    time_per_token: bool = False            # Wan2.2's small model: the first frame is laid into the noise, its tokens have time 0
    vae: dict[str, Any] = field(default_factory=lambda: VAE)
    random: bool = False

    def config(self) -> dict[str, Any]:
        """What a pipeline keeps of it."""
        sampler = {"steps": self.steps, "guidance": self.guidance}
        told = {"name": self.name, "size": self.size, "frames": self.frames, "negative": self.negative,
                "sampler": sampler | ({} if self.boundary is None else {"guidance_2": self.guidance_2 or self.guidance}),
                "scheduler": {"kind": self.scheduler, "shift": self.shift}}
        return told | ({} if self.boundary is None else {"boundary": self.boundary}) | (
            {"time_per_token": True} if self.time_per_token else {})


def _tiny(name: str, dit: Config, clip: dict[str, Any] | None = None, **more: Any) -> Preset:
    told = {"steps": 4, "guidance": 3.0, "negative": "", "text": UMT5_TINY, "clip": clip, "vae": VAE_TINY, "random": True}
    return Preset(name, dit, 32, 9, 3.0, **{**told, **more})


PRESETS = {preset.name: preset for preset in (
    Preset("wan2.1-t2v-1.3b", SMALL, (480, 832), 81, 3.0, hub="Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    Preset("wan2.1-t2v-14b", LARGE, (720, 1280), 81, 5.0, hub="Wan-AI/Wan2.1-T2V-14B-Diffusers"),
    Preset("wan2.1-i2v-14b-480p", LARGE_IMAGE, (480, 832), 81, 3.0, steps=40, clip=CLIP_H, negative=f"镜头晃动，{NEGATIVE}",
           hub="Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"),
    Preset("wan2.1-i2v-14b-720p", LARGE_IMAGE, (720, 1280), 81, 5.0, steps=40, clip=CLIP_H, negative=f"镜头晃动，{NEGATIVE}",
           hub="Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"),
    Preset("wan2.1-flf2v-14b-720p", replace(LARGE_IMAGE, image_places=514), (720, 1280), 81, 16.0, clip=CLIP_H,
           negative=f"镜头切换，{NEGATIVE}", hub="Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers"),
    Preset("wan2.2-t2v-a14b", LARGE, (720, 1280), 81, 12.0, steps=40, guidance=4.0, guidance_2=3.0, boundary=0.875,
           hub="Wan-AI/Wan2.2-T2V-A14B-Diffusers"),
    Preset("wan2.2-i2v-a14b", replace(LARGE, inputs=36), (720, 1280), 81, 5.0, steps=40, guidance=3.5, guidance_2=3.5, boundary=0.9,
           hub="Wan-AI/Wan2.2-I2V-A14B-Diffusers"),
    Preset("wan2.2-ti2v-5b", Config(heads=24, hidden=14336, inputs=48, outputs=48), (704, 1280), 121, 5.0, vae=VAE_5B,
           time_per_token=True, hub="Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
    _tiny("wan-random-tiny", replace(TINY, inputs=36, image_width=16), CLIP_TINY),
    _tiny("wan-random-tiny-t2v", TINY),
    _tiny("wan-random-tiny-flf2v", replace(TINY, inputs=36, image_width=16, image_places=34), CLIP_TINY),
    _tiny("wan-random-tiny-a14b", replace(TINY, inputs=36), boundary=0.9, guidance_2=2.0),
    _tiny("wan-random-tiny-5b", replace(TINY, inputs=48, outputs=48), vae=VAE_5B_TINY, time_per_token=True),
)}  # fmt: skip
