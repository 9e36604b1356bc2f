"""Detail stage: the last touch at full size, out = x + content + gan.

`content` is trained without an opponent. `gan` is a texture residual of its own, trained against a discriminator with
all else frozen, so that removing it leaves exactly the model without it. Both work at half the size.

The texture head is given noise (Karras et al. 2019, "A Style-Based Generator Architecture", section 3.2): where its
other inputs are smooth, a convolution can add no texture but a grid of its own stride.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from einops import repeat
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.nn.residual import VIDEO, Reach, ResBlock, framewise, shuffle, unshuffle
from wanlab.stages.upsample import check

TILE = 64  # pixels


@dataclass(frozen=True)
class Config:
    """Channels and residual blocks of the content branch and of the texture head."""

    width: int = 24
    blocks: int = 2
    gan_width: int = 24
    gan_blocks: int = 2


class Branch(Hookable):
    """Convolutions at half size: a video, its reference and what of that is valid -> what to add. Starts as zero.

    extra: channels of whatever else it is given. Site: `inlet`, what enters its blocks.
    """

    SITES = {"inlet": VIDEO}

    def __init__(self, width: int, blocks: int, extra: int = 0) -> None:
        super().__init__()
        self.inlet = nn.Conv2d(4 * (3 + 3 + 1 + extra), width, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(width) for _ in range(blocks))
        self.outlet = nn.Conv2d(width, 4 * 3, 3, padding=1)
        nn.init.zeros_(self.outlet.weight)
        nn.init.zeros_(self.outlet.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, reference: Tensor, valid: Tensor, *extra: Tensor) -> Tensor:
        """x and reference b f 3 h w, valid b f 1 h w, extra b f c h w of even sides -> b f 3 h w, to be added to x."""
        seen = torch.cat([x, valid * (reference - x), valid, *extra], 2)
        y = self.site("inlet", framewise(self.inlet, unshuffle(seen)))  # b f c h/2 w/2
        for block in self.blocks:
            y = block(y)
        return shuffle(framewise(self.outlet, y))


class Detail(Hookable):
    """Sites: `reference` and `valid` (what guides it), `content` and `gan` (what each adds; bypass: nothing), `out` (bypass:
    the stage is not there), `noise` (what the head is given to make texture of; the same in every frame and sample;
    bypass: none)."""

    SITES = {"reference": VIDEO, "valid": VIDEO, "content": VIDEO, "noise": VIDEO, "gan": VIDEO, "out": VIDEO}
    grain: Tensor  # h w, a tile of normal noise, kept with the weights

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.sharpen = Branch(config.width, config.blocks)
        self.texture = Branch(config.gan_width, config.gan_blocks, extra=1)
        self.register_buffer("grain", torch.randn(TILE, TILE, generator=torch.Generator().manual_seed(0)))

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Detail:
        """From the plain dictionary that `asdict(config)` gives."""
        return cls(Config(**config))

    def to_config(self) -> dict[str, Any]:
        """What `from_config` takes."""
        return asdict(self.config)

    @property
    def reach(self) -> Reach:
        """What a pixel of the output can depend on; both branches work at half the size, a convolution there sees two pixels on."""
        blocks = max(self.config.blocks, self.config.gan_blocks)
        return Reach(2 * (2 * blocks + 2), blocks)

    def forward(self, x: Tensor, reference: Tensor, valid: Tensor, origin: tuple[int, int] = (0, 0)) -> Tensor:
        """x and reference b f 3 h w in [-1, 1], valid b f 1 h w in [0, 1] (all 0 where there is no image) -> b f 3 h w.

        origin: row and column of the frame where x, a part of it, begins; even. Raises ValueError where the sizes do not fit or are
        odd.
        """
        check(x, reference, valid, 1)
        reference, valid = self.site("reference", reference), self.site("valid", valid)
        content = self.sharpen(x, reference, valid)
        content = self.site("content", content, identity=lambda: torch.zeros_like(x))
        noise = self._noise(x, origin)
        noise = self.site("noise", noise, identity=lambda: torch.zeros_like(noise))
        gan = self.texture(x, reference, valid, noise)
        gan = self.site("gan", gan, identity=lambda: torch.zeros_like(x))
        return self.site("out", x + content + gan, identity=x)

    def _noise(self, x: Tensor, origin: tuple[int, int] = (0, 0)) -> Tensor:
        """The tile, laid out over the frame: b f 1 h w."""
        b, f, _, h, w = x.shape
        grain = self.grain.roll((-origin[0], -origin[1]), (0, 1))
        tiles = grain.repeat(-(-h // TILE), -(-w // TILE))[:h, :w]
        return repeat(tiles.to(x.dtype), "h w -> b f 1 h w", b=b, f=f)
