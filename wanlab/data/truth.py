"""What is exactly true of a scene at every pixel: owner, flow, occlusion; from parameters, not from pictures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wanlab.data.scene import Scene, to_object, to_screen
from wanlab.data.shapes import depth_inside
from wanlab.data.waves import Array


def pixel_centres(size: int) -> NDArray[np.float64]:
    """`h w 2`: (x, y) of every pixel centre, fractions of the width."""
    line = (np.arange(size) + 0.5) / size
    return np.stack(np.meshgrid(line, line), -1)


def owner(scene: Scene, points: NDArray, motion: NDArray) -> NDArray[np.int64]:
    """The slot that is seen at points `... 2` under one frame's motion `m 5`."""
    out = np.zeros(points.shape[:-1], np.int64)
    for slot in sorted(range(1, len(scene.things) + 1), key=lambda slot: scene.things[slot - 1].depth):
        thing = scene.things[slot - 1]
        local = to_object(points, thing, motion[slot]) / thing.radius
        out[depth_inside(thing.shape, local[..., 0], local[..., 1]) > 0] = slot
    return out


def _carry(scene: Scene, points: NDArray, owners: NDArray, before: NDArray, after: NDArray) -> NDArray[np.float64]:
    """Where points `... 2` of these owners go when the motion changes from `before` to `after` (each `m 5`)."""
    out = points + (after[0, :2] - before[0, :2])
    for slot, thing in enumerate(scene.things, 1):
        mine = owners == slot
        out[mine] = to_screen(to_object(points[mine], thing, before[slot]), thing, after[slot])
    return out


def flow_to_first(scene: Scene, frames: int, size: int) -> Array:
    """`f 2 h w`: added to a pixel centre of frame t, its surface point's place in frame 0 (fractions of the width)."""
    motion, points = scene.motion(frames), pixel_centres(size)
    flow = [_carry(scene, points, owner(scene, points, m), m, motion[0]) - points for m in motion]
    return np.stack(flow).transpose(0, 3, 1, 2).astype(np.float32)


def flow_between(scene: Scene, frames: int, size: int) -> tuple[Array, NDArray[np.bool_]]:
    """From each frame to the next: flow `f-1 2 h w` (fractions of the width) and occlusion `f-1 h w`.

    A pixel is occluded where its surface point is covered or out of the frame in the next frame.
    """
    motion, points = scene.motion(frames), pixel_centres(size)
    flows, hidden = [np.zeros((0, size, size, 2))], [np.zeros((0, size, size), bool)]
    for before, after in pairwise(motion):
        owners = owner(scene, points, before)
        there = _carry(scene, points, owners, before, after)
        outside = ((there < 0) | (there >= 1)).any(-1)
        flows.append((there - points)[None])
        hidden.append((outside | (owner(scene, there, after) != owners))[None])
    return np.concatenate(flows).transpose(0, 3, 1, 2).astype(np.float32), np.concatenate(hidden)
