"""Forest plot: for each metric, the paired difference of every cell to the baseline with its interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .effect import Effect, head, words_of
from .panels import fitting, placed
from .style import COLOURS, MARKERS, PAGE, styled
from .text import inches, short, shortened, tick, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME, HEAD = 6.5, 7.0  # points
ROW, TITLE, TICKS, LEGEND = 0.135, 0.125, 0.26, 0.42  # inches
FAR = 8.0  # a cell that reaches so many times as far as the next one is cut off at the edge, with its number
WORDS = {"worse": "worse", "better": "better", "changed": "changed", "unclear": "not significant", "apart": "value"}


def forest(effects: Sequence[Effect], width: float = 5.5, baseline: str = "baseline", confidence: float = 0.95) -> Figure:
    """Panels of differences, one per metric, cells downwards in the order given; grey ticks are what placebos did.

    Args:
        effects: all cells of all metrics (those without a finite delta leave a gap).
        width: of the figure in inches, exact. The height follows from what is shown; see `pages`.
        baseline: the name of what zero means.
        confidence: of the intervals.

    Raises:
        ValueError: no effects.
    """
    if not effects:
        raise ValueError("a forest plot needs at least one effect")
    metrics, cells = list(dict.fromkeys(e.metric for e in effects)), list(dict.fromkeys(e.cell for e in effects))
    left, columns, wide = _layout(metrics, cells, width)
    heads = {metric: _title(next(e for e in effects if e.metric == metric), wide) for metric in metrics}
    lines = max(len(rows) for rows in heads.values())
    tall, over = ROW * len(cells), TITLE * lines + 0.05
    sizes = {"left": left, "wide": wide, "gap": _gap(width), "over": over, "tall": tall, "below": TICKS, "foot": LEGEND}
    with styled():
        figure, places = placed(len(metrics), columns, width, **sizes)
        for number, (panel, metric) in enumerate(zip(places, metrics)):
            _panel(panel, [e for e in effects if e.metric == metric], cells, wide)
            names = [shortened(cell, left - 0.08, NAME) for cell in cells] if number % columns == 0 else []
            panel.set_yticks(range(len(cells)) if names else [], names, parse_math=False)
            panel.set_title("\n".join(heads[metric]), pad=3, parse_math=False, linespacing=1.15)
        _legend(figure, effects, baseline, confidence)
    return figure


def pages(effects: Sequence[Effect], width: float = 5.5, page: float = PAGE) -> Iterator[list[Effect]]:
    """The effects of each figure where one would be higher than `page` inches: metrics are divided first, then cells."""
    metrics, cells = list(dict.fromkeys(e.metric for e in effects)), list(dict.fromkeys(e.cell for e in effects))
    if not metrics:
        return
    of: dict[str, list[Effect]] = {}
    for effect in effects:
        of.setdefault(effect.cell, []).append(effect)
    _, columns, _ = _layout(metrics, cells, width)
    most = max(4, int((page - LEGEND - TICKS - 2 * TITLE) / ROW))
    for start in range(0, len(cells), most):
        part = cells[start : start + most]
        rows = max(1, int((page - LEGEND) / (2 * TITLE + 0.05 + ROW * len(part) + TICKS)))
        for first in range(0, len(metrics), rows * columns):
            some = metrics[first : first + rows * columns]
            yield [e for cell in part for e in of[cell] if e.metric in some]


def _gap(width: float) -> float:
    return 0.13 if width > 4 else 0.1


def _layout(metrics: Sequence[str], cells: Sequence[str], width: float) -> tuple[float, int, float]:
    """Inches for the names, panels beside each other, inches of a panel."""
    left = min(max(inches(cell, NAME) for cell in cells) + 0.1, 0.36 * width)
    return left, *fitting(len(metrics), width, left, _gap(width), 1.02, right=0.06)


def _title(effect: Effect, wide: float) -> list[str]:
    return wrapped(head(effect.metric, effect.better), wide + 0.08, HEAD, bold=True)


def _panel(panel: Axes, effects: Sequence[Effect], cells: Sequence[str], wide: float) -> None:
    """One metric."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for row in range(0, len(cells), 2):
        panel.axhspan(row - 0.5, row + 0.5, color="#F3F3F3", linewidth=0, zorder=0)
    if not all(effect.apart for effect in effects):
        panel.axvline(0.0, color=COLOURS["ink"], linewidth=0.6, zorder=1)
    low, high = _range(effects)
    for effect in effects:
        if effect.known:
            _line(panel, effect, cells.index(effect.cell), low, high)
    panel.set_xlim(low, high)
    panel.set_ylim(len(cells) - 0.5, -0.5)
    panel.xaxis.set_major_locator(MaxNLocator(3 if wide > 0.95 else 2, steps=[1, 2, 5, 10]))
    panel.xaxis.set_major_formatter(FuncFormatter(tick))
    panel.spines["left"].set_visible(False)


def _range(effects: Sequence[Effect]) -> tuple[float, float]:
    """What a panel shows: zero (of differences) and all intervals, but not what lies far beyond all others."""
    reach = {id(e): max(abs(x) for x in (e.delta, e.low, e.high) if math.isfinite(x)) for e in effects if e.known}
    ordered = sorted(reach.values(), reverse=True)
    cut = math.inf
    for place in range(max(1, len(ordered) // 5)):
        if place + 1 < len(ordered) and ordered[place + 1] > 0 and ordered[place] > FAR * ordered[place + 1]:
            cut = 1.5 * ordered[place + 1]
    bounds = [] if effects and all(effect.apart and effect.known for effect in effects) else [0.0]
    for effect in effects:
        bounds += [x for x in (effect.delta, effect.low, effect.high, *effect.placebos) if math.isfinite(x) and abs(x) <= cut]
        bounds += [math.copysign(cut, effect.delta)] if effect.known and abs(effect.delta) > cut else []
    low, high = min(bounds), max(bounds)
    room = 0.09 * (high - low) or 0.5
    return low - room, high + room


def _line(panel: Axes, effect: Effect, row: int, low: float, high: float) -> None:
    """One cell: what its placebos did, its interval, its difference."""
    colour = COLOURS[effect.kind]
    inside = [x for x in effect.placebos if low <= x <= high]
    panel.plot(inside, [row] * len(inside), "|", color="#999999", markersize=5.5, markeredgewidth=0.7, zorder=1.5)
    if not low <= effect.delta <= high:
        right = effect.delta > high
        panel.plot(
            [high if right else low], [row], marker=">" if right else "<", color=colour, markersize=4, clip_on=False, zorder=3
        )
        place, side = (high - 0.05 * (high - low), "right") if right else (low + 0.05 * (high - low), "left")
        text = short(effect.delta, sign=not effect.apart)
        panel.text(place, row, text, ha=side, va="center_baseline", fontsize=5.5, color=colour, zorder=3)
        return
    if math.isfinite(effect.low) and math.isfinite(effect.high):
        ends = [max(effect.low, low), min(effect.high, high)]
        panel.plot(ends, [row, row], color=colour, linewidth=1.1, solid_capstyle="butt", zorder=2)
    panel.plot([effect.delta], [row], marker=MARKERS[effect.kind], markersize=3.8, zorder=3, **_face(effect.kind))


def _face(kind: str) -> dict[str, object]:
    face = "white" if kind == "unclear" else COLOURS[kind]
    return {"color": COLOURS[kind], "markerfacecolor": face, "markeredgewidth": 0.8}


def _legend(figure: Figure, effects: Sequence[Effect], baseline: str, confidence: float) -> None:
    from matplotlib.lines import Line2D

    present = [kind for kind in WORDS if any(e.kind == kind and e.known for e in effects)]
    handles = [Line2D([], [], marker=MARKERS[kind], linewidth=1.1, markersize=3.8, **_face(kind)) for kind in present]
    words = [WORDS[kind] for kind in present]
    if any(effect.placebos for effect in effects):
        handles.append(Line2D([], [], marker="|", color="#999999", linestyle="none", markersize=5.5, markeredgewidth=0.7))
        words.append("placebo")
    figure.legend(
        handles,
        words,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
        borderaxespad=0.1,
        ncols=len(words) or 1,
        title=f"{words_of(effects)} {shortened(baseline, 1.2, 6.5)}, {100 * confidence:g} % interval",
        title_fontsize=6.5,
        handletextpad=0.5,
        columnspacing=1.2,
        handlelength=1.6,
    )
