"""Globs over dotted site names: `*` is any text within one segment, `**` any number of segments, `{a,b}` either."""

from __future__ import annotations

import re
from functools import lru_cache

from wanlab.core.quote import quoted

LETTERS, BRACES, UNFOLDED = 50_000, 50, 1000  # of a pattern: letters, opening braces, and what they unfold to


class PatternError(ValueError):
    """A glob that cannot be read."""


def alternatives(pattern: str) -> list[str]:
    """Expand braces, nested ones too: "a.{b,c{d,e}}" -> ["a.b", "a.cd", "a.ce"]."""
    if len(pattern) > LETTERS or pattern.count("{") > BRACES:
        raise PatternError(f"pattern {quoted(pattern)}: at most {LETTERS:,} letters and {BRACES} braces")
    start = pattern.find("{")
    if start < 0:
        if "}" in pattern:
            raise PatternError(f"pattern {quoted(pattern)}: '}}' without '{{'")
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
            if len(middles) * len(tails) > UNFOLDED:
                raise PatternError(f"pattern {quoted(pattern)}: its braces unfold to more than {UNFOLDED:,} patterns")
            return [pattern[:start] + middle + tail for middle in middles for tail in tails]
    raise PatternError(f"pattern {quoted(pattern)}: '{{' is never closed")


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """The regular expression of a glob; a full match of a dotted name is a match."""
    if not pattern.strip():
        raise PatternError("an empty pattern matches nothing; use '**' for every site")
    return re.compile("|".join(f"(?:{_expression(part)})" for part in alternatives(pattern)))


def _expression(glob: str) -> str:
    """The expression of a glob without braces. What lies between two wildcards is looked for once, from the left, and kept (an
    atomic group), so that no pattern takes long, however many wildcards it has."""
    runs: list[list[str]] = [[]]  # of segments, between one `**` and the next
    segments = glob.split(".")
    for number, segment in enumerate(segments):
        if not segment:
            raise PatternError(f"pattern {quoted(glob)} has an empty segment")
        if segment == "**":
            if number == 0 or segments[number - 1] != "**":
                runs.append([])
        elif "**" in segment:
            raise PatternError(f"pattern {quoted(glob)}: '**' must stand alone between dots, as in 'generator.**.attn'")
        else:
            runs[-1].append(_segment(segment))
    first, *between = [r"\.".join(run) for run in runs]
    if not between:
        return rf"{first}\Z"
    last = between.pop()
    middle = "".join(rf"(?>(?:[^.]+\.)*?{run}\.)" for run in between)
    end = rf"(?:[^.]+\.)*{last}\Z" if last else r"[^.]+(?:\.[^.]+)*\Z"
    return (rf"{first}\." if first else "") + middle + end


def _segment(text: str) -> str:
    """The expression of one segment: `*` is any text in it."""
    first, *more = map(re.escape, text.split("*"))
    if not more:
        return first
    return first + "".join(f"(?>[^.]*?{part})" for part in more[:-1]) + (f"[^.]*{more[-1]}" if more[-1] else "[^.]*")


def matches(pattern: str, name: str) -> bool:
    """Whether the dotted `name` is one that `pattern` names."""
    return compiled(pattern).fullmatch(name) is not None
