"""The tables of a report: table.tex (booktabs, ready for a paper) and table.csv (one row per cell)."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from wanlab.plots.effect import headline

from ..spec import Study
from ..stats import Result
from .figures import selected
from .numbers import MINUS, by_metric, in_order, places, ranked, shown

HEIGHT = 530.0  # points of a page that a table may fill: \textheight of LaTeX's article, with some air
ROW, HEAD, LINE = 20.5, 27.0, 12.0  # points: a cell's two rows, a panel's head and rules, a line of the caption
PLACEBO = 10.0  # points: the row of a cell's placebos
GAP = 8.0  # points between columns
ARROWS = {"higher": r" $\uparrow$", "lower": r" $\downarrow$", "none": ""}
SPECIAL = {
    "\\": r"\textbackslash{}",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    MINUS: "$-$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "λ": r"$\lambda$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
}


def escape(text: str) -> str:
    """Text as LaTeX prints it. A letter that its usual fonts lack is named by its code, so that the file still compiles."""
    return "".join(SPECIAL.get(x, x if ord(x) < 0x180 or x in "–—‘’“”…" else rf"\texttt{{U+{ord(x):04X}}}") for x in text)


def tex(study: Study, results: Sequence[Result]) -> str:
    """table.tex: one table environment, or several under one number where a page cannot hold all; needs booktabs alone.

    Panels of metrics are as wide as `report.width` allows. Placebos of a cell are one row below it.
    """
    named = {r.cell for r in results}
    groups = by_metric([r for r in selected(study, results) if r.placebo_of not in named])
    results = [r for group in groups.values() for r in group]
    cells = in_order(study, list(dict.fromkeys(r.cell for r in results)))
    caption, title = _caption(study, groups), escape(study.title or study.name)
    room = HEIGHT - LINE * (2 + _points(caption) / (72.27 * study.report.width))
    lines = [f"% {study.name}: written by wanlab report; needs \\usepackage{{booktabs}}"]
    for number, blocks in enumerate(_pages(study, cells, groups, room)):
        label = "tab:" + escape(study.name).replace("\\", "")
        head = [rf"\caption{{{caption}}}", rf"\label{{{label}}}"]
        if number:
            head = [r"\addtocounter{table}{-1}", rf"\caption{{\textbf{{{title}}} (continued).}}"]
        body = "\n\\par\\vspace{1.2ex}\n".join(_panel(study, block.cells, cells, block.groups) for block in blocks)
        lines += [r"\begin{table}[t]", r"\centering", r"\footnotesize", rf"\setlength{{\tabcolsep}}{{{GAP / 2:g}pt}}"]
        lines += [*head, r"\par\vspace{1ex}", body, r"\end{table}"]
    return "\n".join([*lines, ""])


class _Block(NamedTuple):
    """One tabular: some cells under some metrics."""

    cells: Sequence[str]
    groups: dict[str, list[Result]]


def _pages(study: Study, cells: Sequence[str], groups: Mapping[str, list[Result]], room: float) -> list[list[_Block]]:
    """The tabulars of each table environment: as many metrics side by side as the width holds, cells as the height does."""
    high = {r.cell: ROW + (PLACEBO if r.placebos else 0) for group in groups.values() for r in group}
    rows = max(1, int((room - HEAD) / max(high.values(), default=ROW)))
    pages: list[list[_Block]] = []
    left = 0.0
    for panel in _panels(study, cells, groups):
        for start in range(0, len(cells), rows):
            block = _Block(cells[start : start + rows], panel)
            height = HEAD + sum(high[cell] for cell in block.cells)
            if height > left:
                pages.append([])
                left = room
            pages[-1].append(block)
            left -= height
    return pages


def _panels(study: Study, cells: Sequence[str], groups: Mapping[str, list[Result]]) -> Iterator[dict[str, list[Result]]]:
    """Metrics that fit side by side."""
    names = max((_points(_name(study, cell, cells)) for cell in cells), default=0.0)
    panel: dict[str, list[Result]] = {}
    width = names
    for name, group in groups.items():
        entries = [_entry(next((r for r in group if r.cell == cell), None), group) for cell in cells]
        texts = [_points(_head(group)), *(_points(value) for value, _ in entries)]
        column = GAP + max(*texts, *(0.94 * _points(below) for _, below in entries))
        if panel and width + column > 72.27 * study.report.width:
            yield panel
            panel, width = {}, names
        panel[name], width = group, width + column
    if panel:
        yield panel


def _points(text: str) -> float:
    """About how wide LaTeX sets a text at 8 points in Computer Modern."""
    plain = re.sub(r"\\rlap\{.*?\}\}|\\quad", "  ", text)
    plain = re.sub(r"\\[a-zA-Z]+ ?|[{}$]", "", plain)
    return sum(2.7 if x in ".,[]| il" else 7.2 if x in "-+=" else 4.35 for x in plain)


def _head(group: Sequence[Result]) -> str:
    return escape(headline(group[0].key)) + ARROWS[group[0].better]


def _name(study: Study, cell: str, cells: Sequence[str]) -> str:
    return (r"\quad " if study.cells[cell].pairs_with in cells else "") + escape(cell)


def _panel(study: Study, rows: Sequence[str], cells: Sequence[str], groups: dict[str, list[Result]]) -> str:
    """One tabular: of all `cells`, those in `rows`."""
    lines = [rf"\begin{{tabular}}{{@{{}}l{'r' * len(groups)}@{{}}}}", r"\toprule"]
    lines += [" & ".join(["", *(_head(group) for group in groups.values())]) + r" \\", r"\midrule"]
    for row, cell in enumerate(rows):
        first, second = [], []
        for group in groups.values():
            top, below = _entry(next((r for r in group if r.cell == cell), None), group)
            first.append(top)
            second.append(below)
        lines += [
            " & ".join([_name(study, cell, cells), *first]) + r" \\",
            " & ".join(["", *second]) + r" \\" + ("" if row == len(rows) - 1 else r"[0.3ex]"),
        ]
        beside = [_placebos(next((r for r in group if r.cell == cell), None), group) for group in groups.values()]
        if any(beside):
            lines.append(" & ".join([r"\quad {\scriptsize placebos}", *beside]) + r" \\[0.3ex]")
        if cell == study.baseline and row < len(rows) - 1:
            lines.append(r"\midrule")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _entry(result: Result | None, group: Sequence[Result]) -> tuple[str, str]:
    """The value, and below it the difference to the baseline (for the baseline: its own interval)."""
    if result is None or not math.isfinite(result.value):
        return "--", ""
    digits = places(group)
    best, second = ranked(group, digits)
    value = _tex_number(shown(result.value, digits))
    if result.cell in best:
        value = rf"\textbf{{{value}}}" if "$" not in value else rf"$\mathbf{{{value.strip('$')}}}$"
    elif result.cell in second:
        value = rf"\underline{{{value}}}"
    dagger = r"\rlap{$^\dagger$}" if result.significant else ""
    if result.verdict == "same":
        below = "$=$"
    elif math.isfinite(result.delta):
        numbers = [shown(x, digits, sign=x is result.delta) for x in (result.delta, result.delta_low, result.delta_high)]
        below = rf"{_tex_number(numbers[0])} [{_tex_number(numbers[1])}, {_tex_number(numbers[2])}]"
    else:
        below = f"[{_tex_number(shown(result.ci_low, digits))}, {_tex_number(shown(result.ci_high, digits))}]"
    return value + dagger, rf"{{\scriptsize {below}}}"


def _placebos(result: Result | None, group: Sequence[Result]) -> str:
    """The smallest and the largest difference that the placebos of a cell made."""
    if result is None or not result.placebos:
        return ""
    ends = [_tex_number(shown(x, places(group), sign=True)) for x in (min(result.placebos), max(result.placebos))]
    return rf"{{\scriptsize {ends[0]} to {ends[1]}}}"


def _tex_number(text: str) -> str:
    return f"${text.replace(MINUS, '-')}$" if text[0] in f"{MINUS}+" else text.replace("–", "--")


def _caption(study: Study, groups: Mapping[str, list[Result]]) -> str:
    counts = sorted({r.n for group in groups.values() for r in group if math.isfinite(r.value)})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]}--{counts[-1]}" if counts else "0"
    percent = f"{100 * study.stats.confidence:g}\\,\\%"
    seeds = f"{len(study.seeds)} seeds averaged within each" if len(study.seeds) > 1 else "one seed each"
    most = max((len(r.placebos) for group in groups.values() for r in group), default=0)
    placebos = f" Placebos: the range of differences of {most} cuts of equal size at random sites." if most else ""
    names = "; ".join(escape(name).replace("\\textbar{}", "\\textbar{}\\allowbreak{}") for name in groups if "[" in name)
    return (
        rf"\textbf{{{_sentence(study.title or study.name)}}} Mean over $n={n}$ (image, prompt) pairs, {seeds}. "
        f"First row: the {percent} interval; other rows: the paired difference to {escape(study.baseline)} with its "
        rf"{percent} interval. $\dagger$: the difference is significant (paired sign-flip permutation, for set distances "
        r"block jackknife; $p<0.05$ after Holm's correction over "
        + ("all cells of a metric" if study.stats.family == "metric" else "all cells and metrics")
        + "). "
        r"Best in bold, second underlined." + placebos + (f" Protocols: {names}." if names else "")
    )


def _sentence(title: str) -> str:
    return escape(title) + ("" if title.rstrip()[-1:] in (".", "?", "!", "…") else ".")


def wide_csv(study: Study, results: Sequence[Result]) -> str:
    """table.csv: a row per cell; for each metric value, interval, difference with interval, p-values, effect sizes, counts.

    placebo_rank is empty for a cell without placebos.
    """
    groups = by_metric(results)
    fields: tuple[str, ...] = ("value", "ci_low", "ci_high", "delta", "delta_low", "delta_high", "p", "p_adjusted", "n", "pairs")
    fields = (*fields, "dz", "rank_biserial", "placebo_rank")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["cell", *(f"{name} {field}" for name in groups for field in fields)])
    for cell in in_order(study, list(dict.fromkeys(r.cell for r in results))):
        row: list[str] = [cell]
        for group in groups.values():
            result = next(r for r in group if r.cell == cell)
            row += [_plain(getattr(result, field)) if field != "placebo_rank" or result.placebos else "" for field in fields]
        writer.writerow(row)
    return stream.getvalue()


def _plain(value: float) -> str:
    return f"{value:.8g}" if math.isfinite(value) else ""
