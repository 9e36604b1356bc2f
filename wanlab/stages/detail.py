"""Detail stage: the last touch at full size, out = x + content + gan.

`content` is trained without an opponent. `gan` is a texture residual of its own, trained against a discriminator with
all else frozen, so that removing it leaves exactly the model without it. Both work at half the size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.nn.residual import VIDEO, ResBlock, framewise, shuffle, unshuffle
from wanlab.stages.upsample import check


@dataclass(frozen=True)
class Config:
    """Channels and residual blocks of the content branch and of the texture head."""

    width: int = 24
    blocks: int = 2
    gan_width: int = 24
    gan_blocks: int = 2


class Branch(Hookable):
    """Convolutions at half size: a video, its reference and what of that is valid -> what to add. Starts as zero."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.inlet = nn.Conv2d(4 * (3 + 3 + 1), width, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(width) for _ in range(blocks))
        self.outlet = nn.Conv2d(width, 4 * 3, 3, padding=1)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, reference: Tensor, valid: Tensor) -> Tensor:
        y = framewise(self.inlet, unshuffle(torch.cat([x, valid * (reference - x), valid], 2)))  # b f c h/2 w/2
        for block in self.blocks:
            y = block(y)
        return shuffle(framewise(self.outlet, y))


class Detail(Hookable):
    """Sites: `content` and `gan` (what each adds; bypass: nothing), `out` (bypass: the stage is not there)."""

    SITES = {"content": VIDEO, "gan": VIDEO, "out": VIDEO}

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.sharpen = Branch(config.width, config.blocks)
        self.texture = Branch(config.gan_width, config.gan_blocks)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Detail:
        """From the plain dictionary that `asdict(config)` gives."""
        return cls(Config(**config))

    def to_config(self) -> dict[str, Any]:
        """What `from_config` takes."""
        return asdict(self.config)

    def forward(self, x: Tensor, reference: Tensor, valid: Tensor) -> Tensor:
        """x and reference b f 3 h w in [-1, 1], valid b f 1 h w in [0, 1] (all 0 where there is no image) -> b f 3 h w.

        Raises ValueError where the sizes do not fit or are odd.
        """
        check(x, reference, valid, 1)
        content = self.sharpen(x, reference, valid)
        content = self.site("content", content, identity=lambda: torch.zeros_like(x))
        gan = self.texture(x, reference, valid)
        gan = self.site("gan", gan, identity=lambda: torch.zeros_like(x))
        return self.site("out", x + content + gan, identity=x)
