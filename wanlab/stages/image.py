"""Image stage: a diffusion transformer (DiT, Peebles & Xie 2023) used as an encoder of the first frame. `wanlab.stages.conv`
has one of convolutions.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.nn.attention import Attention
from wanlab.nn.norm import LayerNorm


@dataclass(frozen=True)
class Config:
    """Sizes of the image stage, in pixels and channels."""

    size: int = 32            # side of the frame that is encoded
    output: int = 128         # side of the reference that guides super-resolution
    patch: int = 4
    width: int = 64
    heads: int = 4
    depth: int = 2

    def __post_init__(self) -> None:
        if self.size % self.patch or self.output % self.size:
            raise ValueError(f"patch {self.patch} must divide size {self.size}, and size must divide output {self.output}")

    @property
    def grid(self) -> int:
        """Tokens along one side of the frame."""
        return self.size // self.patch

    @property
    def picture(self) -> int:
        """Side of the picture that the tokens are made of."""
        return self.size


class Image(NamedTuple):
    """What the image stage gives; all in [-1, 1] where it is colour."""

    tokens: Tensor     # b n c         one per patch, in raster order
    pooled: Tensor     # b c
    frame: Tensor      # b 3 h w       the first frame at the generator's size
    reference: Tensor  # b 3 H W       the first frame at the output's size
    present: Tensor    # b             1 where an image was given, 0 for the null condition


class Block(Hookable):
    """DiT block: attention and MLP whose norms, scales and gates come from the condition (adaLN-Zero).

    Sites: `modulation` (shift, scale, gate of the attention, then of the MLP), the residual stream, and what is added to it.
    """

    SITES = {"modulation": "b c", "resid_pre": "b n c", "attn_out": "b n c", "resid_mid": "b n c",
             "mlp_pre": "b n c", "mlp_post": "b n c", "mlp_out": "b n c", "resid_post": "b n c"}

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.norm1, self.norm2 = (LayerNorm(width, affine=False) for _ in range(2))
        self.attn = Attention(width, config.heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulate = nn.Linear(width, 6 * width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Tokens b n c under a condition b c -> b n c."""
        x = self.site("resid_pre", x)
        modulation = self.site("modulation", self.modulate(F.silu(condition)))
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation[:, None].chunk(6, -1)
        y = self.attn(self.norm1(x) * (1 + scale1) + shift1)
        y = self.site("attn_out", (1 + gate1) * y, identity=lambda: torch.zeros_like(x))
        mid = self.site("resid_mid", x + y)
        y = self.site("mlp_pre", self.up(self.norm2(mid) * (1 + scale2) + shift2))
        y = self.down(self.site("mlp_post", F.gelu(y)))
        y = self.site("mlp_out", (1 + gate2) * y, identity=lambda: torch.zeros_like(x))
        return self.site("resid_post", mid + y, identity=x)


class Encoder(Hookable):
    """First frame (b 3 H W in [0, 1]) to tokens, a pooled vector and the frame at the two sizes that later stages need.

    The variants differ in what makes the tokens (`_encode`); the trained null condition is a part of each.
    """

    SITES = {"embed": "b n c", "tokens": "b n c", "pooled": "b c", "frame": "b c h w",
             "reference": "b c h w", "present": "b"}
    PUBLISHED: tuple[str, ...] = ()     # its modules that others published

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        n = config.grid ** 2
        self._build(config)
        self.null_tokens = nn.Parameter(0.02 * torch.randn(n, config.width))
        self.null_frame = nn.Parameter(torch.zeros(3, config.size, config.size))

    @abstractmethod
    def _build(self, config: Config) -> None:
        """Make what encodes."""

    @abstractmethod
    def _encode(self, frame: Tensor) -> Tensor:
        """Tokens (b n c) of the frame (b 3 h w in [-1, 1]), one per patch in raster order."""

    def forward(self, image: Tensor, present: Tensor | None = None) -> Image:
        """Encode; rows whose `present` (b) is 0 get the trained null condition. `image` has the output's size."""
        side = self.config.output
        if tuple(image.shape[1:]) != (3, side, side):
            raise ValueError(f"image must be b 3 {side} {side}, got {tuple(image.shape)}")
        present = image.new_ones(len(image)) if present is None else present
        reference = 2 * image - 1
        frame = F.avg_pool2d(reference, side // self.config.size)
        tokens = self._encode(self._seen(frame, reference))
        null = self.null_image(len(image))
        given = present > 0
        tokens = torch.where(rearrange(given, "b -> b 1 1"), tokens, null.tokens)
        tokens = self.site("tokens", tokens, identity=null.tokens)
        return Image(
            tokens,
            self.site("pooled", torch.where(given[:, None], self._pool(tokens), null.pooled), identity=null.pooled),
            self._keep("frame", given, frame, null.frame),
            self._keep("reference", given, reference, null.reference),
            self.site("present", present, identity=null.present),
        )

    def null_image(self, b: int) -> Image:
        """The trained null condition: learned tokens and frame, no reference."""
        tokens = repeat(self.null_tokens, "n c -> b n c", b=b)
        frame = repeat(self.null_frame, "c h w -> b c h w", b=b)
        side = self.config.output
        return Image(tokens, tokens.mean(1), frame, tokens.new_zeros(b, 3, side, side), tokens.new_zeros(b))

    def _seen(self, frame: Tensor, reference: Tensor) -> Tensor:
        """What is encoded: the first frame at the generator's size, or what a variant makes of it at the output's."""
        return frame

    def _pool(self, tokens: Tensor) -> Tensor:
        """Tokens (b n c) to one vector (b c)."""
        return tokens.mean(1)

    def _keep(self, name: str, given: Tensor, value: Tensor, null: Tensor) -> Tensor:
        return self.site(name, torch.where(rearrange(given, "b -> b 1 1 1"), value, null), identity=null)


class ImageEncoder(Encoder):
    """Patches through blocks of a DiT. Sites of its own: `condition`, what modulates every block."""

    SITES = {**Encoder.SITES, "condition": "b c"}

    def _build(self, config: Config) -> None:
        n = (config.size // config.patch) ** 2
        self.embed = nn.Conv2d(3, config.width, config.patch, config.patch)
        self.place = nn.Parameter(0.02 * torch.randn(n, config.width))
        self.level = nn.Parameter(torch.zeros(config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm, self.project = LayerNorm(config.width), nn.Linear(config.width, config.width)

    def _encode(self, frame: Tensor) -> Tensor:
        x = self.site("embed", rearrange(self.embed(frame), "b c h w -> b (h w) c") + self.place)
        condition = self.site("condition", x.mean(1) + self.level)
        for block in self.blocks:
            x = block(x, condition)
        return self.project(self.norm(x))
