"""Discriminator stage: how real each patch of a video looks, frame by frame and in its changes.

Two sides give one logit per patch (Isola et al. 2017): small convolutions on the activations of the frozen content
network (a VGG layout, as the article has it), and a 3D branch on the differences of neighbouring frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.nn.residual import VIDEO, framewise


@dataclass(frozen=True)
class Config:
    """taps: channels of the content network's activations that are looked at, finest first; width: of both sides."""

    taps: tuple[int, ...] = (16, 32, 64)
    width: int = 24

    def __post_init__(self) -> None:
        object.__setattr__(self, "taps", tuple(self.taps))
        if not self.taps:
            raise ValueError("discriminator.Config: at least one tap")


class Discriminator(Hookable):
    """Sites: `features.0` .. (activations looked at, b f c h w, each half the size of the one before), what every layer of
    the two sides makes of them (`read.0` .. of each activation, `judge.0` .. of their sum; `change.0` .. of the differences,
    b c f h w), `spatial`, `temporal` (the logits of each side; bypass: nothing), `realness`.

    `realness` holds one logit per frame and patch of 4x4 pixels: positive where it takes the patch for real.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.reads = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1) for c in config.taps)
        self.judge = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 1)
        )
        self.motion = nn.Sequential(
            nn.Conv3d(3, width, 3, stride=(1, 2, 2), padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv3d(width, width, 3, stride=(1, 2, 2), padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv3d(width, 1, 1),
        )
        self.SITES = {
            **{f"features.{i}": VIDEO for i in range(len(config.taps))},
            **{f"read.{i}": VIDEO for i in range(len(config.taps))},
            **{f"judge.{i}": VIDEO for i in range(len(self.judge))},
            "spatial": VIDEO,
            **{f"change.{i}": "b c f h w" for i in range(len(self.motion))},
            "temporal": VIDEO,
            "realness": VIDEO,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Discriminator:
        """From the plain dictionary that `asdict(config)` gives."""
        return cls(Config(**config))

    def to_config(self) -> dict[str, Any]:
        """What `from_config` takes."""
        return asdict(self.config)

    def forward(self, video: Tensor, taps: Sequence[Tensor]) -> Tensor:
        """video b f 3 h w in [-1, 1], sides divisible by 4; taps: the content network's activations of its frames,
        each (b f) c ..

        Gives logits b f 1 h/4 w/4. Raises ValueError where there are fewer taps than the config asks for.
        """
        f, _, h, w = video.shape[1:]
        if len(taps) < len(self.reads) or h % 4 or w % 4:
            raise ValueError(
                f"needs {len(self.reads)} taps and sides divisible by 4, got {len(taps)} taps of a {h}x{w} video"
            )
        if (given := tuple(tap.shape[1] for tap in taps[: len(self.reads)])) != self.config.taps:
            raise ValueError(f"the discriminator looks at activations of {self.config.taps} channels, got {given} of another")
        spatial = self._spatial(taps, f, (h // 4, w // 4))
        steps = video[:, 1:] - video[:, :-1] if f > 1 else torch.zeros_like(video)
        steps = torch.cat([steps[:, :1], steps], 1) if f > 1 else steps  # as many differences as frames
        change = rearrange(steps, "b f c h w -> b c f h w")
        for i, layer in enumerate(self.motion):
            change = self.site(f"change.{i}", layer(change))
        temporal = rearrange(change, "b c f h w -> b f c h w")
        temporal = self.site("temporal", temporal, identity=lambda: torch.zeros_like(temporal))
        return self.site("realness", spatial + temporal)

    def _spatial(self, taps: Sequence[Tensor], frames: int, size: tuple[int, int]) -> Tensor:
        seen = []
        for i, (read, tap) in enumerate(zip(self.reads, taps)):
            tap = self.site(f"features.{i}", rearrange(tap, "(b f) c h w -> b f c h w", f=frames))
            tap = rearrange(tap, "b f c h w -> (b f) c h w")
            tap = tap / tap.square().mean(1, keepdim=True).add(1e-4).sqrt()  # looks at what, not at how much
            tap = rearrange(F.adaptive_avg_pool2d(read(tap), size), "(b f) c h w -> b f c h w", f=frames)
            seen.append(self.site(f"read.{i}", tap))
        y = torch.stack(seen).sum(0)
        for i, layer in enumerate(self.judge):
            y = self.site(f"judge.{i}", framewise(layer, y))
        return self.site("spatial", y, identity=lambda: torch.zeros_like(y))
