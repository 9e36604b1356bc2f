"""Video transformers over tubelets: the encoder that VideoMAE v2 and V-JEPA share but for biases, positions and last norm.

Tensor names are those of the published checkpoints, so that their files load strictly; the code is the project's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


class SelfAttention(nn.Module):
    """Attention of tokens among themselves; `split_bias`: queries and values have biases of their own, keys none."""

    def __init__(self, width: int, heads: int, split_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=not split_bias)
        self.q_bias = nn.Parameter(torch.zeros(width)) if split_bias else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if split_bias else None
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `b n d`, the same."""
        bias: Tensor = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        q, k, v = rearrange(functional.linear(x, self.qkv.weight, bias), "b n (three k d) -> three b k n d", three=3, k=self.heads)
        return self.proj(rearrange(functional.scaled_dot_product_attention(q, k, v), "b k n d -> b n (k d)"))


class Feedforward(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `b n d`, the same, each by itself."""
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """Normalise and attend, normalise and feed forward, each added to what came in."""

    def __init__(self, width: int, heads: int, hidden: int, epsilon: float, split_bias: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, epsilon), nn.LayerNorm(width, epsilon)
        self.attn = SelfAttention(width, heads, split_bias)
        self.mlp = Feedforward(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `b n d`, the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Tubelets(nn.Module):
    """Patches of a few frames each, as tokens: `b c f h w` -> `b n d`, time slowest, then rows."""

    def __init__(self, width: int, tubelet: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, (tubelet, patch, patch), (tubelet, patch, patch))

    def forward(self, x: Tensor) -> Tensor:
        """Frames and sides are multiples of those of a token."""
        return rearrange(self.proj(x), "b d f h w -> b (f h w) d")


class VideoEncoder(nn.Module):
    """Tokens of a video after all blocks, without the last normalisation.

    width, depth, heads, hidden   of the blocks
    patch, tubelet                pixels and frames of a token
    places                        tokens of the clips and frames that the positions were made for
    split_bias                    see SelfAttention
    fixed                         the positions are sines of the token's number and no tensor of the file (VideoMAE v2)
    """

    def __init__(
        self, width: int, depth: int, heads: int, hidden: int, patch: int, tubelet: int, places: int, split_bias: bool, fixed: bool
    ) -> None:
        super().__init__()
        self.patch_embed = Tubelets(width, tubelet, patch)
        if fixed:
            self.register_buffer("pos_embed", sines(places, width)[None], persistent=False)
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, places, width))
        self.blocks = nn.ModuleList([Block(width, heads, hidden, 1e-6, split_bias) for _ in range(depth)])

    def tokens(self, x: Tensor) -> Tensor:
        """`b c f h w` -> `b n d`.

        Raises:
            ValueError: a clip with another number of tokens than the positions were made for.
        """
        embedded = self.patch_embed(x)
        if embedded.shape[1] != self.pos_embed.shape[1]:
            raise ValueError(
                f"{type(self).__name__} has positions for {self.pos_embed.shape[1]} tokens, this clip of "
                f"{tuple(x.shape[2:])} frames and pixels gives {embedded.shape[1]}"
            )
        x = embedded + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return x


def sines(places: int, width: int) -> Tensor:
    """Position `p` as sin and cos of p / 10000^(2 i / width), interleaved (Vaswani et al. 2017): `places width`."""
    at = torch.arange(places, dtype=torch.float64)[:, None]
    angle = at * torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width].float()


def measured(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Width, depth, hidden width, patch and tubelet of an encoder, read off the axes of its tensors.

    Raises:
        KeyError: they are not those of such an encoder.
    """
    kernel = state["patch_embed.proj.weight"].shape
    return {
        "width": kernel[0],
        "depth": 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks.")),
        "hidden": state["blocks.0.mlp.fc1.weight"].shape[0],
        "patch": kernel[-1],
        "tubelet": kernel[2],
    }
