"""A clip before it is drawn: everything that is random about it, as numbers that know no resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanlab.data.motion import MOTIONS, reach, trajectory
from wanlab.data.shapes import COLOURS, EXTENT, SHAPES, depth_inside
from wanlab.data.waves import Waves

SLOTS = 3  # background, first and second object of the caption
SPEEDS = (0.7, 1.4)
DRIFT = 0.30  # most that the camera moves over a clip, fraction of the width
_TWO = 0.30  # share of clips with two objects
_RADII = {1: (0.16, 0.24), 2: (0.13, 0.18)}
_STAYS = 0.265  # a disc whose centre lies this many radii inside the frame has two thirds of its area inside


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
    """Objects in slot order, the camera's drift over the clip, the pace that all objects share, and the background."""

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


def _choose(rng: np.random.Generator, count: int, *, unseen: bool) -> list[tuple[str, str, str]]:
    """(shape, colour, motion) of each object, colours all different; held-out combinations only where `unseen`."""
    names = list(COLOURS)
    chosen: list[tuple[str, str, str]] = []
    while len(chosen) < count:
        key = SHAPES[rng.integers(len(SHAPES))], names[rng.integers(len(names))], MOTIONS[rng.integers(len(MOTIONS))]
        if key[1] not in {other[1] for other in chosen} and (unseen or not held_out(*key)):
            chosen.append(key)
    return chosen


def _place(rng: np.random.Generator, count: int) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """(speed, radii n, starts n 2). Nothing here knows the motions, so that a start never betrays one.

    The range of starts lets every motion at this speed keep about two thirds of every object inside, and frame 0 hold
    all of it; two objects must start apart. The fastest pairs find no room: then the speed is drawn again.
    """
    tries = 192
    while True:
        speed = rng.uniform(*SPEEDS)
        radii = rng.uniform(*_RADII[count], (tries, count))
        margin = np.minimum(0.5 - EXTENT * radii, 0.5 - _STAYS * 0.8 * radii - reach(speed))
        starts = 0.5 + rng.uniform(-1, 1, (tries, count, 2)) * margin[..., None]
        apart = np.linalg.norm(starts[:, 0] - starts[:, -1], axis=-1) >= 0.98 * radii.sum(-1)
        fits = apart if count > 1 else np.ones(tries, bool)
        if fits.any():
            first = int(fits.argmax())
            return float(speed), radii[first], starts[first]


def _fine_texture(rng: np.random.Generator) -> Waves:
    """Grain on an object: visible at 128 pixels, gone at 32."""
    count = 5
    frequency, angle = rng.uniform(24, 46, count), rng.uniform(0, 2 * math.pi, count)
    vectors = np.stack([frequency * np.cos(angle), frequency * np.sin(angle)], -1)
    return Waves(vectors, rng.uniform(0, 2 * math.pi, count), np.full((count, 1), 0.09))


def _thing(rng: np.random.Generator, key: tuple[str, str, str], radius: float, start: NDArray, depth: int) -> Thing:
    return Thing(
        *key,
        radius=float(radius),
        start=(float(start[0]), float(start[1])),
        phase=float(rng.uniform(0, 2 * math.pi)),
        direction=int(rng.choice((-1, 1))),
        tilt=float(rng.uniform(-0.26, 0.26)),
        depth=depth,
        stripe_angle=float(rng.uniform(0, 2 * math.pi)),
        stripe_period=float(rng.uniform(0.62, 0.85)),
        stripe_phase=float(rng.uniform()),
        shade_angle=float(rng.uniform(0, 2 * math.pi)),
        texture=_fine_texture(rng),
    )


def _backdrop(rng: np.random.Generator) -> tuple[NDArray[np.float64], Waves]:
    """A low-chroma pattern without end: slow waves, one or two families of stripes, grain at four scales.

    The finest grain shows at 128 pixels and is gone at 32.
    """
    frequency, angle, phase, amplitude = [], [], [], []

    def add(cycles: float, towards: float, offset: float, size: float) -> None:
        frequency.append(cycles), angle.append(towards), phase.append(offset), amplitude.append(size)

    for _ in range(3):
        add(rng.uniform(0.5, 2.2), rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.10))
    for _ in range(rng.integers(1, 3)):
        cycles, towards, offset, size = rng.uniform(3.5, 10), *rng.uniform(0, 2 * math.pi, 2), rng.uniform(0.05, 0.09)
        for odd in (1, 3, 5):  # a band-limited square wave: stripes with edges
            add(odd * cycles, towards, odd * offset, size / odd)
    for octave, size in ((4, 0.03), (9, 0.02), (18, 0.02), (36, 0.03)):
        for _ in range(5):
            add(octave * rng.uniform(1, 1.6), rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi), size)
    cycles, towards = np.asarray(frequency), np.asarray(angle)
    tint = 1 + rng.uniform(-0.12, 0.12, (len(cycles), 3))
    vectors = np.stack([cycles * np.cos(towards), cycles * np.sin(towards)], -1)
    base = rng.uniform(0.38, 0.62) + rng.uniform(-0.035, 0.035, 3)
    return base, Waves(vectors, np.asarray(phase), np.asarray(amplitude)[:, None] * tint)


def draw_scene(rng: np.random.Generator, *, max_objects: int = 2, unseen: bool = False) -> Scene:
    """All random choices of one clip. unseen: held-out combinations may appear (and do, at their natural rate)."""
    count = 2 if max_objects > 1 and rng.uniform() < _TWO else 1
    keys = _choose(rng, count, unseen=unseen)
    speed, radii, starts = _place(rng, count)
    depths = rng.permutation(count) + 1
    things = tuple(_thing(rng, *row) for row in zip(keys, radii, starts, (int(d) for d in depths), strict=True))
    length, towards = rng.uniform(0, DRIFT), rng.uniform(0, 2 * math.pi)
    base, backdrop = _backdrop(rng)
    return Scene(things, (length * math.cos(towards), length * math.sin(towards)), speed, base, backdrop)


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


