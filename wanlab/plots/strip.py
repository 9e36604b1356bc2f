"""Film strips: frames of several clips of one sample, one clip per row."""

from __future__ import annotations

from collections.abc import Mapping
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
    longest = max(len(clip) for clip in clips.values())
    shown = np.unique(np.linspace(0, longest - 1, min(frames, longest)).round().astype(int))
    tile = (width - LABELS) / len(shown)
    head = 0.28
    height = head + tile * len(clips)
    with styled():
        figure = Figure(figsize=(width, height), layout="none")
        for row, (name, clip) in enumerate(clips.items()):
            bottom = 1 - (head + (row + 1) * tile) / height
            figure.text(LABELS / width - 0.012, bottom + tile / height / 2, name, ha="right", va="center", color=COLOURS["ink"],
                        parse_math=False)
            for column, frame in enumerate(shown):
                axes = figure.add_axes(((LABELS + column * tile) / width, bottom, 0.975 * tile / width, 0.975 * tile / height))
                axes.imshow(clip[min(frame, len(clip) - 1)].clip(0, 1), interpolation="lanczos")
                axes.set_axis_off()
                if row == 0:
                    figure.text((LABELS + (column + 0.5) * tile) / width, 1 - (head - 0.03) / height, f"{frame + 1}",
                                ha="center", va="bottom", fontsize=5.5, color="#666666")
        figure.text(LABELS / width, 1 - 0.02 / height, title, ha="left", va="top", fontsize=6.5, color=COLOURS["ink"],
                    parse_math=False)
    return figure
