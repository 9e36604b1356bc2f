"""Residual links whose two sides can be seen, cut and scaled one by one, and the convolutional blocks built from them.

Videos and features are b f c h w throughout.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wanlab.core import Hookable

VIDEO = "b f c h w"


class Reach(NamedTuple):
    """How far a network looks around a pixel of its input, to each side: what lies farther changes nothing."""

    pixels: int
    frames: int


class Residual(Hookable):
    """out = link * skip + branch (He et al. 2016).

    link    what the skip is multiplied by; 0 is a network that was built without the link

    Sites: `skip` (after the link; bypass: cut), `branch` (bypass: the skip alone), `out` (bypass: the skip).
    """

    SITES = {"skip": VIDEO, "branch": VIDEO, "out": VIDEO}

    def __init__(self, link: float = 1.0) -> None:
        super().__init__()
        self.link = link

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        if skip.shape != branch.shape:
            raise ValueError(f"the skip is {tuple(skip.shape)} but the branch is {tuple(branch.shape)}")
        linked = skip if self.link == 1 else self.link * skip
        kept = self.site("skip", linked, identity=lambda: torch.zeros_like(linked))
        added = self.site("branch", branch, identity=lambda: torch.zeros_like(branch))
        return self.site("out", kept + added, identity=linked)


class TemporalMix(Hookable):
    """Each channel sees itself one frame before and after: a depthwise convolution of three taps, added to its input.

    Sites: `out`, what is added (bypass: nothing; every frame then stands alone).
    """

    SITES = {"out": VIDEO}

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.zeros(3, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        padded = torch.cat([x[:, :1], x, x[:, -1:]], 1)  # the ends see themselves
        before, after = padded[:, :-2], padded[:, 2:]
        mixed = self.taps[0] * before + self.taps[1] * x + self.taps[2] * after
        return x + self.site("out", mixed, identity=lambda: torch.zeros_like(mixed))


class ResBlock(Residual):
    """x + conv(silu(mix(conv(x)))): two 3x3 convolutions per frame, not normalised (Lim et al. 2017), frames mixed.

    Sites, beside those of the link: `pre` and `post`, the hidden units before and after the activation.
    """

    SITES = {"pre": VIDEO, "post": VIDEO, **Residual.SITES}

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.temporal = TemporalMix(width)
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)  # blocks start near the identity

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        pre = self.site("pre", self.temporal(framewise(self.conv1, x)))
        return super().forward(x, framewise(self.conv2, self.site("post", F.silu(pre))))


def framewise(layer: nn.Module, video: Tensor) -> Tensor:
    """Apply an image layer to every frame of b f c h w."""
    y = layer(rearrange(video, "b f c h w -> (b f) c h w"))
    return rearrange(y, "(b f) c h w -> b f c h w", f=video.shape[1])


def unshuffle(video: Tensor) -> Tensor:
    """Space to depth: b f c 2h 2w -> b f 4c h w. Raises ValueError for odd sides."""
    if video.shape[-2] % 2 or video.shape[-1] % 2:
        raise ValueError(f"space to depth needs even sides, got {video.shape[-2]}x{video.shape[-1]}")
    return rearrange(video, "b f c (h p) (w q) -> b f (c p q) h w", p=2, q=2)


def shuffle(features: Tensor) -> Tensor:
    """Depth to space, the inverse of `unshuffle` (Shi et al. 2016): b f 4c h w -> b f c 2h 2w."""
    return rearrange(features, "b f (c p q) h w -> b f c (h p) (w q)", p=2, q=2)


def enlarge(video: Tensor) -> Tensor:
    """Bicubic x2 of every frame: b f c h w -> b f c 2h 2w."""
    frames = rearrange(video, "b f c h w -> (b f) c h w")
    large = F.interpolate(frames, scale_factor=2, mode="bicubic", align_corners=False)
    return rearrange(large, "(b f) c h w -> b f c h w", f=video.shape[1])
