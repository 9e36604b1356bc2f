"""Film strips of several clips, each with its heat below it on one scale, and the strongest patch framed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wanlab.plots.heat import COLOUR, framed, heated, highest, scale
from wanlab.plots.style import COLOURS, sheet, styled
from wanlab.plots.text import inches, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = tuple[str, np.ndarray, np.ndarray, tuple[int, int, int]]
HEAD, WORDS, FOOT = 0.16, 0.15, 0.18    # inches: above all frames for their numbers, above each clip for its words; for the scale


def patches(rows: Sequence[Row], width: float = 5.5, frames: int = 8) -> Figure:
    """rows: (words, clip f h w 3 in [0, 1], heat f h w of any smaller grid, strongest patch (frame, h, w)).

    At most `frames` frames, evenly spread, among them always that of the patch. Raises ValueError for no rows or other shapes.
    """
    if not rows:
        raise ValueError("a figure of patches needs at least one clip")
    for words, clip, heat, _ in rows:
        if clip.ndim != 4 or clip.shape[-1] != 3 or heat.ndim != 3 or len(heat) != len(clip):
            raise ValueError(f"{words}: a clip is f h w 3 and its heat f h w, got {clip.shape} and {heat.shape}")
    high = highest(*(heat for _, _, heat, _ in rows))
    count = min(frames, max(len(clip) for _, clip, _, _ in rows))
    beside = min(max(1, frames // count), len(rows))            # short clips stand beside each other
    wide = width / beside
    side = wide / count
    tall = side * rows[0][1].shape[1] / rows[0][1].shape[2]
    head = HEAD if count > 1 else 0.0
    height = head + math.ceil(len(rows) / beside) * (WORDS + 2 * tall) + FOOT
    with styled():
        figure = sheet(width, height)
        for number, (words, clip, heat, place) in enumerate(rows):
            line, column = divmod(number, beside)
            left, top = column * wide, head + line * (WORDS + 2 * tall) + WORDS
            told = f"up to {heat.max():.2g}"
            words = shortened(words, wide - inches(told, 5) - 0.1, 6)
            figure.text((left + 0.01) / width, 1 - (top - 0.03) / height, words, ha="left", va="bottom", fontsize=6,
                        color=COLOURS["ink"], parse_math=False)
            figure.text((left + 0.97 * wide) / width, 1 - (top - 0.03) / height, told, ha="right", va="bottom", fontsize=5,
                        color=COLOUR)
            for at, frame in enumerate(_shown(len(clip), count, place[0])):
                for below, drawn in enumerate((None, heat[frame])):
                    corner = ((left + at * side) / width, 1 - (top + (below + 1) * tall) / height)
                    box = (*corner, 0.97 * side / width, 0.97 * tall / height)
                    axes = figure.add_axes(box)
                    heated(axes, clip[frame], drawn, high)
                    if drawn is not None and frame == place[0]:
                        framed(axes, place[1:], drawn.shape)
                if line == 0 and count > 1:
                    figure.text((left + (at + 0.49) * side) / width, 1 - 0.02 / height, f"{frame + 1}", ha="center", va="top",
                                fontsize=5.5, color=COLOUR)
        scale(figure, (width - 1.3, 0.07, 1.0, 0.06), high)
    return figure


def _shown(length: int, count: int, needed: int) -> list[int]:
    """Frames evenly from first to last; the one nearest to `needed` gives way to it."""
    shown = np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))
    shown[np.abs(shown - needed).argmin()] = needed
    return [int(one) for one in shown]
