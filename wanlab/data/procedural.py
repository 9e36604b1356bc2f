"""The world with known truth: videos of moving shapes, deterministic by (seed, split, index), at any size and length.

    world = World(size=64, split="train")
    sample = world[17]              # Sample: video, caption, factors, masks, tracks, motion, flow, ...
    clips = world.batch(range(8))   # Clips: the same, stacked

A caption names shapes, colours and motions. What it leaves open (speed, orbits, senses of turning, the wind that
carries the background, depth order) is shared by all frames of a clip, so whatever draws the clip has to make its
frames agree. Of the wind alone the first frame tells: the background glows warmer on the side that it blows to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wanlab.data.caption import VOCABULARY, caption
from wanlab.data.clip import Clips
from wanlab.data.draw import draw_scene
from wanlab.data.motion import MOTIONS
from wanlab.data.render import render
from wanlab.data.scene import SLOTS, Scene, factors
from wanlab.data.shapes import COLOURS, SHAPES
from wanlab.data.truth import flow_between, flow_to_first

if TYPE_CHECKING:
    from wanlab.data.pool import Pool

__all__ = ["COLOURS", "MOTIONS", "SHAPES", "SLOTS", "SPLITS", "VOCABULARY", "Sample", "World", "caption"]

SPLITS: tuple[str, ...] = ("train", "val", "test")


@dataclass
class Sample:
    """One clip and all that is known about it. Layers m: 0 the background, 1 and 2 the objects in the caption's order.

    video `f c h w` float32 in [0, 1]; masks `f m h w` float32, the share of each pixel that each layer covers;
    tracks `f m 2` the layers' centres (x right, y down, fractions of the width; 0 for an empty slot);
    motion `f m 5` = dx, dy, log_scale, angle, depth relative to frame 0 (an empty slot is 0).
    """

    video: Tensor
    caption: str
    factors: dict[str, Any]
    masks: Tensor
    tracks: Tensor
    motion: Tensor
    scene: Scene

    @property
    def depth(self) -> Tensor:
        """`m`: 0 for the background, larger is nearer."""
        return self.motion[0, :, 4]

    @cached_property
    def flow(self) -> Tensor:
        """`f 2 h w`: from a pixel of frame t to the place of its surface point in frame 0, fractions of the width."""
        return torch.from_numpy(flow_to_first(self.scene, self.video.shape[0], self.video.shape[-1]))

    @cached_property
    def _pairs(self) -> tuple[Tensor, Tensor]:
        flow, hidden = flow_between(self.scene, self.video.shape[0], self.video.shape[-1])
        return torch.from_numpy(flow), torch.from_numpy(hidden)

    @property
    def flow_pairs(self) -> Tensor:
        """`f-1 2 h w`: from a pixel of frame t to where its surface point is in frame t + 1, fractions of the width."""
        return self._pairs[0]

    @property
    def occlusion(self) -> Tensor:
        """`f-1 h w` bool: the surface point of this pixel of frame t is hidden or out of sight in frame t + 1."""
        return self._pairs[1]


class World:
    """A map-style dataset without end: any index from 0 on is a sample.

    size          int, frames are square, at least 8 pixels
    frames        int, at least 1; more frames show the same motion more finely
    seed, split   worlds with another seed or split share no clip; "test" alone also shows held-out combinations
    max_objects   1 or 2
    Raises ValueError for anything else.
    """

    def __init__(
        self, size: int = 128, frames: int = 8, seed: int = 0, split: str = "train", max_objects: int = 2
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"World: unknown split {split!r}; there are {', '.join(SPLITS)}")
        for name, value, low, high in (
            ("size", size, 8, 8192), ("frames", frames, 1, 10_000), ("seed", seed, 0, 2**63),
            ("max_objects", max_objects, 1, 2),
        ):  # fmt: skip
            if not low <= value <= high:
                raise ValueError(f"World: {name}={value} is not in {low}..{high}")
        self.size, self.frames, self.seed, self.split, self.max_objects = size, frames, seed, split, max_objects

    def __repr__(self) -> str:
        return (
            f"World(size={self.size}, frames={self.frames}, seed={self.seed}, split={self.split!r}, "
            f"max_objects={self.max_objects})"
        )

    def scene(self, index: int) -> tuple[Scene, str]:
        """The clip before it is drawn, and its caption. Raises IndexError below 0 (there is no end to count from)."""
        if index < 0:
            raise IndexError(f"{self!r}[{index}]: indices start at 0 and have no end")
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        scene = draw_scene(rng, max_objects=self.max_objects, unseen=self.split == "test")
        words = [{"shape": t.shape, "colour": t.colour, "motion": t.motion} for t in scene.things]
        return scene, caption(words, rng)

    def __getitem__(self, index: int) -> Sample:
        scene, words = self.scene(index)
        picture, motion = render(scene, self.frames, self.size), scene.motion(self.frames)
        return Sample(
            video=torch.from_numpy(picture.video),
            caption=words,
            factors=factors(scene),
            masks=torch.from_numpy(picture.masks),
            tracks=torch.from_numpy(scene.starts() + motion[..., :2]),
            motion=torch.from_numpy(motion),
            scene=scene,
        )

    def __iter__(self) -> Iterator[Sample]:
        index = 0
        while True:
            yield self[index]
            index += 1

    def batch(self, indices: Iterable[int], truth: bool = False) -> Clips:
        """The samples of these indices, stacked. truth: with flow, flow_pairs and occlusion, which take as long again.

        Raises ValueError for no indices, IndexError for one below 0.
        """
        samples = [self[index] for index in indices]
        if not samples:
            raise ValueError(f"{self!r}.batch: no indices")
        names = ("video", "masks", "tracks", "motion") + (("flow", "flow_pairs", "occlusion") if truth else ())
        return Clips(
            captions=[sample.caption for sample in samples],
            factors=[sample.factors for sample in samples],
            **{name: torch.stack([getattr(sample, name) for sample in samples]) for name in names},
        )

    def pool(self, n: int, path: str | Path | None = None, dtype: Any = np.uint8) -> Pool:
        """The first n samples, drawn once. With a folder: kept there as memory-mapped arrays. See `Pool.of`."""
        from wanlab.data.pool import Pool

        return Pool.of(self, n, path, dtype)
