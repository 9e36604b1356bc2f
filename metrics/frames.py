"""Frames as feature vectors: computed once per frame, shared by every score that asks how alike frames are.

VBench asks DINO about subjects and CLIP about backgrounds (`clip().frames`). Without their files it is the shipped frame
trunk, and the name of the number says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
from einops import rearrange
from torch import Tensor

from . import lpips, weights
from .video import check_video

CHUNK = 16  # frames in one forward


@dataclass(frozen=True)
class FrameNetwork:
    """What turns frames `n c h w` in [0, 1] into features `n d`; `name` goes into the brackets of a number's name."""

    name: str
    features: Callable[[Tensor], Tensor] = field(repr=False)
    least: int = 1  # shortest side that it can take, pixels


@torch.no_grad()
def embed(video: Tensor, network: FrameNetwork, chunk: int = CHUNK) -> Tensor:
    """Features of unit length of every frame, `b f d`, `chunk` frames at a time.

    Args:
        video: `b f c h w` in [0, 1].
        network: see `FrameNetwork`.
        chunk: frames whose activations are alive at once.

    Raises:
        ValueError: frames too small for the network, or features that are not finite or all zero.
    """
    video = check_video(video)
    if min(video.shape[-2:]) < network.least:
        raise ValueError(
            f"{network.name} needs frames of at least {network.least} x {network.least}, got {tuple(video.shape[-2:])}"
        )
    frames = rearrange(video, "b f c h w -> (b f) c h w")
    features = torch.cat([network.features(part).float() for part in frames.split(chunk)])
    length = features.norm(dim=1, keepdim=True)
    if not bool((length.isfinite() & (length > 0)).all()):
        raise ValueError(f"{network.name} gave features that are not finite, or all zero")
    return rearrange(features / length, "(b f) d -> b f d", b=len(video))


@cache
def home(device: str = "cpu") -> FrameNetwork:
    """The shipped frame trunk (SqueezeNet layout, trained on procedural frames): means over space of all its layers."""
    judge = lpips.shipped(device)

    def features(frames: Tensor) -> Tensor:
        size = max(1, judge.chunk_pixels // (frames.shape[-2] * frames.shape[-1]))
        parts = (lpips.layers(part, judge) for part in frames.to(device).split(size))
        return torch.cat([torch.cat([layer.mean((2, 3)) for layer in part], 1) for part in parts])

    return FrameNetwork(f"home-squeeze|net:{weights.short_hash(lpips.TRUNK)}", features, lpips.LEAST)
