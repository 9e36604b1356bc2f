"""The figures of a report: which ones a study has something to show in, and their files (pdf, png, svg)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanlab.measure import key_of

from ..files import within, write
from ..spec import Study
from ..stats import Result
from ..store import CellFolder
from .cost import seconds_per_sample
from .series import series_of, window_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from wanlab.plots import Effect

Table = Mapping[str, Sequence[Result]]  # cell -> its results, one per metric
CROWDED = 60  # cells beyond which those of a heat map are left out of the forest plot
WORTH = 1.25  # dearest over cheapest cell from which quality against cost is drawn without being asked for


@dataclass(frozen=True)
class Drawn:
    """A figure in report/figures: the stem of its files, a heading and a sentence for the page."""

    stem: str
    title: str
    words: str


def draw(study: Study, cells: Mapping[str, CellFolder], results: Sequence[Result], folder: Path) -> list[Drawn]:
    """Write all figures but the film strips into `folder`; what was drawn, in the order of the page."""
    wanted = study.report.figures
    kinds: dict[str, Callable[..., Iterator[tuple[str, Figure, str, str]]]] = {
        "forest": _forest,
        "heatmap": _heatmaps,
        "windows": _windows,
        "cost": _cost,
    }
    shown = selected(study, results)
    table: dict[str, list[Result]] = {name: [] for name in cells}
    for result in shown:
        table[result.cell].append(result)
    drawn = []
    for kind, make in kinds.items():
        if wanted is None or kind in wanted:
            for stem, figure, title, words in make(study, cells, table):
                _save(figure, folder, stem)
                drawn.append(Drawn(stem, title, words))
    return drawn


def selected(study: Study, results: Sequence[Result]) -> list[Result]:
    """The results of the metrics that tables and figures show (`report.metrics`, by short or full name)."""
    wanted = study.report.metrics
    keys = {key_of(name) for name in wanted or ()}
    return [r for r in results if wanted is None or r.key in keys or r.metric in wanted]


def effect(result: Result) -> Effect:
    """A result as figures take it."""
    from wanlab.plots import Effect

    return Effect(
        result.cell,
        result.key,
        *result.change,
        result.significant,
        result.better,
        result.placebos,
        result.from_baseline,
    )


def _save(figure: Figure, folder: Path, stem: str, kinds: Sequence[str] = ("pdf", "png", "svg")) -> None:
    from wanlab.plots import save

    for kind in kinds:
        write(within(folder, f"{stem}.{kind}"), lambda temporary, kind=kind: save(figure, temporary, kind))


def _numbered(stem: str, figures: Sequence[Figure], before: int = 0) -> Iterator[tuple[str, Figure]]:
    """Figures with the stems of their files, after so many `before` them; what a study calls its axes is in none."""
    for number, figure in enumerate(figures, before + 1):
        yield stem if number == 1 else f"{stem}-{number}", figure


def _paged(metrics: Sequence[str], make: Callable[[Sequence[str]], Figure]) -> list[Figure]:
    """`make` for all metrics, or for some at a time where the figure would be higher than a page."""
    from wanlab.plots.style import PAGE

    whole = make(metrics)
    if whole.get_figheight() <= PAGE or len(metrics) == 1:
        return [whole]
    size = max(1, int(len(metrics) * PAGE / whole.get_figheight()))
    return [make(metrics[start : start + size]) for start in range(0, len(metrics), size)]


def _metrics(table: Table) -> list[str]:
    return list(dict.fromkeys(r.key for rows in table.values() for r in rows if math.isfinite(r.change[0])))


def _forest(study: Study, cells: Mapping[str, CellFolder], table: Table) -> Iterator[tuple[str, Figure, str, str]]:
    """Every cell but the baseline and the placebos of cells shown."""
    from wanlab.plots.forest import forest, pages

    metrics, crowd = _metrics(table), set()
    if len(table) > CROWDED:
        crowd = {name for group in _grids(study, table).values() for name in group}
    rows = [
        effect(r)
        for name, results in table.items()
        for r in results
        if name != study.baseline and name not in crowd and r.placebo_of not in table and r.key in metrics
    ]
    figures = [forest(page, study.report.width, study.baseline, study.stats.confidence) for page in pages(rows, study.report.width)]
    words = f"Paired differences to {study.baseline}, one panel per metric; the arrow says which direction is better."
    if any(one.placebos for one in rows):
        words += " Grey ticks are what the same cut did at random sites."
    for stem, figure in _numbered("forest", figures):
        yield stem, figure, "Effects" if stem == "forest" else "", words if stem == "forest" else ""


def _grids(study: Study, table: Table) -> dict[tuple[str, ...], list[str]]:
    """Cells by the names of their axes, where these are two or more."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in table:
        axes = tuple(study.cells[name].axes)
        if len(axes) >= 2:
            groups.setdefault(axes, []).append(name)
    return groups


def _heatmaps(study: Study, cells: Mapping[str, CellFolder], table: Table) -> Iterator[tuple[str, Figure, str, str]]:
    """One heat map for each pair of axes; further axes give one for each of their values."""
    from wanlab.plots.heatmap import heatmap

    metrics, drawn = _metrics(table), 0
    for axes, group in _grids(study, table).items():
        values = {axis: list(dict.fromkeys(str(study.cells[name].axes[axis]) for name in group)) for axis in axes}
        if sum(len(found) > 1 for found in values.values()) < 2:
            continue
        rows, columns = _two_axes(values, study, group)
        facets: dict[tuple[str, ...], list[str]] = {}
        for name in group:
            rest = tuple(f"{axis} {study.cells[name].axes[axis]}" for axis in axes if axis not in (rows, columns))
            facets.setdefault(rest, []).append(name)
        for facet, names in facets.items():
            places = [(row, column) for row in values[rows] for column in values[columns]]
            where = {(str(study.cells[name].axes[rows]), str(study.cells[name].axes[columns])): name for name in names}
            grid = {place: [effect(r) for r in table[where[place]]] if place in where else [] for place in places}

            label = ", ".join(facet)

            def make(some: Sequence[str], grid: Any = grid, rows: str = rows, columns: str = columns, label: str = label) -> Figure:
                shown = {place: [one for one in effects if one.metric in some] for place, effects in grid.items()}
                return heatmap(shown, rows, columns, study.report.width, study.baseline, label)

            held = {one.metric for effects in grid.values() for one in effects}
            known = [metric for metric in metrics if metric in held]
            heading = f"{rows} × {columns}" + (f" ({label})" if label else ""), f"Differences to {study.baseline}, a tile per cell."
            pages = _paged(known, make) if known else []
            for stem, figure in _numbered("heatmap", pages, drawn):
                yield stem, figure, *(heading if figure is pages[0] else ("", ""))
            drawn += len(pages)


def _two_axes(values: Mapping[str, Sequence[str]], study: Study, group: Sequence[str]) -> tuple[str, str]:
    """Which axes are rows and columns: the two with most values; windows of steps run to the right, long names down."""
    first, second = sorted(sorted(values, key=lambda axis: -len(values[axis]))[:2], key=list(values).index)
    cells = [study.cells[name] for name in group]
    windowed = [axis for axis in (first, second) if all(str(window_of(cell)) == str(cell.axes[axis]) for cell in cells)]
    if windowed:
        return (first if windowed[0] == second else second), windowed[0]
    longest = {axis: max(map(len, values[axis])) for axis in (first, second)}
    return (first, second) if longest[first] >= longest[second] else (second, first)


def span_of(window: Any, steps: int) -> tuple[float, float] | None:
    """First step and the one after the last of a window; of noise levels: highest and lowest, negative to tell them apart.

    None where the steps are not next to each other.
    """
    from wanlab.core.index import PositionError, index, positions

    try:
        found = positions(index(window, "steps") or (), steps, "steps")
    except PositionError:
        levels = [float(level) for level in str(window).split(":") if level]
        return (-max(levels), -min(levels)) if len(levels) == 2 else None
    return (found[0], found[-1] + 1) if found[-1] - found[0] + 1 == len(found) else None


def _windows(study: Study, cells: Mapping[str, CellFolder], table: Table) -> Iterator[tuple[str, Figure, str, str]]:
    """Curves over the windows of steps of cells that differ in nothing else."""
    from wanlab.plots.windows import Window, windows

    known, levels = _spans(study, cells, table)
    if len(set(known.values())) < 2 or not _metrics(table):
        return
    curves = {
        title: [(name, tuple(map(abs, known[name])) if name in known else (None, None)) for name in names]
        for title, names in series_of(study, known, [name for name in table if name != study.baseline]).items()
    }
    unit = "noise level" if levels else "denoising step"

    def make(metrics: Sequence[str]) -> Figure:
        found = {
            title: [Window(effect(r), *span) for name, span in curve for r in table[name] if r.key in metrics]
            for title, curve in curves.items()
        }
        return windows(found, study.report.width, unit, study.baseline, study.stats.confidence)

    words = f"What the cut does, by the {unit}s in which it is made; a bar spans the window, the interval stands in its middle."
    for stem, figure in _numbered("windows", _paged(_metrics(table), make)):
        yield stem, figure, "When it matters" if stem == "windows" else "", words if stem == "windows" else ""


def _spans(study: Study, cells: Mapping[str, CellFolder], table: Table) -> tuple[dict[str, tuple[float, float]], bool]:
    """The cells that act in a window of steps, with its ends; whether these are noise levels, which share no axis with steps."""
    spans: dict[str, tuple[float, float]] = {}
    for name in table:
        window = window_of(study.cells[name])
        if window is not None and study.cells[name].placebo is None:
            span = span_of(window, cells[name].description()["sampler"]["steps"])
            spans |= {name: span} if span is not None else {}
    steps = {name: span for name, span in spans.items() if span[1] > 0}
    return steps or spans, not steps


def _cost(study: Study, cells: Mapping[str, CellFolder], table: Table) -> Iterator[tuple[str, Figure, str, str]]:
    """Seconds per sample against each metric, where cells differ in cost by design."""
    from wanlab.plots.cost import Point, cost

    seconds = seconds_per_sample(cells)
    known = [s for s in seconds.values() if s > 0]
    asked = study.report.figures is not None
    samplers = {str(cells[name].description()["sampler"]) for name in table}
    if len(known) < 2 or not (asked or (len(samplers) > 1 and max(known) > WORTH * min(known))):
        return
    points = [
        Point(name, r.key, seconds[name], r.value, r.ci_low, r.ci_high, r.better)
        for name, results in table.items()
        for r in results
        if math.isfinite(r.value) and seconds[name] > 0 and r.placebo_of is None
    ]
    metrics = list(dict.fromkeys(point.metric for point in points))

    def make(some: Sequence[str]) -> Figure:
        return cost([p for p in points if p.metric in some], study.report.width, study.baseline, study.stats.confidence)

    words = "Seconds that one sample of a cell takes by itself, nothing shared, on the device of this run; metrics not counted."
    for stem, figure in _numbered("cost", _paged(metrics, make) if metrics else []):
        yield stem, figure, "Quality against cost" if stem == "cost" else "", words if stem == "cost" else ""


def strips(
    study: Study, clips: Mapping[str, Mapping[str, Path]], prompts: Mapping[str, str], folder: Path, order: Sequence[str]
) -> None:
    """figures/strip-NNNN.pdf and .png for each shown sample: of the clips named in `order` as many as a page holds."""
    from wanlab.data.folder import read_video
    from wanlab.plots import strip
    from wanlab.plots.strip import fitting

    if study.report.figures is not None and "strips" not in study.report.figures:
        return
    for sample, files in clips.items():
        names = [name for name in order if name in files]
        names = names[: fitting(names, study.report.width)]
        videos = {name: read_video(files[name]).movedim(1, -1).numpy() for name in names}
        figure = strip(videos, study.report.width, f"“{prompts[sample]}”" if prompts.get(sample) else "")
        _save(figure, folder, f"strip-{sample}", ("pdf", "png"))
