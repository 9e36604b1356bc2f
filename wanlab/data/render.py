"""Drawing a scene at some size: anti-aliased layers over a background, in the order of their depth.

Edges are anti-aliased by signed distance, textures by averaging waves over pixels exactly, and each object is drawn
only in a box around it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wanlab.data.scene import SLOTS, Scene, Thing
from wanlab.data.shapes import COLOURS, EXTENT, depth_inside
from wanlab.data.waves import Array, Waves

_DARK = 0.55  # the second tone of the stripes: the same chroma, darker
_SHADE = 0.16  # a slope of brightness across the object: tells a half turn apart


class Picture(NamedTuple):
    """video `f c h w` in [0, 1]; masks `f m h w`: what share of each pixel each slot covers, summing to 1."""

    video: Array
    masks: Array


def background(scene: Scene, drift: NDArray, size: int) -> Array:
    """The background under a drift `f 2` (fractions of the width): `f h c w`, not clipped."""
    grid = (np.arange(size) + 0.5)[None] / size
    waves = scene.backdrop
    phase = waves.phase - 2 * np.pi * drift @ waves.frequency.T  # f k
    image = Waves(waves.frequency[None], phase, waves.colour).image(grid, grid, 1 / size)
    image += scene.base.astype(np.float32)[:, None]
    return image


def _boxes(thing: Thing, motion: NDArray, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Left and top pixel of a box around the object in every frame, and the one side that fits the largest of them."""
    half = EXTENT * thing.radius * math.exp(float(motion[:, 2].max())) * size + 1
    side = math.ceil(2 * half) + 1
    left = np.floor((thing.start[0] + motion[:, 0]) * size - half).astype(np.int64)
    top = np.floor((thing.start[1] + motion[:, 1]) * size - half).astype(np.int64)
    return left, top, side


def _paint(thing: Thing, motion: NDArray, x: NDArray, y: NDArray, pixel: float) -> tuple[Array, Array]:
    """Colour `f h c w` and coverage `f h w` of an object at pixel centres x `f w`, y `f h` (fractions of the width)."""
    scale, angle = np.exp(motion[:, 2]), motion[:, 3] + thing.tilt
    start = np.asarray(thing.start, np.float32)
    centre = start + motion[:, :2]
    unit = (thing.radius * scale)[:, None, None].astype(np.float32)
    cos, sin = (fn(angle)[:, None, None].astype(np.float32) / unit for fn in (np.cos, np.sin))
    dx = (x - centre[:, :1]).astype(np.float32)[:, None, :]
    dy = (y - centre[:, 1:]).astype(np.float32)[:, :, None]
    u, v = cos * dx + sin * dy, cos * dy - sin * dx  # in radii, in the object's frame
    per_pixel = unit / np.float32(pixel)
    cover = np.clip(0.5 + depth_inside(thing.shape, u, v) * per_pixel, 0, 1)
    along = u * math.cos(thing.stripe_angle) + v * math.sin(thing.stripe_angle)
    wave = np.abs((along / thing.stripe_period + thing.stripe_phase) % 1 - 0.5)
    light = np.clip(0.5 + (wave - 0.25) * thing.stripe_period * per_pixel, 0, 1)
    tone = _DARK + (1 - _DARK) * light
    tone *= 1 + _SHADE * (u * math.cos(thing.shade_angle) + v * math.sin(thing.shade_angle) - 0.5)
    grain = thing.texture.moved(centre, scale, angle).image(x, y, pixel)[:, :, 0]
    tone *= 1 + grain
    return tone[:, :, None] * np.asarray(COLOURS[thing.colour], np.float32)[:, None], cover


def render(scene: Scene, frames: int, size: int) -> Picture:
    """Draw `frames` square frames of `size` pixels."""
    motion = scene.motion(frames)
    video = background(scene, motion[:, 0, :2].astype(np.float64), size)
    masks = np.zeros((frames, SLOTS, size, size), np.float32)
    masks[:, 0] = 1
    for slot in sorted(range(1, len(scene.things) + 1), key=lambda slot: scene.things[slot - 1].depth):
        thing = scene.things[slot - 1]
        left, top, side = _boxes(thing, motion[:, slot], size)
        cells = np.arange(side) + 0.5
        x, y = (left[:, None] + cells) / size, (top[:, None] + cells) / size
        colour, cover = _paint(thing, motion[:, slot], x, y, 1 / size)
        for frame in range(frames):
            here = _overlap(int(top[frame]), int(left[frame]), side, size)
            if here is None:
                continue
            (rows, columns), (box_rows, box_columns) = here
            alpha = cover[frame, box_rows, box_columns]
            patch = video[frame, rows, :, columns]
            patch += (colour[frame, box_rows, :, box_columns] - patch) * alpha[:, None]
            masks[frame, :, rows, columns] *= 1 - alpha
            masks[frame, slot, rows, columns] += alpha
    np.clip(video, 0, 1, out=video)
    return Picture(np.ascontiguousarray(video.transpose(0, 2, 1, 3)), masks)


def _overlap(top: int, left: int, side: int, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """(rows, columns) of the frame and of the box where they meet; None where the box lies outside."""
    rows, columns = (max(top, 0), min(top + side, size)), (max(left, 0), min(left + side, size))
    if rows[0] >= rows[1] or columns[0] >= columns[1]:
        return None
    box = slice(rows[0] - top, rows[1] - top), slice(columns[0] - left, columns[1] - left)
    return (slice(*rows), slice(*columns)), box
