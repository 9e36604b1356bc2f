"""Forest plot: for each metric, the paired difference of every cell to the baseline with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .style import COLOURS, MARKERS, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ARROWS = {"higher": "↑", "lower": "↓", "none": ""}


@dataclass(frozen=True)
class Effect:
    """One line: a cell's difference `delta` under a metric, its interval, whether it is significant, and which
    direction is better ("higher", "lower", "none")."""

    cell: str
    metric: str
    delta: float
    low: float
    high: float
    significant: bool
    better: str = "none"

    @property
    def kind(self) -> str:
        """better, worse, changed (no direction is better) or unclear (not significant)."""
        if not self.significant:
            return "unclear"
        if self.better == "none":
            return "changed"
        return "better" if (self.delta > 0) == (self.better == "higher") else "worse"


def forest(effects: Sequence[Effect], width: float = 5.5, columns: int | None = None, baseline: str = "baseline") -> Figure:
    """Panels of differences, one per metric, cells downwards in the order given.

    Args:
        effects: all cells of all metrics (those without a finite delta leave a gap).
        width: of the figure in inches, exact.
        columns: panels beside each other (default: about one per 1.4 inches).
        baseline: the name of what zero means.

    Raises:
        ValueError: no effects.
    """
    from matplotlib.figure import Figure

    if not effects:
        raise ValueError("a forest plot needs at least one effect")
    metrics, cells = list(dict.fromkeys(e.metric for e in effects)), list(dict.fromkeys(e.cell for e in effects))
    columns = min(len(metrics), columns or max(1, round((width - 0.8) / 1.2)))
    rows = math.ceil(len(metrics) / columns)
    with styled():
        figure = Figure(figsize=(width, rows * (0.135 * len(cells) + 0.48) + 0.3))
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for number, panel in enumerate(panels.flat):
            if number >= len(metrics):
                panel.set_axis_off()
                continue
            _panel(panel, [e for e in effects if e.metric == metrics[number]], cells)
        _legend(figure, effects, baseline)
    return figure


def _panel(panel: Axes, effects: Sequence[Effect], cells: Sequence[str]) -> None:
    """One metric."""
    panel.axvline(0.0, color=COLOURS["ink"], linewidth=0.6, zorder=1)
    for row in range(0, len(cells), 2):
        panel.axhspan(row - 0.5, row + 0.5, color="#F3F3F3", linewidth=0, zorder=0)
    for effect in effects:
        if not math.isfinite(effect.delta):
            continue
        row, colour = cells.index(effect.cell), COLOURS[effect.kind]
        if math.isfinite(effect.low) and math.isfinite(effect.high):
            panel.plot([effect.low, effect.high], [row, row], color=colour, linewidth=1.1, solid_capstyle="butt", zorder=2)
        panel.plot(
            [effect.delta],
            [row],
            marker=MARKERS[effect.kind],
            color=colour,
            markersize=3.8,
            zorder=3,
            markerfacecolor="white" if effect.kind == "unclear" else colour,
            markeredgewidth=0.8,
        )
    panel.set_yticks(range(len(cells)), cells)
    panel.set_ylim(len(cells) - 0.5, -0.5)
    panel.locator_params(axis="x", nbins=3)
    panel.ticklabel_format(axis="x", style="plain", useOffset=False)
    panel.margins(x=0.12)
    arrow = ARROWS[effects[0].better]
    panel.set_title(f"{effects[0].metric.replace('_', ' ')} {arrow}".strip(), pad=3)
    panel.spines["left"].set_visible(False)


def _legend(figure: Figure, effects: Sequence[Effect], baseline: str) -> None:
    from matplotlib.lines import Line2D

    words = {"worse": "worse", "better": "better", "changed": "changed", "unclear": "not significant"}
    present = [kind for kind in words if any(e.kind == kind and math.isfinite(e.delta) for e in effects)]
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[kind],
            marker=MARKERS[kind],
            linewidth=1.1,
            markersize=3.8,
            markerfacecolor="white" if kind == "unclear" else COLOURS[kind],
            markeredgewidth=0.8,
        )
        for kind in present
    ]
    figure.legend(
        handles,
        [words[kind] for kind in present],
        loc="outside lower center",
        ncols=len(present) or 1,
        title=f"difference to {baseline}, 95 % interval",
        title_fontsize=6.5,
        handletextpad=0.5,
        columnspacing=1.5,
    )
