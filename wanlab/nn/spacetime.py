"""Blocks of the spatio-temporal UNet: a grid of features per frame plus a few register tokens that carry the motion layers.

Tensors keep their names: `grid` b f c h w, `slots` b f m c, `tokens` b f n c with n = h*w grid positions followed by m slots.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.nn.attention import Attention
from wanlab.nn.embed import sinusoid
from wanlab.nn.norm import GroupNorm, LayerNorm
from wanlab.nn.residual import VIDEO, framewise

TOKENS = "b f n c"


class ResBlock(Hookable):
    """Two 3x3 convolutions per frame, modulated by the condition (FiLM, Perez et al. 2018), around a skip.

    Sites: `modulation` (scales, then shifts), `pre` and `post` (the hidden units before and after the second activation),
    `skip`, `branch` (bypass: nothing is added), `out` (bypass: the skip).
    """

    SITES = {"modulation": "b c", "pre": VIDEO, "post": VIDEO, "skip": VIDEO, "branch": VIDEO, "out": VIDEO}

    def __init__(self, width: int, condition: int, inputs: int | None = None) -> None:
        super().__init__()
        inputs = inputs or width
        self.norm1, self.conv1 = GroupNorm(8, inputs), nn.Conv2d(inputs, width, 3, padding=1)
        self.film = nn.Linear(condition, 2 * width)
        self.norm2, self.conv2 = GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(inputs, width, 1) if inputs != width else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, grid: Tensor, condition: Tensor) -> Tensor:
        y = framewise(self.conv1, F.silu(self.norm1(grid)))
        modulation = self.site("modulation", self.film(condition))
        scale, shift = rearrange(modulation, "b c -> b 1 c 1 1").chunk(2, 2)
        pre = self.site("pre", self.norm2(y) * (1 + scale) + shift)
        y = framewise(self.conv2, self.site("post", F.silu(pre)))
        y = self.site("branch", y, identity=lambda: torch.zeros_like(y))
        skip = self.site("skip", framewise(self.skip, grid))
        return self.site("out", skip + y, identity=skip)


class SpatialAttention(Hookable):
    """Tokens of one frame attend to each other."""

    SITES = {"out": TOKENS}

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attn = LayerNorm(width, TOKENS), Attention(width, heads, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.site("out", self.attn(self.norm(tokens)), identity=lambda: torch.zeros_like(tokens))


class CrossAttention(Hookable):
    """Tokens of each frame attend to the fused text and image tokens (b j c); `bias` (b j) hides the padding."""

    SITES = {"out": TOKENS}

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.norm, self.attn = LayerNorm(width, TOKENS), Attention(width, heads, TOKENS, context_width)

    def forward(self, tokens: Tensor, context: Tensor, bias: Tensor) -> Tensor:
        context = repeat(context, "b j c -> b f j c", f=tokens.shape[1])
        y = self.attn(self.norm(tokens), context, rearrange(bias, "b j -> b 1 1 1 j"))
        return self.site("out", y, identity=lambda: torch.zeros_like(tokens))


class TemporalAttention(Hookable):
    """Every token attends to the same token in all frames; this alone lets the frames agree with each other."""

    SITES = {"out": TOKENS}

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attn = LayerNorm(width, TOKENS), Attention(width, heads, "b n f c")

    def forward(self, tokens: Tensor) -> Tensor:
        frame = sinusoid(torch.arange(tokens.shape[1], device=tokens.device), tokens.shape[-1], 100.0).to(tokens.dtype)
        x = rearrange(self.norm(tokens) + frame[:, None], "b f n c -> b n f c")
        y = rearrange(self.attn(x), "b n f c -> b f n c")
        return self.site("out", y, identity=lambda: torch.zeros_like(tokens))


class MLP(Hookable):
    """Two layers with GELU; `pre` and `post` are the hidden units before and after it."""

    SITES = {"pre": TOKENS, "post": TOKENS, "out": TOKENS}

    def __init__(self, width: int, hidden: int | None = None, axes: str = TOKENS) -> None:
        super().__init__()
        hidden = hidden or 4 * width
        self.SITES = dict.fromkeys(self.SITES, axes)
        self.norm, self.up, self.down = LayerNorm(width, axes), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        pre = self.site("pre", self.up(self.norm(tokens)))
        post = self.site("post", F.gelu(pre))
        return self.site("out", self.down(post), identity=lambda: torch.zeros_like(tokens))


class Block(Hookable):
    """One level's work: convolution, then spatial, cross, temporal attention and an MLP, each added to the residual stream.

    Sites: what comes in (`grid`, `slots`), and the residual stream of tokens before, between and after the parts; `resid_mid`
    stands before the MLP. Bypassing `resid_post` leaves the convolution alone.
    """

    SITES = {"grid": VIDEO, "slots": "b f m c", "resid_pre": TOKENS, "resid_spatial": TOKENS, "resid_cross": TOKENS,
             "resid_mid": TOKENS, "resid_post": TOKENS}

    def __init__(self, width: int, heads: int, context_width: int, condition: int, inputs: int | None = None,
                 temporal: bool = True) -> None:
        super().__init__()
        self.res = ResBlock(width, condition, inputs)
        self.spatial = SpatialAttention(width, heads)
        self.cross = CrossAttention(width, heads, context_width)
        self.temporal = TemporalAttention(width, heads) if temporal else None
        self.mlp = MLP(width)

    def forward(self, grid: Tensor, slots: Tensor, condition: Tensor, context: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """grid b f c h w, slots b f m c, condition b c, context b j c with a bias b j of its keys -> grid and slots."""
        grid, slots = self.res(self.site("grid", grid), condition), self.site("slots", slots)
        h, w = grid.shape[-2:]
        tokens = torch.cat([rearrange(grid, "b f c h w -> b f (h w) c"), slots], 2)
        tokens = entered = self.site("resid_pre", tokens)
        tokens = self.site("resid_spatial", tokens + self.spatial(tokens))
        tokens = self.site("resid_cross", tokens + self.cross(tokens, context, bias))
        if self.temporal is not None:
            tokens = tokens + self.temporal(tokens)
        tokens = self.site("resid_mid", tokens)
        tokens = self.site("resid_post", tokens + self.mlp(tokens), identity=entered)
        grid, slots = tokens[:, :, : h * w], tokens[:, :, h * w:]
        return rearrange(grid, "b f (h w) c -> b f c h w", h=h), slots
