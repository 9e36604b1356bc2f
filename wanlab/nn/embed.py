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
        return self.site("out", self.net(self.waves(sigma)))

    def waves(self, sigma: Tensor) -> Tensor:
        """Sines and cosines of the level, (b c)."""
        return sinusoid(1000 * sigma, self.width)


class FourierTime(TimeEmbedding):
    """The same of random frequencies, kept with the weights (Tancik et al. 2020; their scale as in Song et al. 2021)."""

    frequency: Tensor

    def __init__(self, width: int, scale: float = 16.0) -> None:
        super().__init__(width)
        drawn = torch.randn(width // 2, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        self.register_buffer("frequency", scale * drawn)

    def waves(self, sigma: Tensor) -> Tensor:
        phase = 2 * math.pi * sigma[:, None].float() * self.frequency
        return torch.cat([torch.sin(phase), torch.cos(phase)], -1)


TIMES = {"sinusoid": TimeEmbedding, "fourier": FourierTime}
