"""Shapes cover what they claim; motions end where they claim."""

from __future__ import annotations

import math

import numpy as np
import pytest

from wanlab.data.motion import DISPLACEMENT, GROWTH, MOTIONS, ORBIT_RADIUS, TURN, reach, trajectory
from wanlab.data.shapes import AREAS, COLOURS, EXTENT, SHAPES, depth_inside


@pytest.mark.parametrize("shape", SHAPES)
def test_area_centre_and_extent(shape: str) -> None:
    line = np.linspace(-1.5, 1.5, 901)
    x, y = np.meshgrid(line, line)
    inside = depth_inside(shape, x, y) > 0
    cell = (line[1] - line[0]) ** 2
    assert inside.sum() * cell == pytest.approx(AREAS[shape], rel=0.01)
    assert abs(x[inside].mean()) < 0.005
    assert abs(y[inside].mean()) < 0.005
    assert np.hypot(x[inside], y[inside]).max() <= EXTENT


@pytest.mark.parametrize("shape", SHAPES)
def test_depth_is_a_distance_at_the_outline(shape: str) -> None:
    """Slope one across straight parts of the outline, so that an edge is one pixel wide at any size."""
    line = np.linspace(-1.3, 1.3, 521)
    x, y = np.meshgrid(line, line)
    depth = depth_inside(shape, x, y)
    slope = np.hypot(*np.gradient(depth, line, line))
    assert np.median(slope[np.abs(depth) < 0.05]) == pytest.approx(1, abs=0.01)


def test_areas_are_comparable() -> None:
    assert max(AREAS.values()) / min(AREAS.values()) < 1.15


def test_colours_are_apart_in_chroma() -> None:
    rgb = np.array(list(COLOURS.values()))
    chroma = rgb - rgb.mean(1, keepdims=True)
    chroma /= np.linalg.norm(chroma, axis=1, keepdims=True)
    cosine = chroma @ chroma.T - 2 * np.eye(len(rgb))
    assert cosine.max() < 0.92


def test_motions_end_where_they_say() -> None:
    def end(motion: str, **choice: float) -> np.ndarray:
        return trajectory(motion, 8, **({"speed": 1.0, "phase": 0.0, "direction": 1} | choice))[-1]  # type: ignore[arg-type]

    assert end("left")[0] == pytest.approx(-DISPLACEMENT)
    assert end("down", speed=1.2)[1] == pytest.approx(1.2 * DISPLACEMENT)
    assert math.exp(end("grows")[2]) == pytest.approx(GROWTH)
    assert math.exp(end("shrinks")[2]) < 1
    assert end("rotates", direction=-1)[3] == pytest.approx(-TURN)


def test_a_circle_keeps_its_radius_and_a_bounce_its_column() -> None:
    path = trajectory("circles", 50, speed=1.3, phase=1.0, direction=-1)
    centre = -ORBIT_RADIUS * np.array([math.cos(1.0), math.sin(1.0)])
    np.testing.assert_allclose(np.hypot(*(path[:, :2] - centre).T), ORBIT_RADIUS, rtol=1e-4)
    hops = trajectory("bounces", 50, speed=1.0, phase=0.0, direction=1)
    assert not hops[:, 0].any()
    assert hops[:, 1].max() <= 0


@pytest.mark.parametrize("motion", MOTIONS)
def test_reach_bounds_every_motion(motion: str) -> None:
    for speed in (0.7, 1.0, 1.4):
        for phase in np.linspace(0, 6.28, 9):
            path = trajectory(motion, 30, speed=speed, phase=phase, direction=1)
            assert np.abs(path[:, :2]).max() <= reach(speed) + 1e-6


def test_every_turn_is_unambiguous() -> None:
    """Less than half a turn over the clip at any speed, so two frames tell the angle between them."""
    assert abs(trajectory("rotates", 2, speed=1.4, phase=0, direction=1)[-1, 3]) < math.pi


def test_one_frame_does_not_move() -> None:
    assert not trajectory("left", 1, speed=1, phase=0, direction=1).any()


def test_unknown_motion_is_named() -> None:
    with pytest.raises(KeyError, match="flies"):
        trajectory("flies", 8, speed=1, phase=0, direction=1)
