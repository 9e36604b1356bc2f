"""Panels of equal size, row by row on a sheet, and what stands at its foot. All sizes in inches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .style import sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINE = 0.11  # of text at the foot


def placed(
    count: int, columns: int, width: float, *, left: float, wide: float, gap: float, over: float, tall: float, below: float,
    foot: float,
) -> tuple[Figure, list[Axes]]:
    """A figure of an exact width with `count` panels, so many columns beside each other.

    Args:
        left: at the left of the first column; gap: between columns; wide, tall: of a panel; over, below: above and below each;
            foot: below all.
    """
    row = over + tall + below
    height = math.ceil(count / columns) * row + foot
    figure = sheet(width, height)
    axes = []
    for number in range(count):
        down, across = divmod(number, columns)
        x, y = left + across * (wide + gap), height - down * row - over - tall
        axes.append(figure.add_axes((x / width, y / height, wide / width, tall / height)))
    return figure, axes


def fitting(count: int, width: float, left: float, gap: float, least: float, right: float = 0.08) -> tuple[int, float]:
    """How many of `count` panels stand beside each other where one is at least so wide, and how wide each is then."""
    columns = min(count, max(1, int((width - left + gap) / (least + gap))))
    return columns, (width - left - right + gap) / columns - gap


def thirds(count: int, width: float, left: float, gap: float) -> tuple[int, float]:
    """At most three panels beside each other, and how wide each is."""
    columns = min(count, 3)
    return columns, (width - left - 0.06 - (columns - 1) * gap) / columns


def foot(figure: Figure, handles: Sequence[Any], labels: Sequence[str], lines: Sequence[str], columns: int) -> None:
    """A legend, and under it lines of text."""
    height = figure.get_figheight()
    figure.legend(handles, labels, loc="lower center", ncols=columns, fontsize=6, frameon=False, borderpad=0,
                  bbox_to_anchor=(0.5, (0.06 + LINE * len(lines)) / height))
    figure.text(0.5, 0.03 / height, "\n".join(lines), ha="center", va="bottom", fontsize=6, parse_math=False)
