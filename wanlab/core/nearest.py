"""The nearest right names to a wrong one: every error of the house that knows the right names says them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 200  # letters that are compared


def nearest(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """The `n` names of `known` most like `name`, best first by difflib's ratio, however far off they are."""
    score = difflib.SequenceMatcher(autojunk=False)
    score.set_seq2(name[:LONGEST])

    def likeness(other: str) -> float:
        score.set_seq1(other)
        return score.ratio()

    return sorted(dict.fromkeys(known), key=lambda other: (-likeness(other), other))[:n]


def suggestion(name: str, known: Iterable[str], n: int = 3) -> str:
    """A clause for the end of an error message: "; nearest: a, b, c" (empty when nothing is known)."""
    near = nearest(name, known, n)
    return f"; nearest: {', '.join(near)}" if near else ""
