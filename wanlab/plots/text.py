"""Text that has to fit: its width in inches before it is drawn, shortened names, numbers of a few letters."""

from __future__ import annotations

import math
from functools import lru_cache

MINUS = "−"


def inches(text: str, size: float, bold: bool = False) -> float:
    """Width of a line of text in the style's font at `size` points, by its letters (kerning is left out)."""
    return size * sum(_advance(letter, bold) for letter in text) / 72


@lru_cache(4096)
def _advance(letter: str, bold: bool) -> float:
    """How far a letter moves the pen, at a size of 1 point: what it adds between two bars."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")
    texts = (f"|{letter.replace('$', 'S')}|", "||")
    with_it, without = (TextPath((0, 0), text, size=100, prop=font).get_extents().x1 for text in texts)
    return float(with_it - without) / 100


def shortened(text: str, width: float, size: float, bold: bool = False) -> str:
    """The text, or as much of its beginning and end as `width` inches hold, with … between."""
    if inches(text, size, bold) <= width:
        return text
    for keep in range(len(text) - 1, 1, -1):
        tail = keep // 3
        candidate = text[: keep - tail].rstrip() + "…" + (text[-tail:].lstrip() if tail else "")
        if inches(candidate, size, bold) <= width:
            return candidate
    return text[:1] + "…"


def wrapped(text: str, width: float, size: float, bold: bool = False, lines: int = 2) -> list[str]:
    """The words of a text on at most `lines` lines of `width` inches; what is too long is shortened."""
    rows = [""]
    for word in text.split():
        longer = f"{rows[-1]} {word}".strip()
        if inches(longer, size, bold) <= width or not rows[-1] or len(rows) == lines:
            rows[-1] = longer
        else:
            rows.append(word)
    return [shortened(row, width, size, bold) for row in rows]


def short(value: float, sign: bool = False, digits: int = 2) -> str:
    """A number in as few letters as `digits` significant digits need: −.012, +3.4, 1.2e6; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size and not 1e-4 <= size < 1e5:
        mantissa, exponent = f"{size:.{digits - 1}e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        places = max(0, digits - 1 - (math.floor(math.log10(size)) if size else 0))
        text = f"{size:.{min(places, 6)}f}"
        text = text[1:] if text.startswith("0.") else text
    nothing = not text.strip("0.")
    return ("" if nothing else MINUS if value < 0 else "+" if sign else "") + ("0" if nothing else text)


def alike(value: float, largest: float, sign: bool = False) -> str:
    """A number with as many decimals as give `largest` two digits, so that numbers beside each other can be compared."""
    if not math.isfinite(value) or not largest or not 1e-4 <= abs(largest) < 1e5:
        return short(value, sign)
    places = max(0, 1 - math.floor(math.log10(abs(largest))))
    text = f"{abs(value):.{places}f}"
    nothing = not text.strip("0.")
    text = "0" if nothing else text[1:] if text.startswith("0.") else text
    return ("" if nothing else MINUS if value < 0 else "+" if sign else "") + text


def tick(value: float, _: int = 0) -> str:
    """A round number beside an axis."""
    text = f"{abs(value):g}"
    return (MINUS if value < 0 else "") + (text[1:] if text.startswith("0.") else text)
