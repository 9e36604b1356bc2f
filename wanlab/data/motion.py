"""The motions of the procedural world: where a thing is, how large and how turned, at every moment of the clip.

A motion is five numbers per frame: dx, dy (fraction of the frame's width, x right, y down), log_scale, angle (radians,
positive is clockwise on screen) and depth (larger is nearer). All but depth are relative to frame 0 and 0 there.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MOTIONS: tuple[str, ...] = ("left", "right", "up", "down", "grows", "shrinks", "rotates", "circles", "bounces")
PARAMETERS: tuple[str, ...] = ("dx", "dy", "log_scale", "angle", "depth")

DISPLACEMENT = 0.27  # of the width over the clip, at speed 1
GROWTH = 1.7  # final size ratio at speed 1
SHRINKAGE = 1.5  # inverse of the final size ratio at speed 1: less than GROWTH, or the shape becomes unreadable
TURN = math.radians(100)  # over the clip at speed 1
ORBIT_RADIUS = 0.12
ORBIT_TURNS = 0.9  # at speed 1
HOP_HEIGHT = 0.18
HOPS = 1.6  # at speed 1

_HEADINGS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def reach(speed: float) -> float:
    """The farthest that any motion of this speed carries a centre along one axis, as a fraction of the width."""
    return max(DISPLACEMENT * speed, 2 * ORBIT_RADIUS, HOP_HEIGHT)


def trajectory(motion: str, frames: int, *, speed: float, phase: float, direction: int) -> NDArray[np.float32]:
    """The path of one object: `frames 4` = (dx, dy, log_scale, angle), all zero in frame 0.

    speed: 1 is the normal pace; phase: radians, where on its orbit a circling object starts; direction: +1 or -1, the
    sense of turning and circling. The last frame is the end of the motion whatever the number of frames. Raises
    KeyError for an unknown motion.
    """
    t = np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1)
    path = np.zeros((frames, 4))
    if motion in _HEADINGS:
        path[:, :2] = DISPLACEMENT * speed * t[:, None] * np.asarray(_HEADINGS[motion])
    elif motion == "grows":
        path[:, 2] = speed * math.log(GROWTH) * t
    elif motion == "shrinks":
        path[:, 2] = -speed * math.log(SHRINKAGE) * t
    elif motion == "rotates":
        path[:, 3] = direction * speed * TURN * t
    elif motion == "circles":
        turn = phase + direction * 2 * math.pi * ORBIT_TURNS * speed * t
        path[:, 0] = ORBIT_RADIUS * (np.cos(turn) - math.cos(phase))
        path[:, 1] = ORBIT_RADIUS * (np.sin(turn) - math.sin(phase))
    elif motion == "bounces":
        path[:, 1] = -HOP_HEIGHT * np.abs(np.sin(math.pi * HOPS * speed * t))
    else:
        raise KeyError(f"unknown motion {motion!r}; there are {', '.join(MOTIONS)}")
    return path.astype(np.float32)
