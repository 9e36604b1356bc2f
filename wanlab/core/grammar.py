"""The one-string form of selections, taken apart and put together: site[heads=2,frames=4:]@steps=0:8,branch=cond

Brackets limit the part of the tensor, what follows `@` limits the time. Several positions: `heads=0|2`, `heads=0,2` or
`heads=[0,2]`. What has other characters than letters, digits and _ : ' . / - stands in double quotes, as in JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted

# Keyword of a limit on positions -> its axis.
AXIS_OF = {"heads": "k", "frames": "f", "tokens": "n", "keys": "j", "slots": "m", "channels": "c", "units": "d",
           "groups": "g", "rows": "b"}
PARTS = (*AXIS_OF, "words", "mask")
TIMES = ("steps", "sigma", "branch")
ONE = ("mask", "sigma")         # limits of one value; the others may be several


class SelectionError(ValueError):
    """A selection that cannot be read, or that does not fit the site or the run it meets."""


_QUOTED = r'"(?:[^"\\]|\\.)*"'
_FORM = re.compile(
    rf'(?P<site>[^\[\]@]*)(?:\[(?P<parts>(?:{_QUOTED}|\[(?:{_QUOTED}|[^\[\]"])*\]|[^\[\]"])*)\])?(?:@(?P<times>.*))?',
    re.DOTALL)
_LIST = re.compile(rf'{_QUOTED}|=\s*\[((?:{_QUOTED}|[^\[\]"])*)\]')
_ITEM = re.compile(rf"\s*(?:(?P<key>[A-Za-z_]+)\s*=)?\s*(?P<value>{_QUOTED}|[^,|]*?)\s*(?P<end>[,|]|\Z)", re.DOTALL)


def split(text: str) -> tuple[str, dict[str, str | list[str]]]:
    """Take "site[parts]@times" apart into the glob and what its limits say; values are still text."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise SelectionError(f"cannot read the selection {quoted(text)}: expected site[heads=2]@steps=0:8,branch=cond")
    told: dict[str, str | list[str]] = {}
    for part, known, place in ((match["parts"], PARTS, "in [ ]"), (match["times"], TIMES, "after @")):
        for key, values in _items(part, text) if part is not None else ():
            if key not in known:
                other = " (it belongs after @)" if key in TIMES else " (it belongs in [ ])" if key in PARTS else ""
                raise SelectionError(f"{quoted(text)}: no {quoted(key)} {place}{other}{suggestion(key, known)}")
            if key in told or (key in ONE and len(values) > 1):
                raise SelectionError(f"{quoted(text)}: {key} is given twice")
            told[key] = values[0] if key in ONE else values
    return match["site"].strip(), told


def join(site: str, told: dict[str, Sequence[object]]) -> str:
    """The string that `split` reads back to the same."""
    def told_in(known: Sequence[str]) -> str:
        return ",".join(f"{key}={'|'.join(map(_quoted, told[key]))}" for key in known if key in told)

    parts, times = told_in(PARTS), told_in(TIMES)
    return site + (f"[{parts}]" if parts else "") + (f"@{times}" if times else "")


def _items(part: str, text: str) -> list[tuple[str, list[str]]]:
    """"heads=0|2,frames=[1,3]" -> [("heads", ["0", "2"]), ("frames", ["1", "3"])]."""
    part = _LIST.sub(lambda match: match[0] if match[1] is None else f"={match[1]}", part)
    found: list[tuple[str, list[str]]] = []
    at, more = 0, True
    while more:
        match = _ITEM.match(part, at)
        value = match["value"] if match else ""
        if not match or not value or (not match["key"] and not found):
            raise SelectionError(f"{quoted(text)}: cannot read {quoted(part[at:])}; expected name=value")
        value = json.loads(value) if value[0] == '"' else value
        if match["key"]:
            found.append((match["key"], [value]))
        else:
            found[-1][1].append(value)
        at, more = match.end(), bool(match["end"])
    return found


def _quoted(value: object) -> str:
    text = str(value)
    return text if re.fullmatch(r"[\w:'./*;-]+", text) else json.dumps(text)
