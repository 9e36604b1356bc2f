"""The encoders as Wan's published files know them: modules whose parameters have those names, with what they compute.

Written from the published descriptions; independent of transformers and diffusers, which they are compared with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class T5Block(nn.Module):
    """Attention with its own table of relative places, and a gated feed-forward."""

    def __init__(self, width: int, inner: int, heads: int, hidden: int, buckets: int, far: int) -> None:
        super().__init__()
        self.heads, self.buckets, self.far = heads, buckets, far
        self.norm1, self.norm2 = _Scale(width), _Scale(width)
        self.attn = nn.ModuleDict({name: nn.Linear(width, inner, bias=False) for name in "qkv"})
        self.attn["o"] = nn.Linear(inner, width, bias=False)
        self.ffn = nn.ModuleDict({"gate": nn.Sequential(nn.Linear(width, hidden, bias=False)),
                                  "fc1": nn.Linear(width, hidden, bias=False), "fc2": nn.Linear(hidden, width, bias=False)})
        self.pos_embedding = nn.ModuleDict({"embedding": nn.Embedding(buckets, heads)})

    def bias(self, length: int) -> Tensor:
        """Half of the buckets for each direction; half of those exact, the rest by the logarithm of the distance."""
        ahead = torch.arange(length)[None] - torch.arange(length)[:, None]
        half = self.buckets // 2
        exact = half // 2
        away = ahead.abs()
        far = exact + (torch.log(away.clamp(min=1) / exact) / math.log(self.far / exact) * (half - exact)).long()
        bucket = torch.where(away < exact, away, far.clamp(max=half - 1)) + half * (ahead > 0)
        return rearrange(self.pos_embedding["embedding"](bucket), "i j k -> k i j")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (rearrange(self.attn[name](self.norm1(x)), "b n (k d) -> b k n d", k=self.heads) for name in "qkv")
        scores = q @ k.transpose(-1, -2) + self.bias(x.shape[1])
        z = scores.masked_fill(mask[:, None, None] == 0, -torch.inf).softmax(-1) @ v
        x = x + self.attn["o"](rearrange(z, "b k n d -> b n (k d)"))
        y = self.norm2(x)
        return x + self.ffn["fc2"](self.ffn["fc1"](y) * F.gelu(self.ffn["gate"](y), approximate="tanh"))


class T5(nn.Module):
    """The encoder of umT5."""

    def __init__(self, vocabulary: int, width: int, inner: int, heads: int, hidden: int, depth: int, buckets: int,
                 far: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(T5Block(width, inner, heads, hidden, buckets, far) for _ in range(depth))
        self.norm = _Scale(width)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.token_embedding(ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class VisionBlock(nn.Module):
    """Attention with its three projections in one, and a feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"to_qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.attn["to_qkv"](self.norm1(x)), "b n (i k d) -> i b k n d", i=3, k=self.heads)
        x = x + self.attn["proj"](rearrange(F.scaled_dot_product_attention(q, k, v), "b k n d -> b n (k d)"))
        return x + self.mlp(self.norm2(x))


class Vision(nn.Module):
    """The image half of CLIP, read before its last block."""

    def __init__(self, side: int, patch: int, width: int, heads: int, hidden: int, depth: int, out: int) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, width, patch, patch, bias=False)
        self.cls_embedding = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embedding = nn.Parameter(torch.randn(1, 1 + (side // patch) ** 2, width))
        self.pre_norm, self.post_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Sequential(*(VisionBlock(width, heads, hidden) for _ in range(depth)))
        self.head = nn.Parameter(torch.randn(width, out))

    def forward(self, pixels: Tensor) -> Tensor:
        x = rearrange(self.patch_embedding(pixels), "b c h w -> b (h w) c")
        x = torch.cat([self.cls_embedding.expand(len(x), -1, -1), x], 1) + self.pos_embedding
        return self.transformer[:-1](self.pre_norm(x))


class Clip(nn.Module):
    """Both halves, of the text's only a name."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.visual = Vision(**sizes)
        self.textual = nn.Linear(2, 2)
        self.log_scale = nn.Parameter(torch.zeros([]))


# -- VAE: the names alone ---------------------------------------------------------------------------------------------------
def _gamma(width: int, axes: int) -> nn.Module:
    made = nn.Module()
    made.gamma = nn.Parameter(torch.ones(width, *[1] * axes))
    return made


def _residual(into: int, out: int) -> nn.Module:
    made, gap = nn.Module(), nn.Identity()
    made.residual = nn.Sequential(_gamma(into, 3), gap, nn.Conv3d(into, out, 3), _gamma(out, 3), gap, gap, nn.Conv3d(out, out, 3))
    if into != out:
        made.shortcut = nn.Conv3d(into, out, 1)
    return made


def _middle(width: int) -> nn.Module:
    attention = nn.Module()
    attention.norm, attention.to_qkv, attention.proj = _gamma(width, 2), nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
    return nn.Sequential(_residual(width, width), attention, _residual(width, width))


def _resample(width: int, out: int, time: int | None) -> nn.Module:
    """time: channels that the convolution over time gives, where there is one."""
    made = nn.Module()
    made.resample = nn.Sequential(nn.Identity(), nn.Conv2d(width, out, 3))
    if time:
        made.time_conv = nn.Conv3d(width, time, (3, 1, 1))
    return made


def _level(blocks: Sequence[nn.Module], deep: bool, name: str) -> list[nn.Module]:
    """The blocks of a level one by one, or as a module of their own."""
    if not deep:
        return list(blocks)
    made = nn.Module()
    setattr(made, name, nn.Sequential(*blocks))
    return [made]


def _half(first: nn.Module, levels: list[nn.Module], name: str, wide: int, last: int, out: int) -> nn.Module:
    made = nn.Module()
    made.conv1, made.middle = first, _middle(wide)
    setattr(made, name, nn.Sequential(*levels))
    made.head = nn.Sequential(_gamma(last, 3), nn.Identity(), nn.Conv3d(last, out, 3))
    return made


def vae(base: int, z: int, many: Sequence[int], blocks: int, channels: int = 3, decoder: int | None = None, deep: bool = False,
        time: Sequence[bool] = (False, True, True)) -> nn.Module:
    """The autoencoder of Wan2.1; `deep`: of Wan2.2, whose levels are modules of their own."""
    made, down, up = nn.Module(), [], []
    widths = [base * one for one in (1, *many)]
    for i, (into, out) in enumerate(pairwise(widths)):
        level = [_residual(into if j == 0 else out, out) for j in range(blocks)]
        if i < len(many) - 1:
            level.append(_resample(out, out, out if time[i] else None))
        down += _level(level, deep, "downsamples")
    made.encoder = _half(nn.Conv3d(channels, widths[0], 3), down, "downsamples", widths[-1], widths[-1], 2 * z)
    widths = [(decoder or base) * one for one in (many[-1], *many[::-1])]
    for i, (into, out) in enumerate(pairwise(widths)):
        into = into // 2 if i and not deep else into
        level = [_residual(into if j == 0 else out, out) for j in range(blocks + 1)]
        if i < len(many) - 1:
            level.append(_resample(out, out if deep else out // 2, 2 * out if time[::-1][i] else None))
        up += _level(level, deep, "upsamples")
    made.decoder = _half(nn.Conv3d(z, widths[0], 3), up, "upsamples", widths[0], widths[-1], channels)
    made.conv1, made.conv2 = nn.Conv3d(2 * z, 2 * z, 1), nn.Conv3d(z, z, 1)
    return made
