"""Heat map of a grid with two axes: one panel per metric, one tile per cell, coloured by its difference to the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .effect import Effect, head, words_of
from .style import COLOURS, sheet, styled
from .text import alike, inches, short, shortened, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBER, SIGN = 5.5, {"worse": "▼", "better": "▲", "changed": "◆"}
BAR, FOOT, HEAD = 0.06, 0.3, 7.0  # inches of the colour bar and of the legend, points of a head
TALL, WIDE, NARROW = 0.17, 0.36, 0.09  # inches of a tile: its height, what a number needs, the least

Place = tuple[str, str]


def heatmap(
    grid: Mapping[Place, Sequence[Effect]],
    rows: str,
    columns: str,
    width: float = 5.5,
    baseline: str = "baseline",
    label: str = "",
) -> Figure:
    """Tiles of differences. Blue is better, orange worse (for a metric without a direction: green more, purple less); a
    tile's number (its sign alone, where there is no room) says the same without colour; a significant one is marked.

    Args:
        grid: (row, column) -> the effects of that cell, one per metric; in the order in which rows and columns are shown.
            Places that no cell has are hatched.
        rows, columns: names of the two axes.
        width: of the figure in inches, exact.
        baseline: the name of what zero means.
        label: what all cells have in common, said at the foot.

    Raises:
        ValueError: no effects.
    """
    metrics = list(dict.fromkeys(effect.metric for effects in grid.values() for effect in effects))
    if not metrics:
        raise ValueError("a heat map needs at least one effect")
    names = [list(dict.fromkeys(place[i] for place in grid)) for i in (0, 1)]
    left = min(max(inches(name, 6.5) for name in names[0]) + 0.1, 0.3 * width) + 0.14
    beside, wide = _beside(len(metrics), len(names[1]), width - left)
    tilted = max(inches(name, 6) for name in names[1]) > wide / len(names[1]) - 0.03
    below = (min(max(inches(name, 6) for name in names[1]), 0.8) if tilted else 0.1) + 0.22
    lines = max(len(wrapped(head(m, "higher"), wide, HEAD, bold=True)) for m in metrics)
    over, tall, count = 0.14 * lines + BAR + 0.16, TALL * len(names[0]), math.ceil(len(metrics) / beside)
    height = count * (over + tall + below) + FOOT
    with styled():
        figure = sheet(width, height)
        for number, metric in enumerate(metrics):
            row, column = divmod(number, beside)
            x, y = left + column * (wide + 0.14), height - row * (over + tall + below) - over - tall
            panel = figure.add_axes((x / width, y / height, wide / width, tall / height))
            bar = figure.add_axes((x / width, (y + tall + 0.02) / height, wide / width, BAR / height))
            found = {place: effect for place, effects in grid.items() for effect in effects if effect.metric == metric}
            _panel(panel, bar, found, names, wide, tall)
            title = wrapped(head(metric, next(iter(found.values())).better), wide, HEAD, bold=True)
            bar.set_title("\n".join(title), pad=9, parse_math=False, linespacing=1.15)
            labels = [shortened(name, left - 0.22, 6.5) for name in names[0]]
            panel.set_yticks(range(len(names[0])), labels if column == 0 else [""] * len(labels), parse_math=False)
            rotated = {"rotation": 90} if tilted else {}
            under = [shortened(name, 0.8, 6) for name in names[1]]
            panel.set_xticks(range(len(names[1])), under, parse_math=False, **rotated)
            panel.set_xlabel(columns.replace("_", " "), labelpad=2, parse_math=False)
            if column == 0:
                panel.text(
                    -(left - 0.05) / wide,
                    0.5,
                    rows.replace("_", " "),
                    transform=panel.transAxes,
                    rotation=90,
                    va="center",
                    parse_math=False,
                )
        _legend(figure, [effect for effects in grid.values() for effect in effects], baseline, label)
    return figure


def _beside(metrics: int, columns: int, room: float) -> tuple[int, float]:
    """Panels beside each other, as many as hold numbers, else as hold tiles; inches of a panel."""
    for least in (WIDE, NARROW):
        for beside in range(min(metrics, 6), 0, -1):
            wide = (room - 0.06 - 0.14 * (beside - 1)) / beside
            if wide / columns >= least and wide >= 0.9:
                return beside, min(wide, 0.75 * columns + 0.3) if metrics > 1 else min(wide, 0.9 * columns)
    return 1, room - 0.06


def colour_map(better: str):
    """Colours from the lowest to the highest: of differences orange and blue where a direction is better, else purple and
    green; told apart with any colour vision."""
    from matplotlib.colors import LinearSegmentedColormap

    if better == "apart":  # no difference: how far from the baseline
        return LinearSegmentedColormap.from_list("apart", ["#FFFFFF", COLOURS["apart"]])
    ends = {"higher": ("worse", "better"), "lower": ("better", "worse")}.get(better)
    low, high = (COLOURS[end] for end in ends) if ends else ("#8A4A86", "#00785A")
    return LinearSegmentedColormap.from_list(f"difference-{better}", [low, "#FFFFFF", high])


def _panel(panel: Axes, bar: Axes, found: Mapping[Place, Effect], names: Sequence[list[str]], wide: float, tall: float) -> None:
    """One metric."""
    import numpy as np
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    shape = (len(names[0]), len(names[1]))
    values = np.full(shape, np.nan)
    for (row, column), effect in found.items():
        values[names[0].index(row), names[1].index(column)] = effect.delta
    first, known = next(iter(found.values())), np.abs(values[np.isfinite(values)])
    limit = float(known.max()) if known.size and known.max() > 0 else 1.0
    low = 0.0 if first.apart and known.size and values[np.isfinite(values)].min() >= 0 else -limit
    colours = colour_map("apart" if low == 0 else first.better)
    image = panel.imshow(values, cmap=colours, norm=Normalize(low, limit), aspect="auto")
    panel.set_xticks(np.arange(shape[1] - 1) + 0.5, minor=True)
    panel.set_yticks(np.arange(shape[0] - 1) + 0.5, minor=True)
    panel.grid(which="minor", color="white", linewidth=0.8)
    panel.tick_params(which="both", length=0)
    panel.spines[:].set_visible(False)
    for row, column in np.argwhere(~np.isfinite(values)):
        panel.add_patch(
            Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="#EEEEEE", edgecolor="#BBBBBB", hatch="////", linewidth=0)
        )
    for (row, column), effect in found.items():
        if effect.known:
            _tile(panel, effect, names[0].index(row), names[1].index(column), wide / shape[1], limit)
    ticks = bar.figure.colorbar(image, cax=bar, orientation="horizontal", ticks=[-limit, 0, limit] if low else [0, limit])
    ticks.ax.xaxis.set_ticks_position("top")
    ticks.ax.set_xticklabels([*([short(-limit)] if low else []), "0", short(limit)], fontsize=5.5)
    for label, side in zip(ticks.ax.get_xticklabels(), ("left", "center", "right") if low else ("left", "right")):
        label.set_horizontalalignment(side)
    ticks.ax.tick_params(length=0, pad=1)
    ticks.outline.set_visible(False)


def _tile(panel: Axes, effect: Effect, row: int, column: int, room: float, limit: float) -> None:
    """What a tile of `room` inches says without its colour; the longest numbers are written a little smaller."""
    dark = abs(effect.delta) > 0.62 * limit
    mark, sign = SIGN.get(effect.kind, ""), alike(effect.delta, limit, sign=not effect.apart)
    if mark and sign == "0":        # a small difference that was found is not none
        sign = short(effect.delta, sign=True, digits=1)
    text, size = (f"{sign}{mark}", NUMBER) if room >= WIDE else (mark, NUMBER) if mark else ("·" if effect.apart else sign[0], 4.5)
    size *= min(1, (room - 0.02) / inches(text, size, effect.significant))
    ink = "white" if dark else COLOURS["ink"] if effect.significant else "#444444"
    weight = "bold" if effect.significant else "normal"
    panel.text(column, row, text, ha="center", va="center_baseline", fontsize=size, color=ink, fontweight=weight)


def _legend(figure: Figure, effects: Sequence[Effect], baseline: str, label: str) -> None:
    present = [f"{mark} {kind}" for kind, mark in SIGN.items() if any(e.kind == kind for e in effects)]
    common = f"{shortened(label, 1.5, 6.5)}: " if label else ""
    marked = f"; significantly {'  '.join(present)}" if present else ""
    text = f"{common}{words_of(effects)} {shortened(baseline, 1.2, 6.5)}{marked}"
    text = "\n".join(wrapped(text, figure.get_figwidth() - 0.1, 6.5))
    figure.text(0.5, 0.04 / figure.get_figheight(), text, ha="center", va="bottom", fontsize=6.5, parse_math=False)
