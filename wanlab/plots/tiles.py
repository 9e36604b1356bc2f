"""Tiles: numbers by two axes as colours around zero, one panel for each question; a place that was not asked about stays empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from wanlab.plots.style import COLOURS, sheet, styled
from wanlab.plots.text import inches, shortened, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TALL, HEAD, FOOT = 0.17, 0.24, 0.36       # inches: of a row of tiles, of a panel's head, of all below the tiles


def tiles(panels: Mapping[str, np.ndarray], rows: Sequence[str], columns: Sequence[str], label: str, *, across: str = "",
          limit: float | None = None, note: str = "", width: float = 5.5) -> Figure:
    """Panels (rows columns) side by side, on one scale from -limit to limit.

    columns: their names, of which so many are written as there is room for; across: what they are; label: what the colours say;
    limit: by default the largest number, larger ones have its colour and give the scale pointed ends; note: a line below, such as a
    rank correlation. Raises ValueError for another shape.
    """
    for name, values in panels.items():
        if values.shape != (len(rows), len(columns)):
            raise ValueError(f"{name}: {values.shape} tiles for {len(rows)} rows and {len(columns)} columns")
    known = np.concatenate([values[np.isfinite(values)] for values in panels.values()])
    limit = limit or float(np.abs(known).max(initial=0)) or 1.0
    left = min(max(inches(name, 6) for name in rows) + 0.1, 0.4 * width)
    wide = (width - left - 0.6 - 0.12 * (len(panels) - 1)) / len(panels)
    lines = wrapped(note, width - 0.1, 6) if note else []
    foot = FOOT + 0.12 * len(lines)
    height = HEAD + TALL * len(rows) + foot
    with styled():
        figure = sheet(width, height)
        for place, (name, values) in enumerate(panels.items()):
            axes = figure.add_axes(((left + place * (wide + 0.12)) / width, foot / height, wide / width, TALL * len(rows) / height))
            image = axes.imshow(values, cmap=_colours(), vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
            axes.set_facecolor("#EEEEEE")
            axes.set_title(shortened(name, wide, 6.5), fontsize=6.5, loc="center", fontweight="normal", parse_math=False, pad=3)
            room = max(inches(one, 5.5) + 0.04 for one in columns) * len(columns) / wide
            shown = range(0, len(columns), max(1, int(np.ceil(room))))
            axes.set_xticks(list(shown), [columns[i] for i in shown], fontsize=5.5, parse_math=False)
            axes.set_yticks(range(len(rows)), [shortened(one, left - 0.1, 6) for one in rows] if place == 0 else [""] * len(rows),
                            fontsize=6, parse_math=False)
            axes.set_xlabel(across, fontsize=6, labelpad=2)
            axes.tick_params(length=0, pad=2)
            axes.spines[:].set_visible(False)
            axes.set_xticks(np.arange(len(columns) - 1) + 0.5, minor=True)
            axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
            axes.grid(which="minor", color="white", linewidth=0.6)
            axes.tick_params(which="minor", length=0)
        bar = figure.add_axes(((width - 0.5) / width, foot / height, 0.07 / width, TALL * len(rows) / height))
        ticks = figure.colorbar(image, cax=bar, ticks=[-limit, 0, limit], extend=_beyond(known, limit))
        ticks.ax.set_yticklabels([f"{-limit:.2g}", "0", f"{limit:.2g}"], fontsize=5.5)
        ticks.ax.set_title(shortened(label, 0.9, 5.5), fontsize=5.5, fontweight="normal", pad=3)
        ticks.outline.set_visible(False)
        ticks.ax.tick_params(length=0, pad=2)
        for number, line in enumerate(reversed(lines)):
            figure.text(0.05 / width, (0.05 + 0.12 * number) / height, line, fontsize=6, color=COLOURS["ink"], parse_math=False)
    return figure


def _beyond(values: np.ndarray, limit: float) -> str:
    """At which ends of the scale there are numbers that it does not reach."""
    low, high = bool((values < -limit).any()), bool((values > limit).any())
    return "both" if low and high else "min" if low else "max" if high else "neither"


def _colours():
    """From purple (negative) over white to green."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("effect", ["#8A4A86", "#FFFFFF", "#00785A"])
