"""Generator stage: a spatio-temporal UNet that denoises all frames, and the motion of the layers, jointly.

Video and motion are diffused together (joint appearance and motion, as in VideoJAM, Chefer et al. 2025): the UNet sees the
noisy video `b f 3 h w` and the noisy motion `b f m 5` and predicts both clean. The motion of each layer and frame is one
register token beside the grid, so the same spatial, cross and temporal attention serves both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.diffusion.targets import demand
from wanlab.graph.configs import later
from wanlab.nn.embed import sinusoid
from wanlab.nn.layers import MOTION
from wanlab.nn.norm import GroupNorm, LayerNorm
from wanlab.nn.spacetime import Block
from wanlab.stages.fusion import Condition


@dataclass(frozen=True)
class Config:
    """Sizes of the UNet, and what its `paint` predicts of the video (`wanlab.diffusion.targets`)."""

    size: int = 32
    patch: int = 4            # the UNet's finest grid is size / patch
    widths: tuple[int, int] = (48, 96)
    heads: int = 4
    context: int = 64         # width of the fused tokens
    temporal: bool = True     # False: trained without temporal attention
    predicts: str = later("x0")     # x0, epsilon, v or flow; the motion is always predicted clean

    def __post_init__(self) -> None:
        demand(self.predicts)


class Draft(NamedTuple):
    """What the UNet gives before alignment."""

    paint: Tensor      # b f 3 h w     the video as the UNet would paint it, or what else it predicts of it
    hint: Tensor       # b f 1 h w     logit: paint here rather than carry the first frame over
    motion: Tensor     # b f m 5       clean motion, in units of its standard deviation
    features: Tensor   # b f c h w     last features on the UNet's finest grid


class Generator(Hookable):
    """UNet with two levels: `down.0`, `down.1`, `mid`, `up.0`, `up.1`, each a `Block`, and skips between them.

    Sites: what it is given, the `input` of its first block, the skips (those of the grid by level, and that of the slots;
    bypass: cut), the last `features`, and what it predicts.
    """

    SITES = {"noisy": "b f c h w", "noisy_motion": "b f m d", "input": "b f c h w",
             "skip.0": "b f c h w", "skip.1": "b f c h w", "skip.slots": "b f m c",
             "features": "b f c h w", "paint": "b f c h w", "hint": "b f c h w", "motion": "b f m d"}

    def __init__(self, config: Config) -> None:
        super().__init__()
        (c0, c1), context, p = config.widths, config.context, config.patch
        self.config = config
        self.patchify = nn.Conv2d(6, c0, p, p)
        self.ground = nn.Linear(context, c0)
        self.embed_motion = nn.Linear(len(MOTION), c0)
        self.embed_slot = nn.Linear(context, c0)

        def block(width: int, inputs: int | None = None) -> Block:
            return Block(width, config.heads, context, context, inputs, temporal=config.temporal)

        self.down = nn.ModuleList([block(c0), block(c1)])
        self.mid = block(c1)
        self.up = nn.ModuleList([block(c1, 2 * c1), block(c0, 2 * c0)])
        self.shrink, self.grow = nn.Conv2d(c0, c1, 3, 2, 1), nn.Conv2d(c1, c0, 3, padding=1)
        self.slots_down, self.slots_up = nn.Linear(c0, c1), nn.Linear(c1, c0)
        self.norm_grid, self.norm_slots = GroupNorm(8, c0), LayerNorm(c0, "b f m c")
        self.to_pixels = nn.Conv2d(c0, 4 * p * p, 3, padding=1)
        self.to_motion = nn.Linear(c0, len(MOTION))
        self.blend = Blend()

    def forward(self, noisy: Tensor, noisy_motion: Tensor, frame: Tensor, condition: Condition) -> Draft:
        """noisy b f 3 h w, noisy_motion b f m 5 (in standard deviations), frame b 3 h w: the clean first frame."""
        noisy, noisy_motion = self.site("noisy", noisy), self.site("noisy_motion", noisy_motion)
        grid, slots = self._enter(noisy, noisy_motion, frame, condition)
        args = (condition.pooled, condition.context, condition.bias)

        grid, slots = self.down[0](grid, slots, *args)                                     # b f c0 8 8
        skip0, slots0 = self._skip("0", grid), self._skip("slots", slots)
        grid, slots = self.down[1](_per_frame(self.shrink, grid), self.slots_down(slots), *args)
        skip1 = self._skip("1", grid)                                                      # b f c1 4 4
        grid, slots = self.mid(grid, slots, *args)
        grid, slots = self.up[0](torch.cat([grid, skip1], 2), slots, *args)
        grid = _per_frame(lambda x: self.grow(F.interpolate(x, scale_factor=2.0)), grid)
        grid, slots = self.up[1](torch.cat([grid, skip0], 2), slots0 + self.slots_up(slots), *args)

        features = self.site("features", grid)
        normed = self.norm_grid(features)
        pixels = _per_frame(lambda x: F.pixel_shuffle(self.to_pixels(F.silu(x)), self.config.patch), normed)
        paint, hint = pixels.split([3, 1], 2)
        motion = self.to_motion(self.norm_slots(slots))
        return Draft(self.site("paint", paint), self.site("hint", hint), self.site("motion", motion), features)

    def _skip(self, name: str, x: Tensor) -> Tensor:
        return self.site(f"skip.{name}", x, identity=lambda: torch.zeros_like(x))

    def _enter(self, noisy: Tensor, motion: Tensor, frame: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        f = noisy.shape[1]
        first = repeat(frame, "b c h w -> b f c h w", f=f)
        grid = _per_frame(self.patchify, torch.cat([noisy, first], 2))
        h = grid.shape[-2]
        time = sinusoid(torch.arange(f, device=grid.device), grid.shape[2], 100.0).to(grid.dtype)      # f c
        ground = rearrange(self.ground(condition.grounded), "b (h w) c -> b 1 c h w", h=h)
        grid = self.site("input", grid + ground + time[:, :, None, None])
        slots = self.embed_motion(motion) + self.embed_slot(condition.slots)[:, None] + time[:, None]
        return grid, slots


class Blend(Hookable):
    """What was seen in the first frame is carried over, what was not is painted: x0 = aligned + gate * (paint - aligned).

    The gate is closed where the alignment is valid: an open one drifts to the UNet's paint, which averages over what it does
    not know, and objects lose their shape (docs/decisions/0003).
    """

    SITES = {"gate": "b f c h w", "out": "b f c h w"}

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(11, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(),
                                 nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, draft: Draft, aligned: Tensor, valid: Tensor, noisy: Tensor) -> Tensor:
        x = torch.cat([aligned, valid, draft.paint, noisy, draft.hint], 2)
        gate = self.site("gate", (1 - valid) * torch.sigmoid(_per_frame(self.net, x) + draft.hint))
        return self.site("out", aligned + gate * (draft.paint - aligned))


def _per_frame(net: object, x: Tensor) -> Tensor:
    """Apply a 2D network to every frame of b f c h w."""
    f = x.shape[1]
    return rearrange(net(rearrange(x, "b f c h w -> (b f) c h w")), "(b f) c h w -> b f c h w", f=f)  # type: ignore[operator]
