"""Fusion stage: image tokens and motion slots read the text, at the present noise level. Cross-attention is the shipped way;
`wanlab.stages.pooled` has others.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import repeat
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.core.nearest import suggestion
from wanlab.graph.configs import later
from wanlab.nn.attention import Attention
from wanlab.nn.embed import TIMES
from wanlab.nn.norm import LayerNorm
from wanlab.nn.spacetime import MLP
from wanlab.stages.image import Image
from wanlab.stages.text import Text


@dataclass(frozen=True)
class Config:
    """Sizes of the fusion stage: width of its tokens (as in the text and image stages), heads, motion layers; and how it is told
    the noise level."""

    width: int = 64
    heads: int = 4
    slots: int = 3            # motion layers: background and up to two objects
    time: str = later("sinusoid")               # or "fourier" (`nn.embed`)

    def __post_init__(self) -> None:
        if self.time not in TIMES:
            raise ValueError(f"fusion.Config: no time embedding {self.time!r}{suggestion(self.time, TIMES)}")


class Condition(NamedTuple):
    """What the generator is conditioned on."""

    context: Tensor    # b j c     text tokens, then image tokens, then slots
    bias: Tensor       # b j       0 where a token may be read, very negative where not
    grounded: Tensor   # b n c     image tokens that have read the text, in raster order
    slots: Tensor      # b m c     one token per motion layer
    pooled: Tensor     # b c       summary and noise level, for modulation


class Fusion(Hookable):
    """What the variants share: image tokens and slots read the text (`read`, in which they differ), then an MLP; then one
    self-attention among them, and another MLP.

    Sites: the residual stream before, between and after these four (`resid_*`); `out` (bypass: not fused); what conditions
    the generator: `time` (the noise level), `said` (the mean of the text), `pooled` (both and the image), `context` (the
    tokens that it reads: the text's, the image's, the slots').
    """

    SITES = {"time": "b c", "resid_pre": "b n c", "resid_attn": "b n c", "resid_mid": "b n c", "resid_mix": "b n c",
             "resid_post": "b n c", "out": "b n c", "said": "b c", "pooled": "b c", "context": "b j c"}

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.time = TIMES[config.time](width)
        self.slots = nn.Parameter(torch.randn(config.slots, width))
        streams = ("b n c", "b j c", "b n c", "b n c")
        self.norm_attn, self.norm_text, self.norm_mix, self.norm_out = (LayerNorm(width, axes) for axes in streams)
        self._build(config)
        self.mlp = MLP(width, 2 * width, "b n c")
        self.mix = Attention(width, config.heads)
        self.mix_mlp = MLP(width, 2 * width, "b n c")
        self.pool = nn.Sequential(nn.Linear(3 * width, width), nn.SiLU(), nn.Linear(width, width))

    @abstractmethod
    def _build(self, config: Config) -> None:
        """Make what reads the text."""

    @abstractmethod
    def read(self, x: Tensor, tokens: Tensor, bias: Tensor) -> Tensor:
        """What the text adds to x (b n c) from its tokens (b j c), both normed; bias (b j) as in `Condition`."""

    def forward(self, text: Text, image: Image, sigma: Tensor) -> Condition:
        """Fuse `text` and `image` at noise level `sigma` (b)."""
        b, n, _ = image.tokens.shape
        bias = torch.where(text.mask > 0, 0.0, -1e9)
        time = self.site("time", self.time(sigma))
        queries = torch.cat([image.tokens, repeat(self.slots, "m c -> b m c", b=b)], 1)
        x = self.site("resid_pre", queries + time[:, None])
        x = self.site("resid_attn", x + self.read(self.norm_attn(x), self.norm_text(text.tokens), bias))
        x = self.site("resid_mid", x + self.mlp(x))
        x = self.site("resid_mix", x + self.mix(self.norm_mix(x)))
        x = self.site("resid_post", x + self.mix_mlp(x))
        x = self.site("out", self.norm_out(x), identity=lambda: nn.LayerNorm.forward(self.norm_out, queries))
        said = (text.tokens * text.mask[..., None]).sum(1) / text.mask.sum(1, keepdim=True).clamp(min=1)
        pooled = self.site("pooled", self.pool(torch.cat([time, image.pooled, self.site("said", said)], -1)))
        seen = torch.cat([bias, bias.new_zeros(b, x.shape[1])], 1)
        context = self.site("context", torch.cat([text.tokens, x], 1))
        return Condition(context, seen, x[:, :n], x[:, n:], pooled)


class CrossAttentionFusion(Fusion):
    """Every image token and slot attends to the words."""

    def _build(self, config: Config) -> None:
        self.attn = Attention(config.width, config.heads)

    def read(self, x: Tensor, tokens: Tensor, bias: Tensor) -> Tensor:
        """Sites: those of attention, under `attn`."""
        return self.attn(x, tokens, bias[:, None, None])
