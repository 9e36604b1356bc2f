"""What the judging networks are taught on: crops and clips of the procedural world with their labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wanlab.data.procedural import COLOURS, MOTIONS, SHAPES, Sample, World

PALETTE = list(COLOURS)
BLUR, NOISE = 2.0, 0.10  # largest blur (sigma in pixels) and noise (sigma of [0, 1]) that a crop is degraded by


class Crops(NamedTuple):
    """images `b c h w`; colour `b 6` and shape `b 5` (1 shown, 0 not, NaN cut off); harm `b 2` in [0, 1]."""

    images: Tensor
    colour: Tensor
    shape: Tensor
    harm: Tensor


class Clip(NamedTuple):
    """videos `b f c h w`; colour `b 6` (1 shown, 0 not); shape and motion `b 6` (index, -1 unknown)."""

    videos: Tensor
    colour: Tensor
    shape: Tensor
    motion: Tensor


def crops(world: World, first: int, count: int, seed: int, size: int = 64, cuts: int = 1) -> Crops:
    """`cuts` crops, each of a random frame, of `count` clips from `first` on, then degraded.

    Half are cut at the world's own resolution (fine texture), half are larger cuts brought down to `size`; three in
    four are cut about an object, the others anywhere.
    """
    rng = np.random.default_rng([seed, first])
    samples = (world[index] for index in range(first, first + count))
    rows = [_crop(sample, world.size, size, rng) for sample in samples for _ in range(cuts)]
    images, colours, shapes = (torch.stack(column) for column in zip(*rows, strict=True))
    degraded, harm = degrade(images.clamp(0, 1), rng)
    return Crops(degraded, colours, shapes, harm)


def _crop(sample: Sample, world_size: int, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One crop `c h w`, and which colours `6` and shapes `5` it shows."""
    frame = int(rng.integers(len(sample.video)))
    side = size if rng.uniform() < 0.5 else int(rng.integers(size, world_size + 1))
    window = _window(sample.tracks[frame], len(sample.factors["objects"]), side, world_size, rng)
    colour, shape = torch.zeros(len(PALETTE)), torch.zeros(len(SHAPES))
    for slot, thing in enumerate(sample.factors["objects"], 1):
        mask = sample.masks[frame][slot]
        share = float(mask[window].sum() / mask.sum().clamp_min(1))
        colour[PALETTE.index(thing["colour"])] = _shown(share, 0.5)
        place = SHAPES.index(thing["shape"])
        shape[place] = torch.maximum(shape[place], torch.tensor(_shown(share, 0.85)))
    return _shrink(sample.video[frame][window][None], size)[0], colour, shape


def _shrink(frames: Tensor, size: int) -> Tensor:
    """`n c h w` resampled to `size`, antialiased."""
    return functional.interpolate(frames, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _window(tracks: Tensor, objects: int, side: int, size: int, rng: np.random.Generator) -> tuple[Any, slice, slice]:
    """A square of `side` pixels inside the frame: about a random object (three in four) or anywhere."""
    corner = rng.integers(size - side + 1, size=2)
    if rng.uniform() < 0.75:
        centre = tracks[1 + int(rng.integers(objects))].numpy() * size + rng.uniform(-0.15, 0.15, 2) * side
        corner = np.clip(np.round(centre - side / 2), 0, size - side).astype(int)
    left, top = (int(c) for c in corner)
    return ..., slice(top, top + side), slice(left, left + side)


def _shown(share: float, enough: float) -> float:
    """1 when so much of an object is in the crop that it counts as shown, 0 when as good as nothing, NaN between."""
    return 1.0 if share > enough else (0.0 if share < 0.02 else float("nan"))


def degrade(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Half of the images blurred, half made noisy (independently); returns them and how much of each, `b 2` in [0, 1].

    A network that has to tell how much keeps the fine texture in its features; one that only names shapes drops it.
    """
    harm = torch.from_numpy(rng.uniform(size=(len(images), 2)) * (rng.uniform(size=(len(images), 2)) < 0.5)).float()
    kernel_at = torch.arange(-5, 6).float()
    out = []
    for image, (blur, noise) in zip(images, harm, strict=True):
        if blur > 0.05:
            kernel = torch.exp(-kernel_at.square() / (2 * (BLUR * blur) ** 2))
            kernel = kernel / kernel.sum()
            padded = functional.pad(image[:, None], (5, 5, 5, 5), mode="reflect")
            rows = functional.conv2d(padded, kernel[None, None, None, :])
            image = functional.conv2d(rows, kernel[None, None, :, None])[:, 0]
        grain = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
        out.append(image + NOISE * noise * grain)
    return torch.stack(out).clamp(0, 1), harm


def clips(world: World, first: int, count: int, seed: int, size: int) -> Clip:
    """`count` clips from `first` on at `size` pixels, half of them mirrored (left and right change places)."""
    rng = np.random.default_rng([seed, first])
    videos, colours, shapes, motions = [], [], [], []
    mirrored = {"left": "right", "right": "left"}
    for index in range(first, first + count):
        sample = world[index]
        flip = bool(rng.uniform() < 0.5)
        video = _shrink(sample.video, size)
        videos.append(video.flip(-1) if flip else video)
        colour = torch.zeros(len(PALETTE))
        shape, motion = torch.full((len(PALETTE),), -1), torch.full((len(PALETTE),), -1)
        for thing in sample.factors["objects"]:
            place = PALETTE.index(thing["colour"])
            colour[place] = 1
            shape[place] = SHAPES.index(thing["shape"])
            name = thing["motion"]
            motion[place] = MOTIONS.index(mirrored.get(name, name) if flip else name)
        colours.append(colour)
        shapes.append(shape)
        motions.append(motion)
    return Clip(torch.stack(videos).clamp(0, 1), torch.stack(colours), torch.stack(shapes), torch.stack(motions))


class Batches(Protocol):
    """Batches without end, which can say where they are and go on from there: a checkpoint carries it."""

    def __next__(self) -> Any:
        """The next batch."""

    def state_dict(self) -> dict[str, Any]:
        """Where they are, as plain data."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


class ShapeBatches:
    """Batches without end from a bank of crops `n 3 h w` and labels `n`, mirrored at random and degraded at half strength."""

    def __init__(self, crops: Tensor, labels: Tensor, batch: int, seed: int) -> None:
        self.crops, self.labels, self.batch = crops, labels, batch
        self.rng = np.random.default_rng([seed, 1])

    def __next__(self) -> tuple[Tensor, Tensor]:
        pick = torch.from_numpy(self.rng.integers(len(self.crops), size=self.batch))
        images = self.crops[pick]
        flip = torch.from_numpy(self.rng.uniform(size=self.batch) < 0.5)
        images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        degraded, _ = degrade(images, self.rng)
        clean = torch.from_numpy(self.rng.uniform(size=self.batch) < 0.5)
        return torch.where(clean[:, None, None, None], images, degraded), self.labels[pick]

    def state_dict(self) -> dict[str, Any]:
        """Where the generator is."""
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.rng.bit_generator.state = state["rng"]


class Stream:
    """Batches without end, every clip new: `make(world, first, batch, seed, **options)`."""

    def __init__(self, make: Callable[..., Any], world: World, batch: int, seed: int, **options: int) -> None:
        self.make, self.batch, self.first = partial(make, world, count=batch, seed=seed, **options), batch, 0

    def __next__(self) -> Any:
        made = self.make(first=self.first)
        self.first += self.batch
        return made

    def state_dict(self) -> dict[str, Any]:
        """The number of the next clip."""
        return {"first": self.first}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.first = state["first"]
