"""A clip before it is drawn: objects, motions and background as numbers that know no resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanlab.data.motion import MOTIONS, trajectory
from wanlab.data.shapes import COLOURS, EXTENT, SHAPES, depth_inside
from wanlab.data.waves import Waves

SLOTS = 3  # background, first and second object of the caption


@dataclass(frozen=True)
class Thing:
    """One object. radius and start in fractions of the width, angles in radians, depth 1 or 2 (larger is nearer)."""

    shape: str
    colour: str
    motion: str
    radius: float
    start: tuple[float, float]
    phase: float
    direction: int
    tilt: float
    depth: int
    stripe_angle: float
    stripe_period: float  # radii
    stripe_phase: float
    shade_angle: float
    texture: Waves  # in the object's frame, lengths in fractions of the width of frame 0


@dataclass(frozen=True)
class Scene:
    """Objects in slot order, the drift of the background over the clip, the pace that all objects share, and the background."""

    things: tuple[Thing, ...]
    drift: tuple[float, float]
    speed: float
    base: NDArray[np.float64]  # c, mean colour of the background
    backdrop: Waves

    def motion(self, frames: int) -> NDArray[np.float32]:
        """`f m 5` = (dx, dy, log_scale, angle, depth) of the SLOTS layers; an empty slot is all zero."""
        out = np.zeros((frames, SLOTS, 5), np.float32)
        out[:, 0, :2] = np.linspace(0, 1, frames)[:, None] * np.asarray(self.drift) if frames > 1 else 0
        for slot, thing in enumerate(self.things, 1):
            out[:, slot, :4] = trajectory(
                thing.motion, frames, speed=self.speed, phase=thing.phase, direction=thing.direction
            )
            out[:, slot, 4] = thing.depth
        return out

    def starts(self) -> NDArray[np.float32]:
        """`m 2`: the layers' centres in frame 0, fractions of the width; the middle for the background, 0 for none."""
        out = np.zeros((SLOTS, 2), np.float32)
        out[0] = 0.5
        for slot, thing in enumerate(self.things, 1):
            out[slot] = thing.start
        return out

    def visible(self, index: int, motion: NDArray[np.float32]) -> float:
        """Share of an object's area that is in the frame and not covered, under one frame's motion `m 5`."""
        thing = self.things[index]
        q = (np.arange(32, dtype=np.float32) + 0.5) / 16 - 1
        x, y = (axis.ravel() * EXTENT for axis in np.meshgrid(q, q))
        inside = depth_inside(thing.shape, x, y) > 0
        points = to_screen(np.stack([x[inside], y[inside]], -1) * thing.radius, thing, motion[index + 1])
        seen = ((points >= 0) & (points < 1)).all(-1)
        for other, rival in enumerate(self.things, 1):
            if rival.depth > thing.depth:
                local = to_object(points, rival, motion[other]) / rival.radius
                seen &= depth_inside(rival.shape, local[..., 0], local[..., 1]) <= 0
        return float(seen.mean())


def to_object(points: NDArray, thing: Thing, motion: NDArray) -> NDArray:
    """Screen points `... 2` under a motion (dx, dy, log_scale, angle, ...) in the object's frame, in widths."""
    angle = motion[3] + thing.tilt
    cos, sin = math.cos(angle), math.sin(angle)
    x = points[..., 0] - (thing.start[0] + motion[0])
    y = points[..., 1] - (thing.start[1] + motion[1])
    return np.stack([cos * x + sin * y, cos * y - sin * x], -1) / math.exp(motion[2])


def to_screen(local: NDArray, thing: Thing, motion: NDArray) -> NDArray:
    """The inverse of `to_object`."""
    angle, scale = motion[3] + thing.tilt, math.exp(motion[2])
    cos, sin = math.cos(angle) * scale, math.sin(angle) * scale
    x, y = local[..., 0], local[..., 1]
    left, top = thing.start[0] + motion[0], thing.start[1] + motion[1]
    return np.stack([left + cos * x - sin * y, top + sin * x + cos * y], -1)


def held_out(shape: str, colour: str, motion: str) -> bool:
    """Whether training never shows this combination.

    One in nine: every shape, colour and motion, and every pair of them, still appears with most values of the third.
    """
    key = 2 * SHAPES.index(shape) + list(COLOURS).index(colour) + 4 * MOTIONS.index(motion)
    return key % len(MOTIONS) == 0


def factors(scene: Scene) -> dict[str, Any]:
    """The scene's truth as plain data (JSON-able): what the caption tells, what it hides, what is seen last."""
    last = scene.motion(2)[-1]
    objects = []
    for index, thing in enumerate(scene.things):
        share = scene.visible(index, last)
        objects.append({
            "shape": thing.shape, "colour": thing.colour, "motion": thing.motion,
            "radius": thing.radius, "start": list(thing.start), "speed": scene.speed,
            "phase": thing.phase, "direction": thing.direction, "tilt": thing.tilt, "depth": thing.depth,
            "visible_last": share, "occluded_last": share < 0.9,
            "held_out": held_out(thing.shape, thing.colour, thing.motion),
        })  # fmt: skip
    return {
        "objects": objects, "drift": list(scene.drift), "speed": scene.speed,
        "held_out": any(thing["held_out"] for thing in objects),
    }  # fmt: skip
