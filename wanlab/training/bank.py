"""Clips in memory that the base learns from: of the procedural world, with their truth, or windows of real videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wanlab.data.clip import Clips
from wanlab.data.procedural import COLOURS, MOTIONS, SHAPES, SLOTS, World
from wanlab.data.reel import Reel
from wanlab.nn.layers import MOTION
from wanlab.training import watch


class Bank(NamedTuple):
    """n clips.

    video   uint8 n f 3 h w at the generator's size;  first: uint8 n 3 H W, frame 0 at the size that the image stage looks at
    masks   uint8 n m h w of frame 0;  motion: n f m 5;  labels: n m 3 (colour, shape, motion; -1: none)
    ids     n j: the captions as a text stage reads them (`read`); 0 throughout where nothing is said
    source  what they are the rows of
    """

    video: Tensor
    first: Tensor
    masks: Tensor
    motion: Tensor
    labels: Tensor
    captions: tuple[str, ...]
    ids: Tensor = torch.zeros(0, 0, dtype=torch.long)
    source: World | Reel | None = None

    def read(self, tokenise: Callable[[list[str]], Tensor]) -> Bank:
        """The same clips with the numbers that `tokenise` makes of their captions; an empty one is no text, whatever ends it."""
        said = torch.tensor([bool(caption.strip()) for caption in self.captions])
        return self._replace(ids=torch.where(said[:, None], tokenise(list(self.captions)), 0))


def bank(world: World, n: int, size: int, picture: int | None = None) -> Bank:
    """Draw the first `n` clips of `world`, averaged down to `size`; first frames at `picture`, unless told at that size too."""
    near = World(picture or size, 1, world.seed, world.split, world.max_objects)
    parts = []
    for start in range(0, n, 64):
        watch.present().busy(f"drawing clips ({world.split})", start, n)
        rows = range(start, min(n, start + 64))
        clips = world.batch(rows)
        small = F.avg_pool2d(clips.video.flatten(0, 1), world.size // size).unflatten(0, (len(clips), -1))
        first = small[:, 0] if near.size == size else near.batch(rows).video[:, 0]
        masks = F.avg_pool2d(clips.first_masks, world.size // size)
        parts.append(Bank(_bytes(small), _bytes(first), _bytes(masks), clips.motion, labels(clips), tuple(clips.captions)))
    return _joined(parts, world)


def filmed(reel: Reel, size: int, slots: int = SLOTS) -> Bank:
    """Every window of a reel, whose size is that of the first frames: like `bank`, but of layers and motion nothing is known (no
    mask, no motion, no label)."""
    parts = []
    for start in range(0, len(reel), 16):
        watch.present().busy("reading videos", start, len(reel))
        clips = reel.batch(range(start, min(start + 16, len(reel))))
        b, f = clips.video.shape[:2]
        small = F.avg_pool2d(clips.video.flatten(0, 1), reel.size // size).unflatten(0, (b, f))
        parts.append(Bank(_bytes(small), _bytes(clips.first), torch.zeros(b, slots, size, size, dtype=torch.uint8),
                          torch.zeros(b, f, slots, len(MOTION)), torch.full((b, slots, 3), -1), tuple(clips.captions)))
    return _joined(parts, reel)


@lru_cache(2)
def drawn(split: str, clips: int, size: int, frames: int, picture: int) -> Bank:
    """The first clips of a split, once for all parts that a file trains one after the other."""
    return bank(World(size=2 * size, frames=frames, split=split), clips, size, picture)


def labels(clips: Clips) -> Tensor:
    """b m 3: colour, shape and motion class of each slot; -1 where there is nothing."""
    out = torch.full((len(clips), SLOTS, 3), -1)
    names = [list(COLOURS), list(SHAPES), list(MOTIONS)]
    for row, factors in zip(out, clips.factors or [], strict=True):
        for m, thing in enumerate(factors["objects"], start=1):
            row[m] = torch.tensor([names[i].index(thing[key]) for i, key in enumerate(("colour", "shape", "motion"))])
    return out


def _bytes(value: Tensor) -> Tensor:
    return (value * 255).round().byte()


def _joined(parts: Sequence[Bank], source: World | Reel) -> Bank:
    *tensors, captions, _, _ = zip(*parts, strict=True)
    video, first, masks, motion, known = map(torch.cat, tensors)
    return Bank(video, first, masks, motion, known, tuple(text for some in captions for text in some), source=source)
