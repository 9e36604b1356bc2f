"""Step-window curves: what removing a part does, by the denoising steps in which it is removed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .effect import Effect, head, words_of
from .panels import fitting, placed
from .style import COLOURS, DASHES, SERIES, SYMBOLS, styled
from .text import inches, shortened, tick, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TALL, OVER, BELOW = 1.05, 0.2, 0.34  # inches of a panel, above it, below it


@dataclass(frozen=True)
class Window:
    """An effect of an edit that acts from `start` up to `stop` (denoising steps, or noise levels from 1 down to 0); None:
    in all of them."""

    effect: Effect
    start: float | None
    stop: float | None


def windows(
    curves: Mapping[str, Sequence[Window]],
    width: float = 5.5,
    unit: str = "denoising step",
    baseline: str = "baseline",
    confidence: float = 0.95,
) -> Figure:
    """Panels of curves, one per metric. A window is a horizontal bar over its steps; its difference stands in the middle
    with its interval, filled where it is significant; windows of one series are joined. The effect in all steps is a
    line at the right edge.

    Args:
        curves: name of a series (a component, a site) -> its windows, of all metrics.
        width: of the figure in inches, exact.
        unit: what windows are measured in.
        baseline: the name of what zero means.
        confidence: of the intervals.

    Raises:
        ValueError: no windows.
    """
    metrics = list(dict.fromkeys(one.effect.metric for curve in curves.values() for one in curve))
    if not metrics:
        raise ValueError("a curve over windows needs at least one window")
    left, gap = 0.42, 0.44
    columns, wide = fitting(len(metrics), width, left, gap, 1.25)
    wide = min(wide, 4.0)
    heads = {m: _title(curves, m, wide) for m in metrics}
    over = OVER + 0.12 * (max(len(lines) for lines in heads.values()) - 1)
    names = [shortened(name, 1.6, 6.5) for name in curves]
    each = max(1, int(width / (max(inches(name, 6.5) for name in names) + 0.5)))
    sizes = {"left": left, "wide": wide, "gap": gap, "over": over, "tall": TALL, "below": BELOW}
    with styled():
        figure, places = placed(len(metrics), columns, width, **sizes, foot=0.16 + 0.13 * math.ceil(len(names) / each))
        for panel, metric in zip(places, metrics):
            _panel(panel, curves, metric, unit)
            panel.set_title("\n".join(heads[metric]), pad=3, parse_math=False, linespacing=1.15)
        _legend(figure, curves, names, each, baseline, confidence)
    return figure


def _title(curves: Mapping[str, Sequence[Window]], metric: str, wide: float) -> list[str]:
    better = next(one.effect.better for curve in curves.values() for one in curve if one.effect.metric == metric)
    return wrapped(head(metric, better), wide + 0.3, 7.0, bold=True)


def style_of(number: int) -> dict[str, object]:
    """Colour, and as second channel marker and dashes, of the series of this number."""
    dash = DASHES[number // len(SERIES) % len(DASHES)] or DASHES[number % len(DASHES)]
    return {
        "color": SERIES[number % len(SERIES)],
        "marker": SYMBOLS[number % len(SYMBOLS)],
        "dashes": dash or (None, None),
        "markersize": 3.6,
        "markeredgewidth": 0.8,
        "linewidth": 0.9,
    }


def _panel(panel: Axes, curves: Mapping[str, Sequence[Window]], metric: str, unit: str) -> None:
    """One metric."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    everything = [one for curve in curves.values() for one in curve]
    if not all(one.effect.apart for one in everything if one.effect.metric == metric):
        panel.axhline(0.0, color=COLOURS["ink"], linewidth=0.6, zorder=1)
    edges = sorted({edge for one in everything for edge in (one.start, one.stop) if edge is not None})
    span = (edges[-1] - edges[0]) if edges else 1.0
    for number, curve in enumerate(curves.values()):
        mine = [one for one in curve if one.effect.metric == metric and one.effect.known]
        style = style_of(number)
        shift = (number - (len(curves) - 1) / 2) * min(0.012 * span, 0.09 * span / len(curves))
        placed = sorted(
            (((one.start + one.stop) / 2 + shift, one) for one in mine if one.start is not None), key=lambda pair: pair[0]
        )
        panel.plot([x for x, _ in placed], [one.effect.delta for _, one in placed], **{**style, "marker": ""}, zorder=2)
        for x, one in placed:
            panel.plot(
                [one.start, one.stop],
                [one.effect.delta] * 2,
                color=style["color"],
                linewidth=2.2,
                alpha=0.35,
                solid_capstyle="butt",
                zorder=1.5,
            )
            _point(panel, x, one.effect, style)
        for one in mine:
            if one.start is None:
                _point(panel, (edges[-1] if edges else 1.0) + 0.08 * span + 2 * shift, one.effect, style)
    if any(one.start is None for one in everything):
        end = (edges[-1] if edges else 1.0) + 0.03 * span
        panel.axvline(end, color="#BBBBBB", linewidth=0.5, linestyle=(0, (2, 2)))
        panel.text(end, 1.0, " all", transform=panel.get_xaxis_transform(), fontsize=5.5, color="#666666", ha="left", va="top")
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=unit == "denoising step", steps=[1, 2, 4, 5, 10]))
    panel.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(FuncFormatter(tick))
    panel.tick_params(axis="y", length=2.5, width=0.6, labelsize=6)
    panel.margins(x=0.03, y=0.1)
    panel.set_xlabel(unit, labelpad=1.5)
    if unit != "denoising step":
        panel.invert_xaxis()


def _point(panel: Axes, x: float, effect: Effect, style: Mapping[str, object]) -> None:
    if math.isfinite(effect.low) and math.isfinite(effect.high):
        panel.plot([x, x], [effect.low, effect.high], color=style["color"], linewidth=0.8, zorder=2.5)
    face = style["color"] if effect.significant else "white"
    panel.plot([x], [effect.delta], **{**style, "linewidth": 0, "dashes": (None, None)}, markerfacecolor=face, zorder=3)


def _legend(
    figure: Figure, curves: Mapping[str, Sequence[Window]], names: Sequence[str], columns: int, baseline: str, confidence: float
) -> None:
    from matplotlib.lines import Line2D

    told = words_of(one.effect for curve in curves.values() for one in curve)
    handles = [Line2D([], [], **style_of(number)) for number in range(len(names))]
    legend = figure.legend(
        handles,
        names,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        borderaxespad=0.1,
        ncols=min(columns, len(names)),
        title=f"{told} {shortened(baseline, 1.0, 6.5)}, {100 * confidence:g} % interval; filled: significant",
        title_fontsize=6.5,
        handletextpad=0.5,
        columnspacing=1.2,
        labelspacing=0.25,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
