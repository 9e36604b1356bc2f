"""Dose-response curves: how numbers change with the strength of an edit, beside a placebo of equal length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wanlab.plots.panels import LINE, foot, placed, thirds
from wanlab.plots.style import COLOURS, SERIES, styled
from wanlab.plots.text import wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

TALL, OVER, BELOW, LEFT, GAP = 1.0, 0.22, 0.32, 0.46, 0.48  # inches: of a panel, above, below, at the left, between panels
LINES = {"steered": (SERIES[0], "o", (None, None)), "random": (COLOURS["unclear"], "s", (3, 1.5))}


def doses(panels: Mapping[str, DataFrame], note: str = "", width: float = 5.5) -> Figure:
    """A panel for each metric: change by dose, with intervals, of the direction and of each random one.

    Args:
        panels: metric -> lines with direction ("steered", "random 0", ...), dose, change, low, high, n.
        note: written below.
        width: of the figure in inches, exact.

    Raises:
        ValueError: no panels, or one without lines.
    """
    from matplotlib.lines import Line2D

    if not panels or any(not len(panel) for panel in panels.values()):
        raise ValueError("a figure of doses needs at least one metric")
    columns, wide = thirds(len(panels), width, LEFT, GAP)
    counts = sorted({int(n) for panel in panels.values() for n in panel.n})
    told = f"change from dose 0, n = {', '.join(map(str, counts))} clips, 95 % paired intervals; random: directions of equal length"
    lines = wrapped(told + (f"; {note}" if note else ""), width - 0.1, 6)
    sizes = {"left": LEFT, "wide": wide, "gap": GAP, "over": OVER, "tall": TALL, "below": BELOW, "foot": 0.2 + LINE * len(lines)}
    with styled():
        figure, places = placed(len(panels), columns, width, **sizes)
        for axes, (name, panel) in zip(places, panels.items()):
            axes.axhline(0, color=COLOURS["ink"], linewidth=0.5, zorder=1)
            for which, mine in panel.groupby("direction", sort=False):
                colour, marker, dashes = LINES[str(which).split()[0]]
                dose, change, low, high = _with_zero(mine).T
                axes.plot(dose, change, color=colour, marker=marker, markersize=3, linewidth=0.9, dashes=dashes, zorder=3)
                axes.fill_between(dose, low, high, color=colour, alpha=0.2, linewidth=0, zorder=2)
            axes.set_title(name, pad=3, parse_math=False)
            axes.set_xlabel("dose", labelpad=1)
            axes.tick_params(labelsize=6)
        handles = [Line2D([], [], color=colour, marker=marker, markersize=3, linewidth=0.9, dashes=dashes)
                   for colour, marker, dashes in LINES.values()]
        foot(figure, handles, list(LINES), lines, 2)
    return figure


def _with_zero(lines: DataFrame) -> np.ndarray:
    """dose, change, low, high in the order of doses; at 0 nothing changes."""
    found = lines[["dose", "change", "low", "high"]].to_numpy(float)
    found = found if (found[:, 0] == 0).any() else np.concatenate([found, np.zeros((1, 4))])
    return found[found[:, 0].argsort()]
