"""Film strips: frames of several clips of one sample, one clip per row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import COLOURS, PAGE, sheet, styled
from .text import inches, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAD, GAP = 0.28, 0.02  # inches above the frames, for the title and their numbers; white between frames


def strip(clips: Mapping[str, np.ndarray], width: float = 5.5, title: str = "", frames: int = 8) -> Figure:
    """Frames beside each other, clips below each other, every pixel as it is.

    Args:
        clips: name -> array (f, h, w, c) in [0, 1]; sizes may differ between clips. More than a page holds: see `fitting`.
        width: of the figure in inches, exact.
        title: shown above (the prompt); it is not interpreted.
        frames: at most this many frames, evenly spread from the first to the last.

    Raises:
        ValueError: no clips, or an array that is no video.
    """
    if not clips:
        raise ValueError("a film strip needs at least one clip")
    for name, clip in clips.items():
        if clip.ndim != 4 or clip.shape[-1] != 3:
            raise ValueError(f"{name}: a clip is f h w 3, got {clip.shape}")
    left = _left(list(clips), width)
    shown = _shown(max(len(clip) for clip in clips.values()), frames)
    wide = (width - left - GAP * (len(shown) - 1)) / len(shown)
    side = max(clip.shape[2] for clip in clips.values())
    dpi = side * math.ceil(200 * wide / side) / wide  # a whole number of dots for each pixel of the widest clip
    left, gap, top = (round(x * dpi) / dpi for x in (left, GAP, HEAD))  # and frames begin on whole dots
    tall = math.ceil(dpi * wide * max(clip.shape[1] / clip.shape[2] for clip in clips.values())) / dpi
    height = top + len(clips) * (tall + gap)
    with styled():
        figure = sheet(width, height, dpi)
        page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0), aspect="auto")
        page.set_axis_off()
        for row, (name, clip) in enumerate(clips.items()):
            y = top + row * (tall + gap)
            label = shortened(name, left - 0.1, 7.0)
            page.text(left - 0.07, y + tall / 2, label, ha="right", va="center", color=COLOURS["ink"], parse_math=False)
            for column, frame in enumerate(shown):
                x = left + column * (wide + gap)
                high = wide * clip.shape[1] / clip.shape[2]
                page.imshow(
                    clip[min(frame, len(clip) - 1)].clip(0, 1),
                    extent=(x, x + wide, y + high, y),
                    interpolation="nearest",
                    aspect="auto",
                )
        page.set(xlim=(0, width), ylim=(height, 0))
        for column, frame in enumerate(shown):
            middle = left + column * (wide + gap) + wide / 2
            page.text(middle, top - 0.03, f"{frame + 1}", ha="center", va="bottom", fontsize=5.5, color="#666666")
        words = shortened(title, width - left, 6.5)
        page.text(left, 0.02, words, ha="left", va="top", fontsize=6.5, color=COLOURS["ink"], parse_math=False)
    return figure


def fitting(names: Sequence[str], width: float, aspect: float = 1.0, frames: int = 8) -> int:
    """How many clips (at least 2) a page holds: `aspect` is their height over their width."""
    wide = (width - _left(names, width)) / frames
    return max(2, int((PAGE - HEAD) / (wide * aspect + GAP)))


def _left(names: Sequence[str], width: float) -> float:
    return min(max(0.5, max(inches(name, 7.0) for name in names) + 0.12), 0.3 * width)


def _shown(length: int, frames: int) -> list[int]:
    return np.unique(np.linspace(0, length - 1, min(frames, length)).round().astype(int)).tolist()
