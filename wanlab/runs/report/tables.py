"""The tables of a report: table.tex (booktabs, ready for a paper) and table.csv (one row per cell)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from ..spec import Study
from ..stats import Result
from .numbers import MINUS, by_metric, headline, in_order, places, ranked, shown

PANEL = 4  # metrics beside each other at a text width of 5.5 inches
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
}


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def tex(study: Study, results: Sequence[Result]) -> str:
    """table.tex: a table environment that needs booktabs alone."""
    groups = by_metric(results)
    wanted = study.report.table or [name.split("[")[0] for name in groups]
    groups = {name: group for name, group in groups.items() if name.split("[")[0] in wanted or name in wanted}
    cells = in_order(study, list(dict.fromkeys(r.cell for r in results)))
    names = list(groups)
    panels = [names[i : i + PANEL] for i in range(0, len(names), PANEL)]
    body = "\n\\\\[1.2ex]\n".join(_panel(study, cells, {name: groups[name] for name in panel}) for panel in panels)
    return "\n".join(
        [
            f"% {study.name}: written by wanlab report; needs \\usepackage{{booktabs}}",
            r"\begin{table}[t]",
            r"\centering",
            r"\footnotesize",
            r"\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{_caption(study, groups)}}}",
            rf"\label{{tab:{escape(study.name).replace(chr(92), '')}}}",
            body,
            r"\end{table}",
            "",
        ]
    )


def _panel(study: Study, cells: Sequence[str], groups: dict[str, list[Result]]) -> str:
    lines = [rf"\begin{{tabular}}{{@{{}}l{'r' * len(groups)}@{{}}}}", r"\toprule"]
    heads = [escape(headline(name)) + ARROWS[group[0].better] for name, group in groups.items()]
    lines += [" & ".join(["", *heads]) + r" \\", r"\midrule"]
    for row, cell in enumerate(cells):
        first, second = [], []
        for group in groups.values():
            top, below = _entry(next((r for r in group if r.cell == cell), None), group)
            first.append(top)
            second.append(below)
        paired = study.cells[cell].pairs_with in cells
        name = (r"\quad " if paired else "") + escape(cell)
        lines += [
            " & ".join([name, *first]) + r" \\",
            " & ".join(["", *second]) + r" \\" + ("" if row == len(cells) - 1 else r"[0.3ex]"),
        ]
        if cell == study.baseline and row < len(cells) - 1:
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
    if result.delta == result.delta_low == result.delta_high == 0.0:
        below = "$=$"
    elif math.isfinite(result.delta):
        numbers = [shown(x, digits, sign=x is result.delta) for x in (result.delta, result.delta_low, result.delta_high)]
        below = rf"{_tex_number(numbers[0])} [{_tex_number(numbers[1])}, {_tex_number(numbers[2])}]"
    else:
        below = f"[{_tex_number(shown(result.ci_low, digits))}, {_tex_number(shown(result.ci_high, digits))}]"
    return value + dagger, rf"{{\scriptsize {below}}}"


def _tex_number(text: str) -> str:
    return f"${text.replace(MINUS, '-')}$" if text[0] in f"{MINUS}+" else text.replace("–", "--")


def _caption(study: Study, groups: dict[str, list[Result]]) -> str:
    counts = sorted({r.n for group in groups.values() for r in group if math.isfinite(r.value)})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]}--{counts[-1]}" if counts else "0"
    percent = f"{100 * study.stats.confidence:g}\\,\\%"
    seeds = f"{len(study.seeds)} seeds averaged within each" if len(study.seeds) > 1 else "one seed each"
    names = "; ".join(escape(name) for name in groups if "[" in name)
    return (
        rf"\textbf{{{escape(study.title or study.name)}.}} Mean over $n={n}$ (image, prompt) pairs, {seeds}. "
        f"First row: the {percent} interval; other rows: the paired difference to {escape(study.baseline)} with its "
        rf"{percent} interval. $\dagger$: the difference is significant (paired sign-flip permutation, for set distances "
        r"block jackknife; $p<0.05$ after Holm's correction over "
        + ("all cells of a metric" if study.stats.family == "metric" else "all cells and metrics")
        + "). "
        r"Best in bold, second underlined." + (f" Protocols: {names}." if names else "")
    )


def wide_csv(study: Study, results: Sequence[Result]) -> str:
    """table.csv: a row per cell; for each metric value, interval, difference with interval, corrected p, n."""
    groups = by_metric(results)
    fields = ("value", "ci_low", "ci_high", "delta", "delta_low", "delta_high", "p_adjusted", "n")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["cell", *(f"{name} {field}" for name in groups for field in fields)])
    for cell in in_order(study, list(dict.fromkeys(r.cell for r in results))):
        row: list[str] = [cell]
        for group in groups.values():
            result = next(r for r in group if r.cell == cell)
            row += [_plain(getattr(result, field)) for field in fields]
        writer.writerow(row)
    return stream.getvalue()


def _plain(value: float) -> str:
    return f"{value:.8g}" if math.isfinite(value) else ""
