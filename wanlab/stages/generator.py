"""Generator stage: a spatio-temporal UNet that denoises all frames, and the motion of the layers, jointly.

Video and motion are diffused together (joint appearance and motion, as in VideoJAM, Chefer et al. 2025): the UNet sees the
noisy video `b f 3 h w` and the noisy motion `b f m 5` and predicts both clean. The motion of each layer and frame is one
register token beside the grid, so the same spatial, cross and temporal attention serves both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
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
    widths: tuple[int, ...] = (48, 96)      # one level each, the next at half the size
    heads: int = 4
    context: int = 64         # width of the fused tokens
    temporal: bool = True     # False: trained without temporal attention
    predicts: str = later("x0")     # x0, epsilon, v or flow; the motion is always predicted clean

    def __post_init__(self) -> None:
        demand(self.predicts)
        object.__setattr__(self, "widths", tuple(self.widths))
        step = self.patch * 2 ** (len(self.widths) - 1)
        if not self.widths or self.size % step:
            raise ValueError(f"generator.Config: {len(self.widths)} levels on patches of {self.patch} need a size that {step} "
                             f"divides, got {self.size}")
        if odd := [width for width in self.widths if width % self.heads or width % 8]:
            raise ValueError(f"generator.Config: widths must be multiples of 8 and of the {self.heads} heads, got {odd[0]}")


class Draft(NamedTuple):
    """What the UNet gives before alignment."""

    paint: Tensor      # b f 3 h w     the video as the UNet would paint it, or what else it predicts of it
    hint: Tensor       # b f 1 h w     logit: paint here rather than carry the first frame over
    motion: Tensor     # b f m 5       clean motion, in units of its standard deviation
    features: Tensor   # b f c h w     last features on the UNet's finest grid


class Generator(Hookable):
    """UNet of as many levels as `widths`: `down.0`, `down.1`, ..., `mid`, `up.0`, `up.1`, ..., each a `Block`, and skips between.

    Sites: what it is given, the `input` of its first block, the skips (those of the grid by level, finest first, and those of
    the slots, `skip.slots`, `skip.slots.1`, ...; bypass: cut), the last `features`, and what it predicts.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths, context, p = config.widths, config.context, config.patch
        c0, deepest = widths[0], len(widths) - 1
        self.SITES = {
            "noisy": "b f c h w", "noisy_motion": "b f m d", "input": "b f c h w",
            **{f"skip.{i}": "b f c h w" for i in range(len(widths))},
            **{_numbered("skip.slots", i, "."): "b f m c" for i in range(deepest)},
            "features": "b f c h w", "paint": "b f c h w", "hint": "b f c h w", "motion": "b f m d",
        }
        self.config = config
        self.patchify = nn.Conv2d(6, c0, p, p)
        self.ground = nn.Linear(context, c0)
        self.embed_motion = nn.Linear(len(MOTION), c0)
        self.embed_slot = nn.Linear(context, c0)

        def block(width: int, inputs: int | None = None) -> Block:
            return Block(width, config.heads, context, context, inputs, temporal=config.temporal)

        self.down = nn.ModuleList(block(width) for width in widths)
        self.mid = block(widths[-1])
        self.up = nn.ModuleList(block(width, 2 * width) for width in reversed(widths))
        for i, (fine, coarse) in enumerate(pairwise(widths)):        # between level i and the next
            self.add_module(_numbered("shrink", i), nn.Conv2d(fine, coarse, 3, 2, 1))
            self.add_module(_numbered("grow", i), nn.Conv2d(coarse, fine, 3, padding=1))
            self.add_module(_numbered("slots_down", i), nn.Linear(fine, coarse))
            self.add_module(_numbered("slots_up", i), nn.Linear(coarse, fine))
        self.norm_grid, self.norm_slots = GroupNorm(8, c0), LayerNorm(c0, "b f m c")
        self.to_pixels = nn.Conv2d(c0, 4 * p * p, 3, padding=1)
        self.to_motion = nn.Linear(c0, len(MOTION))
        self.blend = Blend()

    def forward(self, noisy: Tensor, noisy_motion: Tensor, frame: Tensor, condition: Condition) -> Draft:
        """noisy b f 3 h w, noisy_motion b f m 5 (in standard deviations), frame b 3 h w: the clean first frame."""
        noisy, noisy_motion = self.site("noisy", noisy), self.site("noisy_motion", noisy_motion)
        grid, slots = self._enter(noisy, noisy_motion, frame, condition)
        args = (condition.pooled, condition.context, condition.bias)

        kept: list[tuple[Tensor, Tensor]] = []
        for i, block in enumerate(self.down):                                              # b f c h w, finest first
            if i:
                grid, slots = _per_frame(self._between("shrink", i - 1), grid), self._between("slots_down", i - 1)(slots)
            grid, slots = block(grid, slots, *args)
            last = i == len(self.down) - 1
            kept.append((self._skip(str(i), grid), slots if last else self._skip(_numbered("slots", i, "."), slots)))
        grid, slots = self.mid(grid, slots, *args)
        for i, block in zip(reversed(range(len(self.up))), self.up):
            skip, kept_slots = kept[i]
            if i < len(self.up) - 1:
                grid = _per_frame(lambda x, i=i: self._between("grow", i)(F.interpolate(x, scale_factor=2.0)), grid)
                slots = kept_slots + self._between("slots_up", i)(slots)
            grid, slots = block(torch.cat([grid, skip], 2), slots, *args)

        features = self.site("features", grid)
        normed = self.norm_grid(features)
        pixels = _per_frame(lambda x: F.pixel_shuffle(self.to_pixels(F.silu(x)), self.config.patch), normed)
        paint, hint = pixels.split([3, 1], 2)
        motion = self.to_motion(self.norm_slots(slots))
        return Draft(self.site("paint", paint), self.site("hint", hint), self.site("motion", motion), features)

    def _between(self, name: str, level: int) -> nn.Module:
        return self.get_submodule(_numbered(name, level))

    def _skip(self, name: str, x: Tensor) -> Tensor:
        return self.site(f"skip.{name}", x, identity=lambda: torch.zeros_like(x))

    def _enter(self, noisy: Tensor, motion: Tensor, frame: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        f = noisy.shape[1]
        first = repeat(frame, "b c h w -> b f c h w", f=f)
        grid = _per_frame(self.patchify, torch.cat([noisy, first], 2))
        time = sinusoid(torch.arange(f, device=grid.device), grid.shape[2], 100.0).to(grid.dtype)      # f c
        ground = _spread(self.ground(condition.grounded), grid.shape[-1])
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
        """aligned, noisy and the draft's paint b f 3 h w, valid and its hint b f 1 h w -> b f 3 h w."""
        x = torch.cat([aligned, valid, draft.paint, noisy, draft.hint], 2)
        gate = self.site("gate", (1 - valid) * torch.sigmoid(_per_frame(self.net, x) + draft.hint))
        return self.site("out", aligned + gate * (draft.paint - aligned))


def _spread(tokens: Tensor, side: int) -> Tensor:
    """Tokens of a square (b n c) as b 1 c h w on a grid of `side`, between their centres where that is finer."""
    grid = rearrange(tokens, "b (h w) c -> b c h w", h=math.isqrt(tokens.shape[1]))
    if grid.shape[-1] != side:
        grid = F.interpolate(grid, (side, side), mode="bilinear", align_corners=False)
    return rearrange(grid, "b c h w -> b 1 c h w")


def _numbered(name: str, i: int, mark: str = "_") -> str:
    """The name of the i-th of several: that of a UNet with two levels, which has one of each, has no number."""
    return f"{name}{mark}{i}" if i else name


def _per_frame(net: object, x: Tensor) -> Tensor:
    """Apply a 2D network to every frame of b f c h w."""
    f = x.shape[1]
    return rearrange(net(rearrange(x, "b f c h w -> (b f) c h w")), "(b f) c h w -> b f c h w", f=f)  # type: ignore[operator]
