"""Upsample stage: one x2 level of the super-resolution cascade.

    out = link * bicubic(video) + branch(video, reference, valid)

The reference is the first frame at the target size, carried into every frame by the layered motion
(`nn.layers.compose`). The branch works at the small size and says for every large pixel how far the reference is to
be trusted (`trust`) and what else is to be added. Here a pixel shuffle makes the large pixels; `wanlab.stages.resize` has
other ways.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.nn.residual import VIDEO, Reach, ResBlock, Residual, enlarge, framewise, shuffle, unshuffle


@dataclass(frozen=True)
class Config:
    """One level.

    width   channels of the branch
    blocks  its residual blocks
    link    of the bicubic skip; 0 is a level that was built without it
    """

    width: int = 32
    blocks: int = 3
    link: float = 1.0

    def __post_init__(self) -> None:
        if self.width < 1 or self.blocks < 0:
            raise ValueError(f"upsample.Config: width {self.width} and blocks {self.blocks} must be positive")


LEVELS = (Config(width=48), Config(width=32))  # of the tiny cascade: 32 -> 64 -> 128


class Upsample(Hookable):
    """One level.

    Sites: `reference`, `valid` (what guides it), `inlet` (what enters the blocks), `paint` and `carried` (the two parts of
    the branch: made up, and taken from the reference; bypass: nothing), `trust` (0: none .. 1: the reference itself),
    `out` (bypass: bicubic).
    """

    SITES = {"reference": VIDEO, "valid": VIDEO, "inlet": VIDEO, "paint": VIDEO, "trust": VIDEO, "carried": VIDEO, "out": VIDEO}
    phases = 4  # large pixels that the outlet makes of a small one

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.inlet = nn.Conv2d(3 + 4 * (3 + 1), config.width, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(config.width) for _ in range(config.blocks))
        self.outlet = nn.Conv2d(config.width, self.phases * (3 + 1), 3, padding=1)
        self.residual = Residual(config.link)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Upsample:
        """From the plain dictionary that `asdict(config)` gives."""
        return cls(Config(**config))

    def to_config(self) -> dict[str, Any]:
        """What `from_config` takes."""
        return asdict(self.config)

    def grow(self, x: Tensor) -> Tensor:
        """Features b f c h w to what the branch says of every large pixel: b f 4 2h 2w, colour and gate."""
        return shuffle(framewise(self.outlet, x))

    @property
    def reach(self) -> Reach:
        """What a pixel of the output can depend on: as many pixels of the small video, and frames, to each side.

        One pixel for each convolution, one for what enlarges after the last; nothing looks at the whole frame.
        """
        return Reach(2 * self.config.blocks + 3, self.config.blocks)

    def forward(self, video: Tensor, reference: Tensor, valid: Tensor) -> Tensor:
        """video b f 3 h w and reference b f 3 2h 2w in [-1, 1]; valid b f 1 2h 2w in [0, 1], 0 where there is no image.

        Gives b f 3 2h 2w. Raises ValueError where the sizes do not fit.
        """
        check(video, reference, valid, 2)
        reference, valid = self.site("reference", reference), self.site("valid", valid)
        skip = enlarge(video)  # b f 3 2h 2w
        x = framewise(self.inlet, torch.cat([video, unshuffle(reference), unshuffle(valid)], 2))  # b f c h w
        x = self.site("inlet", x)
        for block in self.blocks:
            x = block(x)
        paint, gate = self.grow(x).split([3, 1], 2)  # b f 3 2h 2w, b f 1 2h 2w
        paint = self.site("paint", paint, identity=lambda: torch.zeros_like(skip))
        trust = self.site("trust", torch.sigmoid(gate) * valid)
        carried = trust * (reference - self.config.link * skip)
        carried = self.site("carried", carried, identity=lambda: torch.zeros_like(skip))
        return self.site("out", self.residual(skip, paint + carried), identity=skip)


def check(video: Tensor, reference: Tensor, valid: Tensor, factor: int) -> None:
    """Raise ValueError unless the reference (3 channels) and valid (1) are `factor` times as large as the video."""
    if video.ndim != 5 or video.shape[2] != 3:
        raise ValueError(f"a video is b f 3 h w, got {tuple(video.shape)}")
    b, f, _, h, w = video.shape
    for name, given, channels in (("reference", reference, 3), ("valid", valid, 1)):
        wanted = (b, f, channels, factor * h, factor * w)
        if tuple(given.shape) != wanted:
            raise ValueError(f"the {name} for a {h}x{w} video must be {wanted}, got {tuple(given.shape)}")
