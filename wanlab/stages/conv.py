"""Image stage of convolutions: strided ones down to the grid of patches, then residual blocks on it."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.nn.norm import LayerNorm
from wanlab.stages.image import Config, Encoder


class ConvBlock(Hookable):
    """Two 3x3 convolutions, the second with holes to see farther, around a skip (pre-activation, He et al. 2016).

    Sites: `resid_pre`, `branch` (bypass: nothing is added), `resid_post` (bypass: what came in).
    """

    SITES = {"resid_pre": "b c h w", "branch": "b c h w", "resid_post": "b c h w"}

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        """b c h w -> b c h w."""
        x = self.site("resid_pre", x)
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        y = self.site("branch", y, identity=lambda: torch.zeros_like(x))
        return self.site("resid_post", x + y, identity=x)


class ConvEncoder(Encoder):
    """Reads of its Config size, output, patch (a power of two), width (a multiple of 8) and depth, the number of blocks."""

    def _build(self, config: Config) -> None:
        halvings = config.patch.bit_length() - 1
        if config.patch != 2 ** halvings or halvings < 1:
            raise ValueError(f"a convolutional encoder halves the frame: patch must be 2, 4, 8, ..., not {config.patch}")
        widths = [3, *(config.width >> i for i in reversed(range(halvings)))]
        self.stem = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.place = nn.Parameter(0.02 * torch.randn((config.size // config.patch) ** 2, config.width))
        self.blocks = nn.ModuleList(ConvBlock(config.width) for _ in range(config.depth))
        self.norm, self.project = LayerNorm(config.width), nn.Linear(config.width, config.width)

    def _encode(self, frame: Tensor) -> Tensor:
        x = self.stem[0](frame)
        for conv in self.stem[1:]:
            x = conv(F.silu(x))
        h = x.shape[-2]
        x = self.site("embed", rearrange(x, "b c h w -> b (h w) c") + self.place)
        x = rearrange(x, "b (h w) c -> b c h w", h=h)
        for block in self.blocks:
            x = block(x)
        return self.project(self.norm(rearrange(x, "b c h w -> b (h w) c")))
