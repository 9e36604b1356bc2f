"""Image stage of the article: a published DiT as an encoder of the first frame.

The frame goes through the encoder of a latent autoencoder (Rombach et al. 2022), is noised a little, and a DiT (Peebles & Xie 2023)
predicts the noise; what one of its blocks says of every patch, projected, are the tokens. The noise is the same for every image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wanlab.core import Place, adapt
from wanlab.core.nearest import suggestion
from wanlab.nn.attention import Attention
from wanlab.nn.norm import LayerNorm
from wanlab.stages.image import Encoder
from wanlab.stages.image_dit import ImageDit, Sizes

_PICTURE = {"axes": "b c h w", "identity": None}
VAE = {
    "conv_in": Place("encoder.conv_in", **_PICTURE),
    "down.{i}.out": Place("encoder.down_blocks.{i}", **_PICTURE),
    "mid.out": Place("encoder.mid_block", **_PICTURE),
    "moments": Place("quant_conv", **_PICTURE),
}
SCALE = 0.18215                     # of the published autoencoder's latent, to unit variance
BETAS, TIMES = (1e-4, 0.02), 1000   # of the DiT's training: noise variances from step to step, linear


@dataclass(frozen=True)
class Config:
    """The defaults are the article's: DiT-XL/2 on the 32 x 32 latent of a 256 x 256 picture.

    size, output    sides of the frame that the generator is given, and of the reference that guides super-resolution
    picture         side of what the autoencoder is given
    vae_*           channels of its levels, residual blocks of each, groups of its norms; latent: its channels
    patch ... eps   of the DiT (`image_dit.Sizes`)
    layer, time     the block whose output is read, and the timestep (of 1000) whose noise it is given
    width           of the tokens
    projection      "linear", or "mlp": from the DiT's width to that of the tokens
    pooling         "mean", or "attention": from tokens to one vector
    """

    size: int = 64
    output: int = 1024
    picture: int = 256
    vae_widths: tuple[int, ...] = (128, 256, 512, 512)
    vae_blocks: int = 2
    vae_groups: int = 32
    latent: int = 4
    patch: int = 2
    dit_width: int = 1152
    heads: int = 16
    depth: int = 28
    classes: int = 1000
    eps: float = 1e-5
    layer: str = "blocks.13"
    time: int = 50
    width: int = 768
    projection: str = "linear"
    pooling: str = "mean"

    def __post_init__(self) -> None:
        object.__setattr__(self, "vae_widths", tuple(self.vae_widths))
        step = 2 ** (len(self.vae_widths) - 1) * self.patch
        if self.picture % step or self.output % self.size:
            raise ValueError(f"latent.Config: {step} must divide picture {self.picture}, and size {self.size} output {self.output}")
        for name, known in (("layer", [f"blocks.{i}" for i in range(self.depth)]), ("projection", ["linear", "mlp"]),
                            ("pooling", ["mean", "attention"])):
            if getattr(self, name) not in known:
                raise ValueError(f"latent.Config: no {name} {getattr(self, name)!r}{suggestion(getattr(self, name), known)}")
        if not 0 <= self.time < TIMES:
            raise ValueError(f"latent.Config: time must be from 0 to {TIMES - 1}, got {self.time}")

    @property
    def sizes(self) -> Sizes:
        """Of the DiT."""
        side = self.picture // 2 ** (len(self.vae_widths) - 1)
        return Sizes(side, self.latent, 2 * self.latent, self.patch, self.dit_width, self.heads, self.depth, self.classes,
                     mlp_eps=self.eps)

    @property
    def grid(self) -> int:
        """Tokens along one side of the frame."""
        return self.sizes.side // self.patch


class LatentEncoder(Encoder):
    """Sites, beside those of every image stage: `latent` and `noise` (the two parts of what the DiT is given; bypass: none),
    `features` (the layer that is read), `projected`; those of the autoencoder (`vae.*`), of the DiT (`dit.*`, with `dit.time`, the
    embedding of the noise level) and, where they attend, of the pooling (`pool.*`).
    """

    SITES = {"latent": "b c h w", "noise": "b c h w", "features": "b n c", "projected": "b n c",
             **{name: axes for name, axes in Encoder.SITES.items() if name != "embed"}}
    PUBLISHED = ("vae", "dit")
    grain: Tensor       # c h w, kept with the weights

    def _build(self, config: Config) -> None:  # type: ignore[override]
        sizes = config.sizes
        self.vae, self.dit = adapt(LatentVae(config), VAE), ImageDit(sizes)
        self.norm = LayerNorm(config.dit_width)
        hidden = 4 * config.width
        self.project = nn.Linear(config.dit_width, config.width) if config.projection == "linear" else nn.Sequential(
            nn.Linear(config.dit_width, hidden), nn.GELU(), nn.Linear(hidden, config.width))
        attends = config.pooling == "attention"
        self.query = nn.Parameter(0.02 * torch.randn(1, config.width)) if attends else None
        self.pool = Attention(config.width, _heads(config.width)) if attends else None
        drawn = torch.randn(config.latent, sizes.side, sizes.side, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        self.register_buffer("grain", drawn)
        kept = math.prod(1 - BETAS[0] - (BETAS[1] - BETAS[0]) * i / (TIMES - 1) for i in range(config.time + 1))
        self.kept, self.added = math.sqrt(kept), math.sqrt(1 - kept)

    def _seen(self, frame: Tensor, reference: Tensor) -> Tensor:
        side = self.config.picture  # type: ignore[attr-defined]
        return F.interpolate(reference, (side, side), mode="bilinear", antialias=True, align_corners=False)

    def _encode(self, picture: Tensor) -> Tensor:
        config: Config = self.config  # type: ignore[assignment]
        mean = self.vae(picture).chunk(2, 1)[0]
        latent = self.site("latent", SCALE * mean)
        noise = self.site("noise", self.added * self.grain.expand_as(latent), identity=lambda: torch.zeros_like(latent))
        time = torch.full((len(latent),), config.time, device=latent.device)
        read = self.dit(self.kept * latent + noise, time).features[int(config.layer.rpartition(".")[2])]
        return self.site("projected", self.project(self.norm(self.site("features", read))))

    def _pool(self, tokens: Tensor) -> Tensor:
        if self.pool is None:
            return super()._pool(tokens)
        return self.pool(self.query.expand(len(tokens), 1, -1), tokens)[:, 0]  # type: ignore[union-attr]


class LatentVae(nn.Module):
    """The encoder of a latent autoencoder of diffusers: a picture (b 3 h w in [-1, 1]) to mean and log variance (b 2c h/8 w/8)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        from diffusers import AutoencoderKL

        levels = len(config.vae_widths)
        whole: Any = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.vae_widths, layers_per_block=config.vae_blocks, latent_channels=config.latent,
            norm_num_groups=config.vae_groups)
        self.encoder, self.quant_conv = whole.encoder, whole.quant_conv

    def forward(self, picture: Tensor) -> Tensor:
        """b 3 h w in [-1, 1] -> b 2c h/8 w/8: the mean of c channels, then their log variance."""
        moments: Tensor = self.quant_conv(self.encoder(picture))
        return moments


def _heads(width: int) -> int:
    """Heads of 64 channels, at least one that divides the width."""
    return width // 64 if width % 64 == 0 else 1
