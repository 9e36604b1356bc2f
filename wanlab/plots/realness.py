"""Maps of how real each patch of a clip looks to a discriminator, below the frames that they judge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wanlab.plots.style import COLOURS, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def realness(clips: Mapping[str, tuple[np.ndarray, np.ndarray]], width: float = 5.5, frames: int = 8) -> Figure:
    """Frames of each clip, and its map below them: blue patches are taken for real, orange ones not, grey is undecided.

    Args:
        clips: name -> (frames f h w 3 in [0, 1], logits f h w of any smaller grid); all maps have one scale.
        width: of the figure in inches.
        frames: at most this many frames, evenly spread from the first to the last.

    Raises:
        ValueError: no clips, an array that is no video, or a map with another number of frames.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    if not clips:
        raise ValueError("a figure of realness needs at least one clip")
    for name, (clip, logits) in clips.items():
        if clip.ndim != 4 or clip.shape[-1] != 3 or logits.ndim != 3 or len(logits) != len(clip):
            raise ValueError(f"{name}: a clip is f h w 3 and its map f h w, got {clip.shape} and {logits.shape}")
    colours = LinearSegmentedColormap.from_list("realness", ["#D55E00", "#E8E8E8", "#0072B2"])
    high = max(float(np.abs(logits).max()) for _, logits in clips.values()) or 1.0
    longest = max(len(clip) for clip, _ in clips.values())
    shown = np.unique(np.linspace(0, longest - 1, min(frames, longest)).round().astype(int))
    with styled():
        figure = Figure(figsize=(width, 0.75 + 2 * len(clips) * ((width - 0.4) / len(shown) + 0.03)), layout="constrained")
        figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.03, wspace=0, hspace=0)
        axes = figure.subplots(2 * len(clips), len(shown), squeeze=False)
        for row, (name, (clip, logits)) in enumerate(clips.items()):
            for column, frame in enumerate(shown):
                picture, heat = axes[2 * row, column], axes[2 * row + 1, column]
                if frame < len(clip):
                    picture.imshow(clip[frame].clip(0, 1), interpolation="nearest")
                    drawn = heat.imshow(logits[frame], cmap=colours, vmin=-high, vmax=high, interpolation="nearest")
                for place in (picture, heat):
                    place.set_axis_off()
                if row == 0:
                    picture.set_title(f"{frame + 1}", fontsize=5.5, color="#666666", pad=2)
            axes[2 * row, 0].text(-0.08, 0.5, name, transform=axes[2 * row, 0].transAxes, rotation=90, ha="right", va="center",
                                  fontsize=6.5, color=COLOURS["ink"], parse_math=False)
            told = f"{logits.mean():+.2f}"
            axes[2 * row + 1, 0].text(-0.08, 0.5, told, transform=axes[2 * row + 1, 0].transAxes, rotation=90, ha="right",
                                      va="center", fontsize=5.5, color="#666666")
        bar = figure.colorbar(drawn, ax=axes, location="bottom", fraction=0.03, aspect=40, pad=0.02)
        bar.set_label("logit of the discriminator (0: undecided)", fontsize=6)
        bar.ax.tick_params(labelsize=5.5, length=2)
        bar.outline.set_visible(False)  # type: ignore[operator]
    return figure
