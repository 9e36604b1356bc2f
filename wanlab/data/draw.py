"""The random choices that make a scene, drawn before anything is rendered: size and frame count change none of them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from wanlab.data.motion import MOTIONS, reach
from wanlab.data.scene import Scene, Thing, held_out
from wanlab.data.shapes import COLOURS, EXTENT, SHAPES
from wanlab.data.waves import Waves

SPEEDS = (0.7, 1.4)
DRIFT = 0.15  # most that the wind carries the background over a clip, fraction of the width
_WARMTH = 0.035  # red minus blue, halved, at the warm end of the glow of the strongest wind
_GLOW = 0.35  # cycles per width: the glow rises from one side of the frame to the other
_SLOW = 3  # waves about as long as the frame
_TWO = 0.30  # share of clips with two objects
_RADII = {1: (0.16, 0.24), 2: (0.13, 0.18)}
_STAYS = 0.265  # a disc whose centre lies this many radii inside the frame has two thirds of its area inside


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


def _glow(drift: NDArray) -> Waves:
    """What the first frame shows of the wind: a warmer background on the side that it blows to, the stronger the more."""
    length = float(np.linalg.norm(drift))
    frequency = _GLOW * drift / max(length, 1e-9)
    phase = -2 * math.pi * frequency.sum() / 2  # neutral in the middle of frame 0
    warmth = _WARMTH * length / DRIFT
    return Waves(frequency[None], np.asarray([phase]), warmth * np.asarray([[1.0, 0.0, -1.0]]))


def _backdrop(rng: np.random.Generator, drift: NDArray) -> tuple[NDArray[np.float64], Waves]:
    """A low-chroma pattern without end: the glow, slow waves, one or two families of stripes, grain at four scales.

    The finest grain shows at 128 pixels and is gone at 32.
    """
    frequency, angle, phase, amplitude = [], [], [], []

    def add(cycles: float, towards: float, offset: float, size: float) -> None:
        frequency.append(cycles), angle.append(towards), phase.append(offset), amplitude.append(size)

    for _ in range(_SLOW):
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
    tint[:_SLOW] = 1  # grey, so that nothing but the glow tints one side of the frame
    vectors = np.stack([cycles * np.cos(towards), cycles * np.sin(towards)], -1)
    base = rng.uniform(0.38, 0.62) + rng.uniform(-0.02, 0.02, 3)
    return base, Waves(vectors, np.asarray(phase), np.asarray(amplitude)[:, None] * tint) + _glow(drift)


def draw_scene(rng: np.random.Generator, *, max_objects: int = 2, unseen: bool = False) -> Scene:
    """All random choices of one clip. unseen: held-out combinations may appear (and do, at their natural rate)."""
    count = 2 if max_objects > 1 and rng.uniform() < _TWO else 1
    keys = _choose(rng, count, unseen=unseen)
    speed, radii, starts = _place(rng, count)
    depths = rng.permutation(count) + 1
    things = tuple(_thing(rng, *row) for row in zip(keys, radii, starts, (int(d) for d in depths), strict=True))
    length, towards = rng.uniform(0, DRIFT), rng.uniform(0, 2 * math.pi)
    drift = length * np.asarray([math.cos(towards), math.sin(towards)])
    base, backdrop = _backdrop(rng, drift)
    return Scene(things, (float(drift[0]), float(drift[1])), speed, base, backdrop)
