"""Film strips: frames of several clips of one sample, one clip per row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .style import COLOURS, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = 0.78  # inches for the names at the left


def strip(clips: Mapping[str, np.ndarray], width: float = 5.5, title: str = "", frames: int = 8) -> Figure:
    """Frames beside each other, clips below each other.

    Args:
        clips: name -> array (f, h, w, c) in [0, 1]; sizes may differ between clips.
        width: of the figure in inches, exact.
        title: shown above (the prompt); it is not interpreted.
        frames: at most this many frames, evenly spread from the first to the last.

    Raises:
        ValueError: no clips, or an array that is no video.
    """
    from matplotlib.figure import Figure

    if not clips:
        raise ValueError("a film strip needs at least one clip")
    for name, clip in clips.items():
        if clip.ndim != 4 or clip.shape[-1] != 3:
            raise ValueError(f"{name}: a clip is f h w 3, got {clip.shape}")
    mosaic, shown = _mosaic(list(clips.values()), frames)
    wide, head = width - LABELS, 0.28
    tall = wide * mosaic.shape[0] / mosaic.shape[1]
    height, row = head + tall, tall / len(clips)
    with styled():
        # whole pixels of the clips on whole pixels of the page, at about 200 dots per inch or more
        figure = Figure(
            figsize=(width, height), layout="none", dpi=math.ceil(200 * wide / mosaic.shape[1]) * mosaic.shape[1] / wide
        )
        axes = figure.add_axes((LABELS / width, 0.0, wide / width, tall / height))
        axes.imshow(mosaic, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        for number, name in enumerate(clips):
            figure.text(
                (LABELS - 0.07) / width,
                (tall - (number + 0.5) * row) / height,
                name,
                ha="right",
                va="center",
                color=COLOURS["ink"],
                parse_math=False,
            )
        for number, frame in enumerate(shown):
            figure.text(
                (LABELS + (number + 0.5) * wide / len(shown)) / width,
                (tall + 0.03) / height,
                f"{frame + 1}",
                ha="center",
                va="bottom",
                fontsize=5.5,
                color="#666666",
            )
        figure.text(
            LABELS / width,
            (height - 0.02) / height,
            title,
            ha="left",
            va="top",
            fontsize=6.5,
            color=COLOURS["ink"],
            parse_math=False,
        )
    return figure


def _mosaic(clips: Sequence[np.ndarray], frames: int) -> tuple[np.ndarray, list[int]]:
    """All frames as one picture with white gaps, and the numbers of the frames; smaller clips are repeated pixel by pixel."""
    longest, side = max(len(clip) for clip in clips), max(max(clip.shape[1:3]) for clip in clips)
    shown = np.unique(np.linspace(0, longest - 1, min(frames, longest)).round().astype(int)).tolist()
    gap = max(1, round(side / 42))
    page = np.ones((len(clips) * (side + gap), len(shown) * (side + gap), 3), dtype=np.float32)
    for row, clip in enumerate(clips):
        factor = side // max(clip.shape[1:3])
        for column, frame in enumerate(shown):
            picture = clip[min(frame, len(clip) - 1)].clip(0, 1).repeat(factor, 0).repeat(factor, 1)
            top, left = row * (side + gap), column * (side + gap)
            page[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return page, shown
