"""Heat over a frame: the frame as grey, heat over it on one scale, and that scale in the colours that it has there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHA, LIGHT = 0.65, 0.35       # of the heat; how far the grey is lifted towards white, so that low heat is seen on dark frames
MIDDLE = 0.5                    # the grey that a scale is drawn over
COLOUR = "#666666"              # of numbers beside a scale


def highest(*heats: np.ndarray) -> float:
    """The upper end of the scale that begins at 0 and has room for all of them; 1 where nothing is above 0."""
    return max(float(np.max(heat, where=~np.isnan(heat), initial=0)) for heat in heats) or 1.0


def heated(axes: Any, picture: np.ndarray, heat: np.ndarray | None, high: float) -> None:
    """A picture (h w 3 in [0, 1]), or its grey under heat (h w of any size, NaN is clear) on the scale from 0 to `high`.

    Each value is a tile: interpolated, one between NaNs would vanish.
    """
    whole: dict[str, Any] = {"interpolation": "nearest", "extent": (0, 1, 0, 1), "aspect": "auto"}
    grey = picture.mean(-1, keepdims=True).repeat(3, -1)
    axes.imshow(picture if heat is None else LIGHT + (1 - LIGHT) * grey, **whole)
    if heat is not None:
        axes.imshow(heat, cmap="inferno", vmin=0, vmax=high, alpha=ALPHA, **whole)
    axes.set_axis_off()


def framed(axes: Any, place: tuple[int, ...], sides: tuple[int, ...], line: float = 0.8) -> None:
    """A white frame around one place (h, w) of as many as the sides say."""
    from matplotlib.patches import Rectangle

    tall, wide = 1 / sides[0], 1 / sides[1]
    corner = place[1] * wide, 1 - (place[0] + 1) * tall
    axes.add_patch(Rectangle(corner, wide, tall, fill=False, edgecolor="white", linewidth=line))


def scale(figure: Figure, box: tuple[float, float, float, float], high: float, upright: bool = False) -> None:
    """The colours from 0 to `high` as they are over middle grey, with the numbers of both ends.

    box: left, bottom, width and height in inches; the numbers stand at the right of an upright scale, else at its ends.
    """
    wide, tall = figure.get_size_inches()
    axes: Any = figure.add_axes((box[0] / wide, box[1] / tall, box[2] / wide, box[3] / tall), label="scale")
    values = np.linspace(0, high, 256)
    heated(axes, np.full((1, 1, 3), MIDDLE), values[::-1, None] if upright else values[None], high)
    ends = ((box[0] + box[2], box[1]), (box[0] + box[2], box[1] + box[3])) if upright else (
        (box[0], box[1] + box[3] / 2), (box[0] + box[2], box[1] + box[3] / 2))
    for end, (x, y), told in zip(range(2), ends, ("0", f"{high:.2g}"), strict=True):
        beside = -0.03 if not (end or upright) else 0.03
        height = ("bottom", "top")[end] if upright else "center"
        figure.text((x + beside) / wide, y / tall, told, ha="right" if beside < 0 else "left", va=height, fontsize=5, color=COLOUR)

