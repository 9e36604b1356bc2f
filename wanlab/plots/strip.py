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
    mosaic, shown, side, gap = _mosaic(list(clips.values()), frames, GAP / (width - left))
    dot = (width - left) / mosaic.shape[1]  # inches of a pixel of the widest clip
    tall, height = mosaic.shape[0] * dot, HEAD + mosaic.shape[0] * dot
    with styled():
        figure = sheet(width, height, math.ceil(200 * dot) / dot)  # whole dots for every pixel
        page = figure.add_axes((left / width, 0, 1 - left / width, tall / height))
        page.imshow(mosaic, interpolation="none", aspect="auto")  # none: a PDF keeps the pixels as they are
        page.set_axis_off()
        for row, name in enumerate(clips):
            middle = 1 - (HEAD + (row + 0.5) * tall / len(clips)) / height
            label = shortened(name, left - 0.1, 7.0)
            figure.text((left - 0.07) / width, middle, label, ha="right", va="center", color=COLOURS["ink"], parse_math=False)
        for column, frame in enumerate(shown):
            x = (left + (column * (side + gap) + side / 2) * dot) / width
            figure.text(x, (tall + 0.03) / height, f"{frame + 1}", ha="center", va="bottom", fontsize=5.5, color="#666666")
        words = shortened(title, width - left, 6.5)
        place = (left / width, 1 - 0.02 / height)
        figure.text(*place, words, ha="left", va="top", fontsize=6.5, color=COLOURS["ink"], parse_math=False)
    return figure


def _mosaic(clips: Sequence[np.ndarray], frames: int, share: float) -> tuple[np.ndarray, list[int], int, int]:
    """All frames as one picture, `share` of its width of white between them; the numbers of the frames, pixels of a frame's
    width and of a gap. Smaller clips are repeated pixel by pixel as often as they fit."""
    shown = np.unique(np.linspace(0, max(map(len, clips)) - 1, min(frames, max(map(len, clips)))).round().astype(int)).tolist()
    side = max(clip.shape[2] for clip in clips)
    factors = [side // clip.shape[2] for clip in clips]
    tall = max(clip.shape[1] * factor for clip, factor in zip(clips, factors))
    gap = max(1, round(share * side * len(shown)))
    page = np.ones((len(clips) * (tall + gap), len(shown) * (side + gap) - gap, 3), dtype=np.float32)
    for row, (clip, factor) in enumerate(zip(clips, factors)):
        for column, frame in enumerate(shown):
            picture = clip[min(frame, len(clip) - 1)].clip(0, 1).repeat(factor, 0).repeat(factor, 1)
            top, left = row * (tall + gap), column * (side + gap)
            page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return page, shown, side, gap


def fitting(names: Sequence[str], width: float, aspect: float = 1.0, frames: int = 8) -> int:
    """How many clips (at least 2) a page holds: `aspect` is their height over their width."""
    wide = (width - _left(names, width)) / frames
    return max(2, int((PAGE - HEAD) / (wide * aspect + GAP)))


def _left(names: Sequence[str], width: float) -> float:
    return min(max(0.5, max(inches(name, 7.0) for name in names) + 0.12), 0.3 * width)
