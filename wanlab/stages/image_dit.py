"""DiT (Peebles & Xie 2023), the class-conditional diffusion transformer, as it was published: noise prediction on the latent of
an image. The image stage `latent` reads its features.

Parameters have names of this package; `image_dit_keys` has those of diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.nn.attention import Attention
from wanlab.nn.norm import LayerNorm

TOKENS = "b n c"
FREQUENCIES = 256       # sines and cosines of the time


@dataclass(frozen=True)
class Sizes:
    """Of a DiT; the defaults are those of DiT-XL/2 at 256 x 256.

    side      of the latent, in places
    channels  of the latent; the prediction has `outputs` (noise, then variance)
    classes   ImageNet's; one more stands for no class
    """

    side: int = 32
    channels: int = 4
    outputs: int = 8
    patch: int = 2
    width: int = 1152
    heads: int = 16
    depth: int = 28
    classes: int = 1000
    eps: float = 1e-6           # of the norms before attention and head
    mlp_eps: float = 1e-5       # of the norm before the MLP


class Seen(NamedTuple):
    """What a forward gives."""

    prediction: Tensor          # b c h w       noise and variance
    features: list[Tensor]      # b n c each    after every block


class Block(Hookable):
    """Attention and MLP whose norms and gates come from the condition (adaLN-Zero, section 3.2).

    Sites: as of the image stage's own block.
    """

    SITES = {"modulation": "b c", "resid_pre": TOKENS, "attn_out": TOKENS, "resid_mid": TOKENS, "mlp_pre": TOKENS,
             "mlp_post": TOKENS, "mlp_out": TOKENS, "resid_post": TOKENS}

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.width
        self.norm1 = LayerNorm(width, affine=False, eps=sizes.eps)
        self.norm2 = LayerNorm(width, affine=False, eps=sizes.mlp_eps)
        self.attn = Attention(width, sizes.heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulate = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens b n c under a condition b c -> b n c."""
        x = self.site("resid_pre", x)
        modulation = self.site("modulation", self.modulate(F.silu(condition)))
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation[:, None].chunk(6, -1)
        y = gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1)
        mid = self.site("resid_mid", x + self.site("attn_out", y, identity=lambda: torch.zeros_like(x)))
        y = self.site("mlp_pre", self.up(self.norm2(mid) * (1 + scale2) + shift2))
        y = gate2 * self.down(self.site("mlp_post", F.gelu(y, approximate="tanh")))
        return self.site("resid_post", mid + self.site("mlp_out", y, identity=lambda: torch.zeros_like(x)), identity=x)


class ImageDit(Hookable):
    """A noisy latent (b c h w), its timestep (b) and class (b; `sizes.classes`: none) to the prediction and every block's output.

    Sites: `patches` (with their places), `time` (the embedding of the timestep; bypass: none), `label` (of the class),
    `condition` (their sum), `out`.
    """

    SITES = {"patches": TOKENS, "time": "b c", "label": "b c", "condition": "b c", "out": "b c h w"}
    place: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        if sizes.side % sizes.patch or sizes.width % 4 or sizes.width % sizes.heads:
            raise ValueError(f"a DiT needs a latent that patches of {sizes.patch} divide, got {sizes.side}, and a width that 4 and "
                             f"the {sizes.heads} heads divide, got {sizes.width}")
        self.sizes, width = sizes, sizes.width
        self.embed = nn.Conv2d(sizes.channels, width, sizes.patch, sizes.patch)
        self.register_buffer("place", places(sizes.side // sizes.patch, width), persistent=False)
        self.time = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(sizes.classes + 1, width)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.depth))
        self.modulate, self.norm = nn.Linear(width, 2 * width), LayerNorm(width, affine=False, eps=sizes.eps)
        self.head = nn.Linear(width, sizes.patch**2 * sizes.outputs)

    def forward(self, latent: Tensor, time: Tensor, label: Tensor | None = None) -> Seen:
        """Raises ValueError for a latent of another size."""
        sizes = self.sizes
        wanted = (sizes.channels, sizes.side, sizes.side)
        if tuple(latent.shape[1:]) != wanted:
            raise ValueError(f"the latent must be b {' '.join(map(str, wanted))}, got {tuple(latent.shape)}")
        label = torch.full((len(latent),), sizes.classes, device=latent.device) if label is None else label
        x = self.site("patches", rearrange(self.embed(latent), "b c h w -> b (h w) c") + self.place)
        embedded = self.time(waves(time).to(x.dtype))
        embedded = self.site("time", embedded, identity=lambda: torch.zeros_like(embedded))
        condition = self.site("condition", embedded + self.site("label", self.label(label)))
        features = []
        for block in self.blocks:
            x = block(x, condition)
            features.append(x)
        shift, scale = self.modulate(F.silu(condition))[:, None].chunk(2, -1)
        y = self.head(self.norm(x) * (1 + scale) + shift)
        y = rearrange(y, "b (h w) (p q c) -> b c (h p) (w q)", h=sizes.side // sizes.patch, p=sizes.patch, q=sizes.patch)
        return Seen(self.site("out", y), features)


def waves(time: Tensor) -> Tensor:
    """Cosines, then sines of a timestep (b), b 256: frequencies from 1 to 1/10000, the last included as in diffusers (the published
    code stops one short of it)."""
    half = FREQUENCIES // 2
    frequency = 10_000.0 ** (-torch.arange(half, device=time.device, dtype=torch.float32) / (half - 1))
    phase = time[:, None].float() * frequency
    return torch.cat([phase.cos(), phase.sin()], -1)


def places(side: int, width: int) -> Tensor:
    """Sines and cosines of every place of a square in raster order (n width): first of its column, then of its row."""
    at = torch.arange(side, dtype=torch.float64)
    phase = at[:, None] * 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    one = torch.cat([phase.sin(), phase.cos()], -1)                     # side width/2
    row, column = one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)
    return rearrange(torch.cat([column, row], -1), "h w c -> (h w) c").float()
