"""Tiles: a stage that looks only so far around each pixel, run on parts of a video one after another.

Each tile is given its surroundings as far as the stage can look (its `reach`), so that what it makes is what the whole video would
have given, to rounding; neighbours overlap by a few pixels, and are blended there along a ramp. Memory, beyond the video that comes
in and the one that goes out, is that of one tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from wanlab.nn.layers import Window
from wanlab.nn.residual import Reach


class TilingError(ValueError):
    """Something that cannot be had of a stage that runs in tiles."""


@dataclass(frozen=True)
class Tiling:
    """side: of a tile, in pixels of what a stage makes; frames: of a tile; blend: pixels over which neighbours are blended."""

    side: int = 512
    frames: int = 16
    blend: int = 8

    def __post_init__(self) -> None:
        if self.side < 32 or self.side % 4 or self.frames < 1 or not 0 <= self.blend <= self.side // 4:
            raise TilingError("tiles need a side of at least 32 that 4 divides, at least one frame, and a blend of at most a "
                              f"quarter of it; got side {self.side}, frames {self.frames}, blend {self.blend}")

    def covers(self, frames: int, high: int, wide: int) -> bool:
        """Whether a video of that size is one tile."""
        return frames <= self.frames and max(high, wide) <= self.side


@dataclass(frozen=True)
class Cut:
    """Along one axis of the small video: what a tile is given, what of it is used, and (of the large one) with what weight."""

    seen: slice
    used: slice
    weight: Tensor


Stage = Callable[[Tensor, Window, Window], Tensor]      # part of the small video, where it lies in it and in the large one -> large


def tiled(stage: Stage, video: Tensor, scale: int, reach: Reach, tiling: Tiling) -> Tensor:
    """What `stage` makes of `video` (b f c h w, h and w even), b f c sh sw, one tile at a time."""
    f, _, h, w = video.shape[1:]
    side, blend = tiling.side // scale, math.ceil(tiling.blend / scale)
    margin = reach.pixels + reach.pixels % 2
    out = video.new_zeros(*video.shape[:3], scale * h, scale * w)
    times = cuts(f, tiling.frames, reach.frames, 0, 1, 1)
    rows, columns = (cuts(n, side, margin, blend, scale, 2) for n in (h, w))
    for time, row, column in product(times, rows, columns):
        seen = Window(time.seen, row.seen, column.seen)
        large = stage(video[:, time.seen, :, row.seen, column.seen], seen, _scaled(seen, scale))
        inner = [_inner(time, 1), _inner(row, scale), _inner(column, scale)]
        weight = row.weight[:, None].to(large) * column.weight.to(large)
        here = out[:, time.used, :, _times(row.used, scale), _times(column.used, scale)]
        here += weight * large[:, inner[0], :, inner[1], inner[2]]
    return out


def cuts(n: int, side: int, margin: int, blend: int, scale: int, step: int) -> list[Cut]:
    """`n` pixels in parts of about `side` that overlap by `blend`, their borders multiples of `step`; weights sum to 1."""
    count = max(1, math.ceil(n / side))
    borders = [round(i * n / count / step) * step for i in range(count)] + [n]
    half = math.ceil(blend / 2 / step) * step
    return [_cut(start, stop, n, margin, half, scale) for start, stop in pairwise(borders)]


def _cut(start: int, stop: int, n: int, margin: int, half: int, scale: int) -> Cut:
    first, last = max(0, start - half), min(n, stop + half)
    weight = torch.ones(scale * (last - first))
    ramp = (torch.arange(2 * half * scale) + 0.5) / max(1, 2 * half * scale)
    if start and half:
        weight[: len(ramp)] *= ramp
    if stop < n and half:
        weight[-len(ramp):] *= ramp.flip(0)
    return Cut(slice(max(0, first - margin), min(n, last + margin)), slice(first, last), weight)


def _inner(cut: Cut, scale: int) -> slice:
    return slice(scale * (cut.used.start - cut.seen.start), scale * (cut.used.stop - cut.seen.start))


def _times(part: slice, scale: int) -> slice:
    return slice(scale * part.start, scale * part.stop)


def _scaled(window: Window, scale: int) -> Window:
    return Window(window.frames, _times(window.rows, scale), _times(window.columns, scale))
