"""Clips for the tests of frames and time: a texture that slides, and what spoils it."""

from __future__ import annotations

import torch
from torch import Tensor


def texture(size: int = 96, seed: int = 0) -> Tensor:
    """`3 h w`: smooth noise in [0, 1]."""
    noise = torch.rand(1, 3, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(noise, (size, size), mode="bicubic", align_corners=False).clamp(0, 1)[0]


def sliding(pixels: int = 2, frames: int = 4, size: int = 96, seed: int = 0) -> Tensor:
    """`1 f c h w`: a texture that moves right by `pixels` a frame, cut from a wider one."""
    wide = texture(-(-(size + pixels * frames) // 4) * 4, seed)
    starts = [pixels * (frames - t) for t in range(frames)]
    return torch.stack([wide[:, :size, start : start + size] for start in starts])[None]


def still(video: Tensor) -> Tensor:
    """The first frame throughout."""
    return video[:, :1].expand_as(video)


def shuffled(video: Tensor) -> Tensor:
    """Frames in another order, no neighbours kept."""
    order = torch.randperm(video.shape[1], generator=torch.Generator().manual_seed(3))
    return video[:, order]


def noisy(video: Tensor, sigma: float = 0.1) -> Tensor:
    """White noise, another in every frame."""
    return (video + sigma * torch.randn(video.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


def blurred(video: Tensor) -> Tensor:
    """A box blur of 5 pixels."""
    return torch.nn.functional.avg_pool2d(video.flatten(0, 1), 5, 1, 2, count_include_pad=False).unflatten(0, video.shape[:2])
