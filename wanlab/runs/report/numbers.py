"""Numbers as people read them: decimals follow the interval, and a table's rows in the order it is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wanlab.plots.text import MINUS

from ..spec import Study
from ..stats import Result


def decimals(*half_widths: float) -> int:
    """Decimals at which the narrowest of these half intervals has two significant digits: 0 to 6, and 3 where none is known."""
    known = [abs(h) for h in half_widths if math.isfinite(h) and h]
    if not known:
        return 3
    return min(6, max(0, 1 - math.floor(math.log10(min(known)))))


def places(results: Sequence[Result]) -> int:
    """Decimals for a column: those of the typical cell (the median half interval)."""
    halves = sorted((r.ci_high - r.ci_low) / 2 for r in results if math.isfinite(r.ci_high - r.ci_low) and r.ci_high > r.ci_low)
    return decimals(halves[len(halves) // 2]) if halves else 3


def shown(value: float, digits: int, sign: bool = False) -> str:
    """A number with `digits` decimals and a true minus sign; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    text = f"{abs(value):.{digits}f}"
    negative = value < 0 and float(text) != 0
    return (MINUS if negative else "+" if sign else "") + text


def ranked(results: Sequence[Result], digits: int) -> tuple[set[str], set[str]]:
    """The best and the second-best cells of one metric, with ties at the decimals shown. Nothing without a direction, nor
    of how far cells are from the baseline: that is no contest."""
    known = [r for r in results if math.isfinite(r.value)]
    if not known or known[0].better == "none" or known[0].from_baseline or len(known) < 2:
        return set(), set()
    levels = sorted({round(r.value, digits) for r in known}, reverse=known[0].better == "higher")
    named = [{r.cell for r in known if round(r.value, digits) == level} for level in levels[:2]]
    return named[0], named[1] if len(named) > 1 else set()


def in_order(study: Study, cells: Iterable[str]) -> dict[str, int]:
    """Cells in the order of the file, the baseline first, but each that pairs with another right below it and what stands below
    that; with how many cells each stands below."""
    below: dict[str | None, list[str]] = {}
    given = dict.fromkeys(cells)
    for cell in given:
        partner = study.cells[cell].pairs_with
        below.setdefault(partner if partner in given else None, []).append(cell)
    heads = sorted(below.get(None, []), key=lambda name: name != study.baseline)
    order: dict[str, int] = {}
    left = [(head, 0) for head in reversed(heads)]
    while left:
        cell, depth = left.pop()
        order[cell] = depth
        left += [(one, depth + 1) for one in reversed(below.get(cell, []))]
    return order | {cell: 0 for cell in given if cell not in order}  # cells that pair with each other in a ring


@dataclass(frozen=True)
class Column:
    """The results of one metric by cell, and how they are shown: decimals, and the best and second-best cells."""

    metric: str
    key: str
    better: str
    by_cell: Mapping[str, Result]
    digits: int
    best: set[str]
    second: set[str]

    @classmethod
    def of(cls, results: Sequence[Result]) -> Column:
        """The column of results of one metric."""
        first, digits = results[0], places(results)
        return cls(first.metric, first.key, first.better, {r.cell: r for r in results}, digits, *ranked(results, digits))


def columns(results: Sequence[Result]) -> list[Column]:
    """Results by metric, in order."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.metric, []).append(result)
    return [Column.of(group) for group in groups.values()]


def without_placebos(results: Sequence[Result]) -> list[Result]:
    """What tables show: placebos of a cell that is shown stand beside it, not in a row of their own."""
    named = {r.cell for r in results}
    return [r for r in results if r.placebo_of not in named]
