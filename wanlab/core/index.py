"""Positions along one axis as plain data: ints, lists, slices as text ("0:8", "-3:", "::2") and "last"."""

from __future__ import annotations

import re
from collections.abc import Iterable

from wanlab.core.quote import quoted

Position = int | str                    # an int, or a slice as text
Index = tuple[Position, ...]            # the canonical form; None elsewhere means "all"

_SLICE = re.compile(r"(-?\d+)?:(-?\d+)?(?::(-?\d+)?)?")


class PositionError(ValueError):
    """Positions that cannot be read, or that an axis does not have."""


def index(value: object, what: str) -> Index | None:
    """Canonical form of what a user may write for positions; `what` names the keyword in errors."""
    if value is None:
        return None
    many = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    found = tuple(dict.fromkeys(_position(one, what) for one in many))
    if not found:
        raise PositionError(f"{what}=[] selects nothing; leave it out to select everything")
    return found


def _position(value: object, what: str) -> Position:
    if isinstance(value, slice):
        value = ":".join("" if part is None else str(part) for part in (value.start, value.stop, value.step))
        value = value.removesuffix(":") if value.count(":") == 2 else value
    if isinstance(value, str):
        text = value.strip()
        if text == "last":
            return -1
        if re.fullmatch(r"[+-]?\d+", text):
            return int(text)
        if match := _SLICE.fullmatch(text):
            if match[3] and int(match[3]) == 0:
                raise PositionError(f"{what}={quoted(value)}: a slice cannot step by 0")
            return text
    elif hasattr(value, "__index__") and not isinstance(value, bool):
        return int(value.__index__())
    levels = ", or a range of noise levels such as '0.3:0.8'" if what == "steps" else ""
    raise PositionError(f"{what}={quoted(value)}: expected an int, a list of ints, a slice such as '0:8' or '-3:', or "
                        f"'last'{levels}")


def positions(idx: Index, size: int, what: str) -> list[int]:
    """The positions that `idx` selects of `size`, sorted, with Python's meaning of negative numbers and slices.

    Raises where an int lies outside, or where nothing is selected at all."""
    found: set[int] = set()
    for one in idx:
        if isinstance(one, str):
            parts = [int(part) if part else None for part in one.split(":")]
            found.update(range(size)[slice(*parts)])
        elif -size <= one < size:
            found.add(one % size)
        else:
            raise PositionError(f"{what}={one} is outside: there are {size} (0 to {size - 1})")
    if not found:
        raise PositionError(f"{what}={'|'.join(map(str, idx))} selects none of {size}")
    return sorted(found)


def plain(idx: Index) -> int | str | list[Position]:
    """The shortest data for YAML: one position as itself, several as a list."""
    return idx[0] if len(idx) == 1 else list(idx)


def holds(idx: Index, position: int, size: int | None, what: str) -> bool:
    """Whether `position` is among those selected. Where the size is unknown, positions from the end raise."""
    if size is not None:
        return position in positions(idx, size, what)
    for one in idx:
        if isinstance(one, str):
            start, stop, stride = [*map(_number, one.split(":")), None][:3]
        else:
            start, stop, stride = one, one + 1 if one >= 0 else None, 1
        if any(part is not None and part < 0 for part in (start, stop, stride)):
            raise PositionError(f"{what}={one} counts from the end, and the number of {what} is not known: announce it")
        start, stride = start or 0, stride or 1
        if position >= start and (stop is None or position < stop) and (position - start) % stride == 0:
            return True
    return False


def _number(text: str) -> int | None:
    return int(text) if text else None
