"""Globs over dotted site names: `*` is any text within one segment, `**` any number of segments, `{a,b}` either."""

from __future__ import annotations

import re
from functools import lru_cache


class PatternError(ValueError):
    """A glob that cannot be read."""


def alternatives(pattern: str) -> list[str]:
    """Expand braces, nested ones too: "a.{b,c{d,e}}" -> ["a.b", "a.cd", "a.ce"]."""
    start = pattern.find("{")
    if start < 0:
        if "}" in pattern:
            raise PatternError(f"pattern {pattern!r}: '}}' without '{{'")
        return [pattern]
    depth, parts, last = 0, [], start + 1
    for i in range(start, len(pattern)):
        mark = pattern[i]
        depth += (mark == "{") - (mark == "}")
        if depth == 1 and mark == ",":
            parts.append(pattern[last:i])
            last = i + 1
        if depth == 0:
            parts.append(pattern[last:i])
            middles = [middle for part in parts for middle in alternatives(part)]
            tails = alternatives(pattern[i + 1:])
            return [pattern[:start] + middle + tail for middle in middles for tail in tails]
    raise PatternError(f"pattern {pattern!r}: '{{' is never closed")


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression of a glob; a full match of a dotted name is a match."""
    if not pattern.strip():
        raise PatternError("an empty pattern matches nothing; use '**' for every site")
    return re.compile("|".join(f"(?:{_expression(part)})" for part in alternatives(pattern)))


def _expression(glob: str) -> str:
    segments = glob.split(".")
    if "" in segments:
        raise PatternError(f"pattern {glob!r} has an empty segment")
    out = r"\Z"
    for segment in reversed(segments):       # from the right: a dot belongs to what follows it
        last = out == r"\Z"
        if segment == "**":
            out = r"[^.]+(?:\.[^.]+)*\Z" if last else rf"(?:[^.]+\.)*{out}"
        elif "**" in segment:
            raise PatternError(f"pattern {glob!r}: '**' must stand alone between dots, as in 'generator.**.attn'")
        else:
            text = "".join("[^.]*" if mark == "*" else re.escape(mark) for mark in segment)
            out = f"{text}{out}" if last else rf"{text}\.{out}"
    return out


def matches(pattern: str, name: str) -> bool:
    """Whether the dotted `name` is one that `pattern` names."""
    return compiled(pattern).fullmatch(name) is not None
