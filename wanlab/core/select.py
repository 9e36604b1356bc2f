"""Selections: which sites, which part of their tensors, and when; plain data, as keywords or as one string.

    generator.**.attn.z[heads=2,frames=4:]@steps=0:8,branch=cond

Brackets limit the part of the tensor, what follows `@` limits the time. Several positions: `heads=0|2` or `heads=0,2`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from wanlab.core.clock import Plan, Tick
from wanlab.core.index import holds, index, plain
from wanlab.core.nearest import suggestion
from wanlab.core.pattern import compiled

AXIS_OF = {"heads": "k", "frames": "f", "tokens": "n", "keys": "j", "slots": "m", "channels": "c", "units": "d",
           "rows": "b"}
PARTS = (*AXIS_OF, "words", "mask")
TIMES = ("steps", "sigma", "branch")


class SelectionError(ValueError):
    """A selection that cannot be read, or that does not fit the site or the run it meets."""


@dataclass(frozen=True)
class Select:
    """A pattern `at` of site names with limits; None means no limit.

    heads, frames, tokens, keys, slots, channels, units, rows: positions on the axes k f n j m c d b (with Python's
    meaning of negative numbers and slices). words: the tokens of words of the prompt, on axis j, else n, in branch
    `cond` unless told otherwise. mask: boolean, h w or b h w, any resolution. steps, branch: when; sigma: (low, high).
    """

    at: str
    heads: Any = None
    frames: Any = None
    tokens: Any = None
    keys: Any = None
    slots: Any = None
    channels: Any = None
    units: Any = None
    rows: Any = None
    words: Any = None
    mask: Any = None
    steps: Any = None
    sigma: Any = None
    branch: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.at, str):
            raise SelectionError(f"a site is named by a string, not by {self.at!r}")
        at, told = split(self.at)
        compiled(at)
        object.__setattr__(self, "at", at)
        for key, value in told.items():
            if getattr(self, key) is not None:
                raise SelectionError(f"{key} is given twice: in the string and as a keyword")
            object.__setattr__(self, key, value)
        for key in (*AXIS_OF, "steps"):
            object.__setattr__(self, key, index(getattr(self, key), key))
        for key, read in (("words", _names), ("branch", _names), ("mask", _mask), ("sigma", _range)):
            object.__setattr__(self, key, read(getattr(self, key), key))

    @classmethod
    def of(cls, value: Select | str | Mapping[str, Any]) -> Select:
        """A selection from a selection, one string, or a mapping (as in YAML)."""
        if isinstance(value, Select):
            return value
        if isinstance(value, str):
            return cls(value)
        known = [field.name for field in fields(cls)]
        for key in value:
            if key not in known:
                raise SelectionError(f"a selection has no {key!r}{suggestion(str(key), known)}")
        return cls(**value)

    def acts(self, tick: Tick, plan: Plan, site: str) -> bool:
        """Whether the selection covers this moment; raises where it asks for a step and `site` fires outside any."""
        for what, got, noun in (("steps", tick.step, "step"), ("sigma", tick.sigma, "step"),
                                ("branch", tick.branch, "branch")):
            if getattr(self, what) is not None and got is None:
                raise SelectionError(f"{site} fires outside any {noun}, so {what}= cannot limit it: leave it out")
        if self.steps is not None and not holds(self.steps, tick.step, plan.steps, "steps"):    # type: ignore[arg-type]
            return False
        if self.sigma is not None and not self.sigma[0] <= tick.sigma <= self.sigma[1]:
            return False
        return self.covers(tick.branch)

    def covers(self, branch: str | None) -> bool:
        """Whether the branch is meant. Words are the prompt's, and the prompt stands in `cond`."""
        if self.branch is not None:
            return branch in self.branch
        return self.words is None or branch in (None, "cond")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML, without what is not limited; `Select.of` reads it back."""
        out: dict[str, Any] = {"at": self.at}
        for key in (*PARTS, *TIMES):
            value = getattr(self, key)
            if value is None:
                continue
            if key == "mask":
                out[key] = _nested(value)
            elif key == "sigma":
                out[key] = [None if math.isinf(end) else end for end in value]
            else:
                out[key] = plain(value)
        return out

    def __str__(self) -> str:
        """The one-string form; equal selections have equal strings. A mask shows its size and cannot be read back."""
        parts = ",".join(f"{key}={self._text(key)}" for key in PARTS if getattr(self, key) is not None)
        times = ",".join(f"{key}={self._text(key)}" for key in TIMES if getattr(self, key) is not None)
        return self.at + (f"[{parts}]" if parts else "") + (f"@{times}" if times else "")

    def _text(self, key: str) -> str:
        value = getattr(self, key)
        if key == "mask":
            return f"<{'x'.join(map(str, _shape(value)))}>"
        if key == "sigma":
            return ":".join("" if math.isinf(end) else repr(end) for end in value)
        return "|".join(map(_quoted, value))


# ------------------------------------------------------------------------------------------------ reading the string

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_FORM = re.compile(
    rf'(?P<site>[^\[\]@]*)(?:\[(?P<parts>(?:{_QUOTED}|\[(?:{_QUOTED}|[^\[\]"])*\]|[^\[\]"])*)\])?(?:@(?P<times>.*))?',
    re.DOTALL)
_LIST = re.compile(rf'{_QUOTED}|=\s*\[((?:{_QUOTED}|[^\[\]"])*)\]')
_ITEM = re.compile(rf"\s*(?:(?P<key>[A-Za-z_]+)\s*=)?\s*(?P<value>{_QUOTED}|[^,|]*?)\s*(?P<end>[,|]|\Z)", re.DOTALL)


def split(text: str) -> tuple[str, dict[str, Any]]:
    """Take "site[parts]@times" apart into the glob and what its limits say; values are still text."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise SelectionError(f"cannot read the selection {text!r}: expected site[heads=2]@steps=0:8,branch=cond")
    told: dict[str, Any] = {}
    for part, known, place in ((match["parts"], PARTS, "in [ ]"), (match["times"], TIMES, "after @")):
        for key, values in _items(part, text) if part is not None else ():
            if key not in known:
                other = " (it belongs after @)" if key in TIMES else " (it belongs in [ ])" if key in PARTS else ""
                raise SelectionError(f"{text!r}: no {key!r} {place}{other}{suggestion(key, known)}")
            if key in told:
                raise SelectionError(f"{text!r}: {key} is given twice")
            if key == "mask":
                raise SelectionError(f"{text!r}: a mask is given as an array, by the keyword mask=")
            told[key] = values[0] if key == "sigma" else values
    return match["site"].strip(), told


def _items(part: str, text: str) -> list[tuple[str, list[str]]]:
    """"heads=0|2,frames=[1,3]" -> [("heads", ["0", "2"]), ("frames", ["1", "3"])]."""
    part = _LIST.sub(lambda match: match[0] if match[1] is None else f"={match[1]}", part)
    found: list[tuple[str, list[str]]] = []
    at, more = 0, True
    while more:
        match = _ITEM.match(part, at)
        value = match["value"] if match else ""
        if not match or not value or (not match["key"] and not found):
            raise SelectionError(f"{text!r}: cannot read {part[at:]!r}; expected name=value")
        value = json.loads(value) if value[0] == '"' else value
        if match["key"]:
            found.append((match["key"], [value]))
        else:
            found[-1][1].append(value)
        at, more = match.end(), bool(match["end"])
    return found


def _quoted(value: object) -> str:
    text = str(value)
    return text if re.fullmatch(r"[\w:'./-]+", text) else json.dumps(text)


# ------------------------------------------------------------------------------------------------ canonical values

def _names(value: Any, what: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = (value,) if isinstance(value, str) else tuple(dict.fromkeys(value))
    if not names or not all(isinstance(name, str) and name for name in names):
        raise SelectionError(f"{what}={value!r}: expected a name or a list of names")
    return names


def _range(value: Any, what: str) -> tuple[float, float] | None:
    if value is None:
        return None
    if isinstance(value, str):
        value = [float(end) if end.strip() else None for end in value.split(":")]
    ends = list(value)
    if len(ends) != 2:
        raise SelectionError(f"{what}={value!r}: expected two ends, (low, high) or 'low:high'")
    low, high = (-math.inf if ends[0] is None else float(ends[0]), math.inf if ends[1] is None else float(ends[1]))
    if not low <= high:
        raise SelectionError(f"{what}={value!r}: low is above high")
    return low, high


def _mask(value: Any, what: str) -> tuple[Any, ...] | None:
    if value is None:
        return None
    rows = value.tolist() if hasattr(value, "tolist") else value
    mask = _frozen(rows, what)
    if not isinstance(mask, tuple) or len(_shape(mask)) not in (2, 3) or 0 in _shape(mask):
        raise SelectionError(f"{what}: expected a boolean array h w or b h w")
    return mask


def _frozen(value: Any, what: str) -> Any:
    if isinstance(value, Iterable) and not isinstance(value, str):
        rows = tuple(_frozen(one, what) for one in value)
        if len({_shape(row) for row in rows}) > 1:
            raise SelectionError(f"{what}: its rows have different lengths")
        return rows
    if value not in (0, 1):
        raise SelectionError(f"{what}: {value!r} is neither true nor false")
    return bool(value)


def _shape(value: Any) -> tuple[int, ...]:
    return (len(value), *(_shape(value[0]) if value else ())) if isinstance(value, tuple) else ()


def _nested(value: Any) -> Any:
    return [_nested(one) for one in value] if isinstance(value, tuple) else int(value)
