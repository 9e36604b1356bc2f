"""Embeddings of time and place."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from wanlab.core import Hookable


def sinusoid(position: Tensor, width: int, period: float = 10_000.0) -> Tensor:
    """Sines and cosines (… width) of any real position (…), frequencies from 1 to 1/period (Vaswani et al. 2017, 3.5)."""
    half = width // 2
    frequency = torch.exp(-math.log(period) * torch.arange(half, device=position.device, dtype=torch.float32) / half)
    phase = position[..., None].float() * frequency
    return torch.cat([torch.sin(phase), torch.cos(phase)], -1)


class TimeEmbedding(Hookable):
    """Noise level sigma (b,) in [0, 1] to a vector (b c): sinusoid, then a two-layer network (Ho et al. 2020)."""

    SITES = {"out": "b c"}

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.net = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, sigma: Tensor) -> Tensor:
        return self.site("out", self.net(sinusoid(1000 * sigma, self.width)))
