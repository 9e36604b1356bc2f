"""Whether what a notebook keeps is what it says when it runs now: its words, and its numbers nearly."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from itertools import zip_longest
from typing import Any

# Memory addresses and times differ from run to run; shell cells tell of durations.
PASSING = re.compile(r"0x[0-9a-f]+|\b\d+:\d\d\b|\b\d+(\.\d+)? ?(s|ms|min)\b")
WORD = re.compile(r"[-+]?\d+\.\d+(?:e[-+]?\d+)?|\d+|[^\W\d]+|\S")
TOLERANCE = 0.05         # of a number
ROUNDING = 2e-5          # of what is around 1, on another machine


def told(cell: Any) -> list[str]:
    """The words and numbers of a cell's text outputs."""
    found = []
    for output in cell.get("outputs", []):
        if output["output_type"] == "stream" and output["name"] == "stdout":
            found.append(output["text"])
        elif "data" in output and not any(kind.startswith("image/") for kind in output["data"]):
            found.append(output["data"].get("text/plain", ""))
    return WORD.findall(PASSING.sub("", "\n".join(found)))


def differences(kept: Any, now: Any) -> Iterator[str]:
    """What a notebook's cells keep and do not say any more."""
    for number, (old, new) in enumerate(zip(kept.cells, now.cells, strict=True)):
        if old.cell_type != "code" or re.search(r"^(!|%%)", old.source, re.MULTILINE):
            continue
        for one, other in zip_longest(told(old), told(new)):
            if not alike(one, other):
                yield f"cell {number} keeps {one!r} and says {other!r} now"
                break


def alike(one: str | None, other: str | None) -> bool:
    """Equal, or numbers with decimals that rounding on another machine may set apart: by a twentieth, or by one of the last
    printed digit. What is told as 0.0043 is not -0.0043."""
    if one is None or other is None or one == other or "." not in one or "." not in other:
        return one == other
    try:
        return math.isclose(float(one), float(other), rel_tol=TOLERANCE, abs_tol=max(ROUNDING, 1.01 * _digit(one), 1.01 * _digit(other)))
    except (ValueError, InvalidOperation):
        return False


def _digit(number: str) -> float:
    """One of a number's last printed digit: 0.0001 of 0.0043."""
    return 10.0 ** float(Decimal(number).as_tuple().exponent)
