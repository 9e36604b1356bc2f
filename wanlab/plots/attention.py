"""Figures of attention: heads as a heat map of their numbers, heat over frames, frame profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from wanlab.plots.heat import COLOUR, heated, highest, scale
from wanlab.plots.style import COLOURS, sheet, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABEL_COLOURS = {"spatial": "#0072B2", "temporal": "#D55E00", "anchor": "#009E73", "sink": "#777777", "register": "#A6761D",
                 "global": "#CC79A7"}


def heads(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], labels: Sequence[str], width: float = 5.5) -> Figure:
    """Numbers of heads: values (rows columns), each column on a scale of its own, written in; a label at the end of each row."""
    from matplotlib.figure import Figure

    low, high = np.nanmin(values, 0), np.nanmax(values, 0)
    shade = (values - low) / np.where(high > low, high - low, 1)
    with styled():
        figure = Figure(figsize=(width, 0.5 + 0.125 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(shade, aspect="auto", cmap="Greys", vmin=0, vmax=2.6)  # numbers stay readable on the darkest
        for (y, x), value in np.ndenumerate(values):
            told = "–" if np.isnan(value) else f"{value:.2f}"
            axes.text(x, y, told, ha="center", va="center", fontsize=5, color=COLOURS["ink"])
        for y, label in enumerate(labels):
            colour = LABEL_COLOURS[label]
            axes.text(len(columns) - 0.42, y, label, ha="left", va="center", fontsize=5.5, color=colour, clip_on=False)
        axes.set_xticks(range(len(columns)), [name.replace("_", " ") for name in columns], fontsize=6)
        axes.set_yticks(range(len(rows)), rows, fontsize=5, parse_math=False)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_xlim(-0.5, len(columns) + 0.35)
    return figure


def overlay(clip: np.ndarray, heats: Mapping[str, np.ndarray], width: float = 5.5, frames: int = 8, caption: str = "") -> Figure:
    """Heat (frames h w) over the frames of a clip (f h w 3 in [0, 1]), one map a row below the clip; each row has one scale,
    drawn at its right. Places that are NaN are clear. caption: a line below all."""
    if clip.ndim != 4 or clip.shape[-1] != 3:
        raise ValueError(f"a clip is f h w 3, got {clip.shape}")
    for name, heat in heats.items():
        if heat.ndim != 3 or len(heat) != len(clip):
            raise ValueError(f"{name}: heat is frames h w with {len(clip)} frames, got {heat.shape}")
    shown = np.unique(np.linspace(0, len(clip) - 1, min(frames, len(clip))).round().astype(int))
    left, right, top, foot = 0.75, 0.5, 0.2, 0.2 if caption else 0.0
    side = (width - left - right) / len(shown)
    with styled():
        figure = sheet(width, top + (len(heats) + 1) * side + foot)
        height = figure.get_figheight()
        for row, (name, heat) in enumerate([("video", None), *heats.items()]):
            high, low = 1.0 if heat is None else highest(heat), foot + (len(heats) - row) * side
            for column, frame in enumerate(shown):
                box = ((left + column * side) / width, (low + 0.04 * side) / height, 0.96 * side / width, 0.96 * side / height)
                axes = figure.add_axes(box)
                heated(axes, clip[frame], None if heat is None else heat[frame], high)
                if not row:
                    axes.set_title(str(frame + 1), fontsize=5.5, pad=1.5, color=COLOUR, loc="center", fontweight="normal")
            figure.text((left - 0.06) / width, (low + 0.48 * side) / height, name, ha="right", va="center", fontsize=6.5,
                        parse_math=False)
            if heat is not None:
                scale(figure, (width - right + 0.02, low + 0.08 * side, 0.06, 0.88 * side), high, upright=True)
        figure.text(left / width, 0.02, caption, fontsize=5.5, color=COLOUR, ha="left", va="bottom", parse_math=False)
    return figure


def profiles(values: np.ndarray, titles: Sequence[str], width: float = 5.5, columns: int = 4) -> Figure:
    """Frame profiles (panels frame to), one panel each, all on one scale from 0 to the largest."""
    from matplotlib.figure import Figure

    rows = -(-len(values) // columns)
    with styled():
        figure = Figure(figsize=(width, 0.3 + rows * width / columns), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(values):]:
            axes.set_axis_off()
        for axes, panel, title in zip(grid.flat, values, titles, strict=False):
            image = axes.imshow(panel, cmap="inferno", vmin=0, vmax=float(np.nanmax(values)))
            axes.set_title(title, fontsize=6, loc="center", fontweight="normal", parse_math=False)
            axes.set_xticks([0, panel.shape[1] - 1], [1, panel.shape[1]])
            axes.set_yticks([0, panel.shape[0] - 1], [1, panel.shape[0]])
        for axes in grid[:, 0]:
            axes.set_ylabel("from frame", fontsize=6)
        for axes in grid[-1]:
            axes.set_xlabel("to frame", fontsize=6)
        bar = figure.colorbar(image, ax=grid, shrink=0.8, aspect=30, pad=0.02)
        bar.set_label("attention", fontsize=6)
    return figure
