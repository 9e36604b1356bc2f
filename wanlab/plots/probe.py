"""Probes: accuracy by layer, a line for each denoising step, beside chance and a control task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from wanlab.plots.panels import LINE, foot, placed, thirds
from wanlab.plots.style import COLOURS, SERIES, SYMBOLS, styled
from wanlab.plots.text import inches, shortened, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

TALL, OVER, LEFT, GAP = 1.35, 0.22, 0.38, 0.34  # inches: of a panel, above it, at the left, between panels
OUTSIDE = "outside the steps"


def by_layer(panels: Mapping[str, DataFrame], note: str = "", width: float = 5.5) -> Figure:
    """Panels of labels. Layers stand from left to right; a series is a denoising step, with its 95 % interval; crosses are the
    control task (its mean over steps), the dashed line is chance, the shaded part is what random pairings reach.

    Args:
        panels: label -> lines with site, step, accuracy, low, high, chance, permuted, control, n, score.
        note: written below.
        width: of the figure in inches, exact.

    Raises:
        ValueError: no panels, or one without lines.
    """
    from matplotlib.lines import Line2D

    if not panels or any(not len(panel) for panel in panels.values()):
        raise ValueError("a figure of probes needs at least one probe")
    sites = list(dict.fromkeys(site for panel in panels.values() for site in panel.site))
    steps = sorted({int(step) for panel in panels.values() for step in panel.step.dropna()})
    series = [*steps, *([None] if any(panel.step.isna().any() for panel in panels.values()) else [])]
    names = [shortened(site.removesuffix(".resid_post"), 1.1, 6) for site in sites]
    below = max(inches(name, 6) for name in names) + 0.1
    columns, wide = thirds(len(panels), width, LEFT, GAP)
    counts = sorted({int(n) for panel in panels.values() for n in panel.n})
    told = (f"n = {', '.join(map(str, counts))} test clips, 95 % intervals; dashed: chance; grey: 95 % of random pairings; "
            "x: control task")
    lines = wrapped(told + (f"; {note}" if note else ""), width - 0.1, 6)
    sizes = {"left": LEFT, "wide": wide, "gap": GAP, "over": OVER, "tall": TALL, "below": below}
    with styled():
        figure, places = placed(len(panels), columns, width, **sizes, foot=0.2 + LINE * len(lines) + 0.04)
        for axes, (name, panel) in zip(places, panels.items()):
            _panel(axes, panel, sites, series)
            axes.set_title(name, pad=3, parse_math=False)
            axes.set_xticks(range(len(sites)), names, rotation=90, fontsize=6, parse_math=False)
            axes.set_ylabel("R²" if set(panel.score) == {"R2"} else "accuracy", labelpad=2)
        handles = [Line2D([], [], markersize=3.4, linewidth=0.8 if step is not None else 0, **_style(number, step))
                   for number, step in enumerate(series)]
        labels = [OUTSIDE if step is None else f"step {step}" for step in series]
        foot(figure, handles, labels, lines, len(series))
    return figure


def _panel(axes: Axes, panel: DataFrame, sites: list[str], series: list[int | None]) -> None:
    """One label."""
    at = [sites.index(site) for site in panel.site]
    first, last = min(at) - 0.45, max(at) + 0.45
    chance = float(panel.chance.mean())
    axes.fill_between([first, last], chance, float(panel.permuted.max()), color="#DDDDDD", linewidth=0, zorder=0)
    axes.plot([first, last], [chance] * 2, color=COLOURS["unclear"], linewidth=0.8, dashes=(4, 2), zorder=1)
    for number, step in enumerate(series):
        mine = panel[panel.step.isna()] if step is None else panel[panel.step == step]
        shift = (number - (len(series) - 1) / 2) * min(0.12, 0.5 / len(series))
        x = np.array([sites.index(site) for site in mine.site]) + shift
        values = mine.accuracy.to_numpy(float)
        reach = np.stack([values - mine.low.to_numpy(float), mine.high.to_numpy(float) - values]).clip(0)
        style = _style(number, step)
        axes.errorbar(x, values, reach, elinewidth=0.7, capsize=0, markersize=3.4, markeredgewidth=0.7,
                      linewidth=0.0 if step is None else 0.8, zorder=3, **style)
    control = panel.groupby("site", sort=False).control.mean()
    axes.plot([sites.index(site) for site in control.index], control.to_numpy(float), linestyle="", marker="x", markersize=3,
              markeredgewidth=0.7, color=COLOURS["ink"], zorder=2)
    axes.set_xlim(-0.6, len(sites) - 0.4)
    lowest = min(0.0, float(panel.low.min()), float(control.min()))
    axes.set_ylim(max(lowest, -1.0) - 0.03, 1.03)
    axes.tick_params(labelsize=6)


def _style(number: int, step: int | None) -> dict[str, object]:
    if step is None:
        return {"color": COLOURS["ink"], "marker": "s", "markerfacecolor": "white"}
    return {"color": SERIES[number % len(SERIES)], "marker": SYMBOLS[number % len(SYMBOLS)]}
