"""Dit stage: the diffusion transformer of Wan2.1 and Wan2.2, which predicts the velocity of a video's latent (Wan 2025).

Parameters have the names of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.nn.embed import sinusoid
from wanlab.nn.joint import TOKENS, Block, Grid, OnGrid
from wanlab.nn.norm import LayerNorm
from wanlab.nn.rotary import Rotary

FLOAT32 = ("time_embedding", "time_projection", "modulation", "norm3", "img_emb.proj.0", "img_emb.proj.4", "head")


@dataclass(frozen=True)
class Config:
    """Sizes of a Wan transformer; the defaults are those of T2V-1.3B."""

    heads: int = 12
    head_width: int = 128
    depth: int = 30
    hidden: int = 8960                  # of the feed-forward
    inputs: int = 16                    # channels of the latent, and of what is laid beside it
    outputs: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    text_width: int = 4096
    frequencies: int = 256              # sines and cosines of the time
    image_width: int | None = None      # of the image tokens (CLIP); None: no image branch
    image_places: int | None = None     # learned places of the tokens of two images (first and last frame)
    eps: float = 1e-6

    @property
    def width(self) -> int:
        """Channels of the stream."""
        return self.heads * self.head_width


class ImageEmbedding(Hookable):
    """Image tokens (b j c) to the width of the stream; with `places`, those of a first frame and then of a last one, in one row."""

    SITES = {"out": "b j c"}

    def __init__(self, width: int, out: int, places: int | None) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, out), nn.LayerNorm(out))
        self.emb_pos = nn.Parameter(torch.zeros(1, places, width)) if places else None

    def forward(self, tokens: Tensor) -> Tensor:
        if self.emb_pos is not None:
            tokens = tokens + self.emb_pos
        norm1, up, gelu, down, norm2 = self.proj
        tokens = norm1(tokens.float()).to(up.weight.dtype)
        return self.site("out", norm2(down(gelu(up(tokens))).float()).to(up.weight.dtype))


class Head(OnGrid):
    """Modulated normalisation and the projection of every token to its patch of the velocity."""

    SITES = {"shift": "b n c", "scale": "b n c", "out": TOKENS}

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm = LayerNorm(config.width, affine=False, eps=config.eps)
        patch = config.patch[0] * config.patch[1] * config.patch[2]
        self.head = nn.Linear(config.width, patch * config.outputs)
        self.modulation = nn.Parameter(torch.randn(1, 2, config.width) / config.width**0.5)

    def forward(self, x: Tensor, time: Tensor, grid: Grid) -> Tensor:
        shift, scale = (self.modulation + time[:, :, None]).unbind(-2)
        shift, scale = self.site("shift", shift), self.site("scale", scale)
        return self.see("out", self.head(torch.addcmul(shift, self.norm(x.float()), 1 + scale)), grid)


class Dit(OnGrid):
    """Noisy latent, time, text and image to velocity.

    Sites: `latent` as it comes in, its `patches`, the `time` as embedded, the `text` tokens as projected, the `velocity`; and
    those of its parts.
    """

    SITES = {"latent": "b f c h w", "patches": TOKENS, "time": "b n c", "text": "b j c", "velocity": "b f c h w"}

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.patch_embedding = nn.Conv3d(config.inputs, width, config.patch, config.patch)
        self.text_embedding = nn.Sequential(nn.Linear(config.text_width, width), nn.GELU("tanh"), nn.Linear(width, width))
        self.time_embedding = nn.Sequential(nn.Linear(config.frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.img_emb = ImageEmbedding(config.image_width, width, config.image_places) if config.image_width else None
        self.rotary = Rotary(config.head_width)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.hidden, config.eps, config.image_width is not None) for _ in range(config.depth))
        self.head = Head(config)

    def forward(self, latent: Tensor, time: Tensor, text: Tensor, image: Tensor | None = None) -> Tensor:
        """The velocity (b f c h w).

        latent  b f c h w, with what is laid beside the noise in its channels
        time    b, or b n for a time of each token; 0 to 1000
        text    b j c, all tokens, padding too;  image  b j c (those of a first and of a last frame in one row), or None
        """
        grid = self.grid(latent)
        dtype = self.patch_embedding.weight.dtype
        x = self.patch_embedding(rearrange(self.site("latent", latent), "b f c h w -> b c f h w").to(dtype))
        x = self.see("patches", x.flatten(2).transpose(1, 2).contiguous(), grid)
        time = time[:, None] if time.ndim == 1 else time
        spread = self.time_embedding(sinusoid(time.float(), self.config.frequencies).roll(self.config.frequencies // 2, -1))
        spread = self.site("time", spread)
        steps = self.time_projection(spread).unflatten(-1, (6, -1))
        text = self.site("text", self.text_embedding(text.to(dtype)))
        image = None if image is None or self.img_emb is None else self.img_emb(image)
        phases = self.rotary(len(x), grid, x.device)
        for block in self.blocks:
            x = block(x, steps, text, image, phases, grid)
        patches = self.head(x, spread, grid).unflatten(1, grid)
        pf, ph, pw = self.config.patch
        return self.site("velocity", rearrange(patches, "b f h w (i p q c) -> b (f i) c (h p) (w q)", i=pf, p=ph, q=pw))

    def grid(self, latent: Tensor) -> Grid:
        """Frames, height and width of the tokens of a latent. Raises ValueError where the patches do not divide it."""
        sides = (latent.shape[1], latent.shape[3], latent.shape[4])
        if latent.shape[2] != self.config.inputs:
            raise ValueError(f"the latent has {latent.shape[2]} channels, this transformer takes in {self.config.inputs}")
        if any(side % patch for side, patch in zip(sides, self.config.patch)):
            raise ValueError(f"a latent of {sides} (frames, height, width) does not divide into patches of {self.config.patch}")
        return tuple(side // patch for side, patch in zip(sides, self.config.patch))  # type: ignore[return-value]

    def cast(self, dtype: torch.dtype) -> Dit:
        """This transformer in another precision, but float32 where the published code computes in it."""
        for name, value in self.named_parameters():
            value.data = value.data.to(torch.float32 if any(part in name for part in FLOAT32) else dtype)
        return self
