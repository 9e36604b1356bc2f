"""Numbers as people read them: decimals follow the interval, and a table's rows in the order it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..spec import Study
from ..stats import Result

MINUS = "−"


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
    """The best and the second-best cells of one metric, with ties at the decimals shown. Nothing without a direction."""
    known = [r for r in results if math.isfinite(r.value)]
    if not known or known[0].better == "none" or len(known) < 2:
        return set(), set()
    levels = sorted({round(r.value, digits) for r in known}, reverse=known[0].better == "higher")
    named = [{r.cell for r in known if round(r.value, digits) == level} for level in levels[:2]]
    return named[0], named[1] if len(named) > 1 else set()


def in_order(study: Study, cells: Sequence[str]) -> list[str]:
    """Cells in the order of the file, but each cell that pairs with another right below it; the baseline first."""
    heads = [c for c in cells if study.cells[c].pairs_with not in cells]
    heads.sort(key=lambda name: name != study.baseline)
    order: list[str] = []
    for head in heads:
        order += [head, *(c for c in cells if study.cells[c].pairs_with == head and c not in order)]
    return order + [c for c in cells if c not in order]


def by_metric(results: Sequence[Result]) -> Mapping[str, list[Result]]:
    """Results grouped by metric, in order."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(result.metric, []).append(result)
    return groups
