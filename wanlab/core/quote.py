"""What somebody gave, as an error message shows it: quoted, and cut where it is long."""

from __future__ import annotations

LONGEST = 160  # letters of it that a message shows


def quoted(value: object, most: int = LONGEST) -> str:
    """`repr` of a value, at most so many letters of it, and then how many there are."""
    if isinstance(value, str) and len(value) > most:
        return f"{value[:most]!r}… ({len(value):,} letters)"
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}…"
