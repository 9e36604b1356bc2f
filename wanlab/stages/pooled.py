"""Fusion by one vector of the text, the mean of its words: concatenated, as a modulation, or through a gate.

Where cross-attention lets each image token and slot choose its words, here all are told the same.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from einops import repeat
from torch import Tensor, nn

from wanlab.stages.fusion import Config, Fusion


class PooledFusion(Fusion):
    """Sites: `told` (the mean of the words), `read` (what the text adds; bypass: nothing)."""

    SITES = {**Fusion.SITES, "told": "b c", "read": "b n c"}

    def read(self, x: Tensor, tokens: Tensor, bias: Tensor) -> Tensor:
        """The words that are hidden (`bias`) are not part of the mean."""
        shown = (bias >= 0).to(tokens.dtype)
        told = torch.einsum("bjc,bj->bc", tokens, shown) / shown.sum(1, keepdim=True).clamp(min=1)
        y = self.combine(x, repeat(self.site("told", told), "b c -> b n c", n=x.shape[1]))
        return self.site("read", y, identity=lambda: torch.zeros_like(x))

    @abstractmethod
    def combine(self, x: Tensor, told: Tensor) -> Tensor:
        """What to add to x (b n c) when all are told the same (b n c)."""


class ConcatFusion(PooledFusion):
    """Token and text, concatenated along the channels, through two layers."""

    def _build(self, config: Config) -> None:
        width = config.width
        self.join = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def combine(self, x: Tensor, told: Tensor) -> Tensor:
        return self.join(torch.cat([x, told], -1))


class FilmFusion(PooledFusion):
    """The text scales and shifts the channels of every token alike (FiLM, Perez et al. 2018). Site: `modulation`, both of them."""

    SITES = {**PooledFusion.SITES, "modulation": "b n c"}

    def _build(self, config: Config) -> None:
        width = config.width
        self.film = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2 * width))

    def combine(self, x: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.site("modulation", self.film(told)).chunk(2, -1)
        return scale * x + shift


class GatedFusion(PooledFusion):
    """A value of the text, let through channel by channel as token and text decide together (gated multimodal unit, Arevalo
    et al. 2017). Site: `gate`, from 0 to 1."""

    SITES = {**PooledFusion.SITES, "gate": "b n c"}

    def _build(self, config: Config) -> None:
        width = config.width
        self.value = nn.Sequential(nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, width))
        self.gate = nn.Linear(2 * width, width)

    def combine(self, x: Tensor, told: Tensor) -> Tensor:
        gate = self.site("gate", torch.sigmoid(self.gate(torch.cat([x, told], -1))))
        return gate * self.value(told)
