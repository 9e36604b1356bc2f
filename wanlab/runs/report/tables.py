"""The tables of a report: table.tex (booktabs, ready for a paper) and table.csv (one row per cell)."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from wanlab.plots.effect import headline
from wanlab.plots.text import MINUS

from ..cautions import from_baseline
from ..spec import Study
from ..stats import Result
from .figures import selected
from .numbers import Column, columns, in_order, shown, without_placebos

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
    found = columns(without_placebos(selected(study, results)))
    cells = in_order(study, [cell for column in found for cell in column.by_cell])
    caption, title = _caption(study, found), escape(study.title or study.name)
    room = HEIGHT - LINE * (2 + _points(caption) / (72.27 * study.report.width))
    lines = [f"% {study.name}: written by wanlab report; needs \\usepackage{{booktabs}}"]
    for number, blocks in enumerate(_pages(study, cells, found, room)):
        label = "tab:" + escape(study.name).replace("\\", "")
        head = [rf"\caption{{{caption}}}", rf"\label{{{label}}}"]
        if number:
            head = [r"\addtocounter{table}{-1}", rf"\caption{{\textbf{{{title}}} (continued).}}"]
        body = "\n\\par\\vspace{1.2ex}\n".join(_panel(study, block, cells) for block in blocks)
        lines += [r"\begin{table}[t]", r"\centering", r"\footnotesize", rf"\setlength{{\tabcolsep}}{{{GAP / 2:g}pt}}"]
        lines += [*head, r"\par\vspace{1ex}", body, r"\end{table}"]
    return "\n".join([*lines, ""])


class _Block(NamedTuple):
    """One tabular: some cells under some metrics."""

    cells: Sequence[str]
    columns: Sequence[Column]


def _pages(study: Study, cells: Mapping[str, int], columns: Sequence[Column], room: float) -> list[list[_Block]]:
    """The tabulars of each table environment: as many metrics side by side as the width holds, cells as the height does."""
    beside = {r.cell for column in columns for r in column.by_cell.values() if r.placebos}
    high = {cell: ROW + (PLACEBO if cell in beside else 0) for cell in cells}
    rows, names = max(1, int((room - HEAD) / max(high.values(), default=ROW))), list(cells)
    pages: list[list[_Block]] = []
    left = 0.0
    for panel in _panels(study, cells, columns):
        for start in range(0, len(names), rows):
            block = _Block(names[start : start + rows], panel)
            height = HEAD + sum(high[cell] for cell in block.cells)
            if height > left:
                pages.append([])
                left = room
            pages[-1].append(block)
            left -= height
    return pages


def _panels(study: Study, cells: Mapping[str, int], columns: Sequence[Column]) -> Iterator[list[Column]]:
    """Metrics that fit side by side."""
    names = max((_points(_name(cell, depth)) for cell, depth in cells.items()), default=0.0)
    panel: list[Column] = []
    width = names
    for column in columns:
        entries = [_entry(cell, column) for cell in cells]
        texts = [_points(_head(column)), *(_points(value) for value, _ in entries)]
        wide = GAP + max(*texts, *(0.94 * _points(below) for _, below in entries))
        if panel and width + wide > 72.27 * study.report.width:
            yield panel
            panel, width = [], names
        panel, width = [*panel, column], width + wide
    if panel:
        yield panel


def _points(text: str) -> float:
    """About how wide LaTeX sets a text at 8 points in Computer Modern."""
    plain = re.sub(r"\\rlap\{.*?\}\}|\\quad", "  ", text)
    plain = re.sub(r"\\[a-zA-Z]+ ?|[{}$]", "", plain)
    return sum(2.7 if x in ".,[]| il" else 7.2 if x in "-+=" else 4.35 for x in plain)


def _head(column: Column) -> str:
    return escape(headline(column.key)) + ARROWS[column.better]


def _name(cell: str, depth: int) -> str:
    return r"\quad " * depth + escape(cell)


def _panel(study: Study, block: _Block, cells: Mapping[str, int]) -> str:
    """One tabular."""
    lines = [rf"\begin{{tabular}}{{@{{}}l{'r' * len(block.columns)}@{{}}}}", r"\toprule"]
    lines += [" & ".join(["", *map(_head, block.columns)]) + r" \\", r"\midrule"]
    for row, cell in enumerate(block.cells):
        first, second = zip(*(_entry(cell, column) for column in block.columns))
        last = row == len(block.cells) - 1
        lines += [
            " & ".join([_name(cell, cells[cell]), *first]) + r" \\",
            " & ".join(["", *second]) + r" \\" + ("" if last else r"[0.3ex]"),
        ]
        beside = [_placebos(cell, column) for column in block.columns]
        if any(beside):
            lines.append(" & ".join([r"\quad {\scriptsize placebos}", *beside]) + r" \\[0.3ex]")
        if cell == study.baseline and not last:
            lines.append(r"\midrule")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _entry(cell: str, column: Column) -> tuple[str, str]:
    """The value, and below it the difference to the baseline (for the baseline: its own interval)."""
    result, digits = column.by_cell.get(cell), column.digits
    if result is None or not math.isfinite(result.value):
        return "--", ""
    value = _tex_number(shown(result.value, digits))
    if cell in column.best:
        value = rf"\textbf{{{value}}}" if "$" not in value else rf"$\mathbf{{{value.strip('$')}}}$"
    elif cell in column.second:
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


def _placebos(cell: str, column: Column) -> str:
    """The smallest and the largest of what the placebos of a cell did."""
    result = column.by_cell.get(cell)
    if result is None or not result.placebos:
        return ""
    signed, ends = not result.from_baseline, (min(result.placebos), max(result.placebos))
    low, high = (_tex_number(shown(end, column.digits, sign=signed)) for end in ends)
    return rf"{{\scriptsize {low} to {high}}}"


def _tex_number(text: str) -> str:
    return f"${text.replace(MINUS, '-')}$" if text[0] in f"{MINUS}+" else text.replace("–", "--")


def _caption(study: Study, columns: Sequence[Column]) -> str:
    results = [r for column in columns for r in column.by_cell.values()]
    counts = sorted({r.n for r in results if math.isfinite(r.value)})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]}--{counts[-1]}" if counts else "0"
    percent = f"{100 * study.stats.confidence:g}\\,\\%"
    seeds = f"{len(study.seeds)} seeds averaged within each" if len(study.seeds) > 1 else "one seed each"
    most = max((len(r.placebos) for r in results), default=0)
    placebos = f" Placebos: the range of differences of {most} cuts of equal size at random sites." if most else ""
    said = from_baseline(study, results)
    apart = f" {escape(said)}" if said else ""
    compared = (
        f"First row: the {percent} interval; other rows: the paired difference to {escape(study.baseline)} with its "
        rf"{percent} interval. $\dagger$: the difference is significant (paired sign-flip permutation, for set distances "
        r"block jackknife; $p<0.05$ after Holm's correction over "
        + f"{escape(study.stats.corrected_over)}). "
        "Best in bold, second underlined."
    )
    if said and all(r.from_baseline for r in results):
        compared = f"With {percent} intervals."
    full = [escape(column.metric) for column in columns if "[" in column.metric]
    names = "; ".join(name.replace("\\textbar{}", "\\textbar{}\\allowbreak{}") for name in full)
    return (
        rf"\textbf{{{_sentence(study.title or study.name)}}} Mean over $n={n}$ (image, prompt) pairs, {seeds}. "
        + compared + apart + placebos + (f" Protocols: {names}." if names else "")
    )


def _sentence(title: str) -> str:
    return escape(title) + ("" if title.rstrip()[-1:] in (".", "?", "!", "…") else ".")


def wide_csv(study: Study, results: Sequence[Result]) -> str:
    """table.csv: a row per cell; for each metric value, interval, difference with interval, p-values, effect sizes, counts.

    placebo_rank is empty for a cell without placebos.
    """
    found = columns(results)
    fields: tuple[str, ...] = ("value", "ci_low", "ci_high", "delta", "delta_low", "delta_high", "p", "p_adjusted", "n", "pairs")
    fields = (*fields, "dz", "rank_biserial", "placebo_rank")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["cell", *(f"{column.metric} {field}" for column in found for field in fields)])
    for cell in in_order(study, [r.cell for r in results]):
        row: list[str] = [cell]
        for column in found:
            result = column.by_cell[cell]
            row += [_plain(getattr(result, field)) if field != "placebo_rank" or result.placebos else "" for field in fields]
        writer.writerow(row)
    return stream.getvalue()


def _plain(value: float) -> str:
    return f"{value:.8g}" if math.isfinite(value) else ""
