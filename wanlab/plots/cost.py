"""Quality against cost: each cell as a point, seconds per sample against a metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .effect import head
from .panels import fitting, placed
from .style import COLOURS, styled
from .text import inches, shortened, tick, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TALL, OVER, BELOW, FOOT = 1.35, 0.2, 0.36, 0.2  # inches of a panel, above it, below it, of the legend
LABEL = 5.5  # points
SPREAD = 5.0  # a ratio of costs beyond which their axis is logarithmic


@dataclass(frozen=True)
class Point:
    """A cell: seconds per sample, its value under a metric with the interval, and which direction is better."""

    cell: str
    metric: str
    seconds: float
    value: float
    low: float
    high: float
    better: str


def cost(points: Sequence[Point], width: float = 5.5, baseline: str = "baseline", confidence: float = 0.95) -> Figure:
    """Panels, one per metric. Cells that no other beats in both cost and value are joined (the Pareto front) and named; so
    is the baseline, a star. Of the others as many are named as find room.

    Args:
        points: all cells of all metrics; those without a finite value or cost are left out.
        width: of the figure in inches, exact.
        confidence: of the intervals.

    Raises:
        ValueError: no points.
    """
    points = [p for p in points if math.isfinite(p.value) and math.isfinite(p.seconds) and p.seconds > 0]
    metrics = list(dict.fromkeys(p.metric for p in points))
    if not metrics:
        raise ValueError("a plot of quality against cost needs at least one cell with a value and a cost")
    left, gap = 0.45, 0.46
    columns, wide = fitting(len(metrics), width, left, gap, 1.35)
    wide = min(wide, 4.0)
    heads = {m: wrapped(head(m, next(p for p in points if p.metric == m).better), wide + 0.3, 7.0, bold=True) for m in metrics}
    over = OVER + 0.12 * (max(map(len, heads.values())) - 1)
    words = _words(baseline, confidence, width)
    sizes = {"left": left, "wide": wide, "gap": gap, "over": over, "tall": TALL, "below": BELOW}
    with styled():
        figure, places = placed(len(metrics), columns, width, **sizes, foot=FOOT + 0.12 * (len(words) - 1))
        for panel, metric in zip(places, metrics):
            _panel(panel, [p for p in points if p.metric == metric], baseline, wide)
            panel.set_title("\n".join(heads[metric]), pad=3, parse_math=False, linespacing=1.15)
        figure.text(0.5, 0.04 / figure.get_figheight(), "\n".join(words), ha="center", va="bottom", fontsize=6.5, parse_math=False)
    return figure


def _words(baseline: str, confidence: float, width: float) -> list[str]:
    """The lines of the legend."""
    marks = f"★ {shortened(baseline, 1.0, 6.5)}, ● not beaten in both, ○ other cells; bars: {100 * confidence:g} % interval"
    return wrapped(marks, width - 0.1, 6.5)


def front(points: Sequence[Point]) -> list[Point]:
    """The points of one metric that none beats in both (or in one, with the other equal), by cost; none without a direction."""
    if not points or points[0].better == "none":
        return []
    sign = 1 if points[0].better == "higher" else -1
    best, kept = -math.inf, []
    for point in sorted(points, key=lambda p: (p.seconds, -sign * p.value)):
        if sign * point.value > best:
            best = sign * point.value
            kept.append(point)
    return kept


def _panel(panel: Axes, points: Sequence[Point], baseline: str, wide: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    best = front(points)
    panel.plot([p.seconds for p in best], [p.value for p in best], color="#999999", linewidth=0.8, zorder=1)
    for point in points:
        mark, face, colour, size = "o", "white", "#777777", 3.4
        if point in best:
            face = colour = COLOURS["better"]
        if point.cell == baseline:
            mark, face, colour, size = "*", COLOURS["ink"], COLOURS["ink"], 6.5
        if math.isfinite(point.low):
            panel.plot([point.seconds] * 2, [point.low, point.high], color=colour, linewidth=0.7, alpha=0.7, zorder=2)
        panel.plot(
            [point.seconds], [point.value], mark, color=colour, markerfacecolor=face, markersize=size, markeredgewidth=0.8, zorder=3
        )
    costs = [p.seconds for p in points]
    panel.margins(x=0.16, y=0.12)
    if max(costs) > SPREAD * min(costs):
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_minor_formatter(NullFormatter())
    else:
        panel.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    panel.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(FuncFormatter(tick))
    panel.tick_params(axis="y", length=2.5, width=0.6, labelsize=6)
    panel.set_xlabel("seconds per sample", labelpad=1.5)
    order = [p for p in points if p.cell == baseline] + [p for p in best if p.cell != baseline]
    _names(panel, order + [p for p in points if p not in order], len(order), points, wide)


def _names(panel: Axes, order: Sequence[Point], must: int, points: Sequence[Point], wide: float) -> None:
    """Names beside their points, where they cover neither points nor other names; the first `must` in any case."""
    box = (wide * 72, TALL * 72)  # points of the panel
    panel.autoscale_view()
    transform = panel.transData.transform
    (x0, y0), (x1, y1) = panel.transAxes.transform([(0, 0), (1, 1)])
    places = {
        id(p): ((x - x0) / (x1 - x0) * box[0], (y - y0) / (y1 - y0) * box[1])
        for p in points
        for x, y in [transform((p.seconds, p.value))]
    }
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in places.values()]
    for point in points:
        x, ends = places[id(point)][0], [transform((point.seconds, y))[1] for y in (point.low, point.high) if math.isfinite(y)]
        low, high = [(y - y0) / (y1 - y0) * box[1] for y in ends] or (0.0, 0.0)
        taken.append((x - 0.6, low, x + 0.6, high))
    for number, point in enumerate(order):
        name = shortened(point.cell, 0.62 * wide, LABEL)
        long, (x, y) = inches(name, LABEL) * 72, places[id(point)]
        spots = [
            (x + 4, y - 3.2),
            (x - 4 - long, y - 3.2),
            (x - long / 2, y + 3.5),
            (x - long / 2, y - 9.5),
            (x + 3, y + 2.5),
            (x + 3, y - 8.5),
        ]
        spots += [(x - 3 - long, y + 2.5), (x - 3 - long, y - 8.5)]
        costs = [_cover((u, v, u + long, v + 6.0), taken, box) for u, v in spots]
        least = min(costs)
        if least > 0 and number >= must:
            continue
        u, v = spots[costs.index(least)]
        taken.append((u, v, u + long, v + 6.0))
        panel.annotate(
            name,
            (u / box[0], v / box[1]),
            xycoords="axes fraction",
            fontsize=LABEL,
            ha="left",
            va="bottom",
            color=COLOURS["ink"],
            parse_math=False,
        )


def _cover(
    one: tuple[float, float, float, float], taken: Sequence[tuple[float, float, float, float]], box: tuple[float, float]
) -> float:
    """How much of a rectangle lies on others or outside of the panel."""
    left, low, right, high = one
    outside = max(0, -left) + max(0, right - box[0] - 4) + max(0, -low) + max(0, high - box[1] - 4)
    on = sum(max(0, min(right, r) - max(left, x)) * max(0, min(high, t) - max(low, b)) for x, b, r, t in taken)
    return on + 20 * outside
