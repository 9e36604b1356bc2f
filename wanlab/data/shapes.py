"""The things of the procedural world: what they look like in their own frame.

A shape lives in its own frame: the centre at the origin, x to the right, y down, lengths in multiples of the nominal
radius. All five cover about the same area, so that size says nothing about shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

# Saturated and far apart in hue: a tracker finds an object by its chroma alone.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.92, 0.10, 0.13),
    "green": (0.10, 0.72, 0.18),
    "blue": (0.12, 0.30, 0.95),
    "yellow": (0.96, 0.90, 0.10),
    "purple": (0.64, 0.14, 0.86),
    "orange": (1.00, 0.50, 0.04),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross")

EXTENT = 1.25
"""No shape reaches farther from its centre than this many radii."""

_CIRCLE = 0.80
_SQUARE = 0.71
_TRIANGLE = 1.20  # circumradius
_STAR = 1.24  # outer radius
_STAR_INNER = 0.47  # inner radius as a share of the outer one
_CROSS = 0.95  # half length of an arm
_CROSS_ARM = 0.34  # half width of an arm

Field = NDArray[np.floating]


def _circle(x: Field, y: Field) -> Field:
    return _CIRCLE - np.sqrt(x * x + y * y)


def _square(x: Field, y: Field) -> Field:
    return _SQUARE - np.maximum(np.abs(x), np.abs(y))


def _triangle(x: Field, y: Field) -> Field:
    """Equilateral, one corner up: inside is below three edges, each half a circumradius from the centre."""
    slope = np.float32(math.sqrt(3) / 2) * np.abs(x) - np.float32(0.5) * y
    return _TRIANGLE / 2 - np.maximum(slope, y)


def _star(x: Field, y: Field) -> Field:
    """Five points, one up: fold the plane onto half a point, where the outline is a single straight edge."""
    sector = 2 * math.pi / 5
    angle = np.arctan2(np.abs(x), -y)  # from the upper point, 0..pi
    angle = np.abs(angle - sector * np.round(angle / sector))  # 0..pi/5 from the nearest point
    radius = np.sqrt(x * x + y * y)
    inner = (_STAR * _STAR_INNER * math.sin(sector / 2), _STAR * _STAR_INNER * math.cos(sector / 2))
    edge = (inner[0], inner[1] - _STAR)  # from the tip to the notch
    length = math.hypot(*edge)
    normal = (-edge[1] / length, edge[0] / length)
    return normal[1] * _STAR - (normal[0] * radius * np.sin(angle) + normal[1] * radius * np.cos(angle))


def _cross(x: Field, y: Field) -> Field:
    x, y = np.abs(x), np.abs(y)
    across = np.minimum(_CROSS - x, _CROSS_ARM - y)
    down = np.minimum(_CROSS_ARM - x, _CROSS - y)
    return np.maximum(across, down)


_DEPTHS: dict[str, Callable[[Field, Field], Field]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "cross": _cross,
}  # fmt: skip

AREAS: dict[str, float] = {
    "circle": math.pi * _CIRCLE**2,
    "square": 4 * _SQUARE**2,
    "triangle": 3 * math.sqrt(3) / 4 * _TRIANGLE**2,
    "star": 5 * _STAR**2 * _STAR_INNER * math.sin(math.pi / 5),
    "cross": 4 * (2 * _CROSS * _CROSS_ARM - _CROSS_ARM**2),
}
"""Area of each shape in squared radii."""


def depth_inside(shape: str, x: Field, y: Field) -> Field:
    """How deep a point lies inside a shape: positive inside, 0 on the outline, negative outside.

    x, y: any equal shape, in radii, in the object's own frame. Near the outline it is the distance to it (in radii),
    which is all that an anti-aliased edge needs; elsewhere it is a bound. Raises KeyError for an unknown shape.
    """
    return _DEPTHS[shape](x, y)
