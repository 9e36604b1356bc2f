"""Study files as a tired or a hostile hand leaves them: shipped ones with keys renamed, values of other kinds, bytes changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from wanlab.runs.document import parse

ROOT = Path(__file__).resolve().parents[2]
NAMES = ["quickstart", "components", "heads", "windows", "placebo", "swaps", "retrain", "lambda"]
PLAIN = [(ROOT / "experiments" / f"{name}.yaml").read_text(encoding="utf-8") for name in NAMES]
DATA = [parse(text).data for text in PLAIN]
PAGE = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
BLOCKS = [block.split("```")[0] for block in PAGE.split("```yaml")[1:]]
PARTS = [parse(block).data for block in BLOCKS if "cells:" in block or "axes:" in block]
DATA.append(dict(pair for part in reversed(PARTS) for pair in part.items()))    # of a key that several have, what stands first

TRAININGS = [parse(path.read_text(encoding="utf-8")).data for path in sorted((ROOT / "experiments" / "train").glob("*.yaml"))]

# values that no field expects, or hardly any
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    10**9,
    10**18,
    10**30,
    -(10**9),
    0.0,
    0.5,
    1e308,
    1e-320,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    " ",
    "a",
    "text",
    "baseline",
    "NaN",
    "\0",
    "a\0b",
    "../up",
    "/etc/passwd",
    "~",
    ".",
    "..",
    "x" * 300,
    "CON",
    "NUL",
    "\u202egnp.exe",
    "\ud800",
    "<script>alert(1)</script>",
    "0:8",
    "::",
    "-1:",
    "0.3:0.8",
    "last",
    "{a,b}",
    "**",
    "generator.**",
    "é" * 50,
    "2020-01-01",
    [],
    [None],
    [[]],
    [0],
    ["a"],
    [1, 2, 3],
    ["text", "text"],
    [{}],
    {},
    {"a": 1},
    {"kind": "zero"},
    {"": ""},
    {"a": {"b": {"c": []}}},
    {"kind": "folder", "path": "../../etc"},
    {"kind": "procedural", "n": 10**12},
    {"of": "text"},
    {"of": "text", "draws": 3},
]
KEYS = [
    "",
    "name",
    "kind",
    "n",
    "cells",
    "axes",
    "each",
    "zip",
    "include",
    "exclude",
    "placebo",
    "data",
    "at",
    "Baseline",
    "BASELINE",
    "../x",
    "/x",
    "x" * 300,
    "\0",
    "a.b",
    "1",
    "-",
    ".",
    "..",
    "CON",
    "<b>",
    ".x.party",
    "\ud800",
    "ñ",
]
SNIPPETS = [
    "!!python/object/apply:os.system [echo]",
    "!!python/name:os.system",
    "!!binary aGk=",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!int abc",
    "!!float x",
    "!!bool maybe",
    "!!timestamp x",
    "!tag x",
    "!<x> y",
    "&a [*a]",
    "&a {b: *a}",
    "*nowhere",
    "<<: {a: 1}",
    "? [a]\n: b",
    "2020-01-01",
    "0x" + "f" * 5000,
    "9" * 5000,
    "1e999",
    ".inf",
    ".nan",
    "0o9",
    "1_000",
    "[" * 400,
    "{a: " * 200,
    "- " * 300,
    "'",
    '"',
    "|",
    ">",
    "%YAML 1.1\n---\n",
    "---\n",
    "...\n",
    "\t",
    "\ufeff",
    "\x07",
    "\u2028",
    "\x85",
    "# x",
    ": ",
    "[]",
    "{}",
    "@",
    "`",
    "\\ud800",
    "\U0001f600",
]


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in plain data."""
    yield path
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from places(value, (*path, key))


def holder(data: Any, path: tuple[Any, ...]) -> Any:
    """What holds the value at a path."""
    for step in path[:-1]:
        data = data[step]
    return data


@st.composite
def by_data(draw: st.DrawFn, files: list[Any] = DATA) -> str:
    """A file whose data was changed in one to three places, as JSON, which is YAML."""
    data = copy.deepcopy(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from([one for one in places(data) if one] or [()]))
        if not path:
            break
        held, step = holder(data, path), path[-1]
        what = draw(st.sampled_from(["value", "value", "delete", "rename", "wrap", "add"]))
        if what == "value":
            held[step] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif what == "delete":
            del held[step]
        elif what == "wrap":
            inner = held[step]
            held[step] = {"list": [inner], "mapping": {"a": inner}, "twice": [inner, inner]}[
                draw(st.sampled_from(["list", "mapping", "twice"]))
            ]
        elif isinstance(held, dict):
            value = held.pop(step) if what == "rename" else held[step]
            held[draw(st.sampled_from(KEYS))] = value
        else:
            held.append(held[step])
    return json.dumps(data, ensure_ascii=draw(st.booleans()))


@st.composite
def by_text(draw: st.DrawFn) -> str:
    """A study whose text was changed: cut, doubled, or with something put in."""
    text = draw(st.sampled_from(PLAIN))
    start = text.index("\nname:")  # the head of comments has nothing to say here
    text = text[start + 1 :]
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 40)))
        what = draw(st.sampled_from(["snippet", "snippet", "cut", "double", "letters", "after colon"]))
        if what == "snippet":
            text = text[:at] + draw(st.sampled_from(SNIPPETS)) + text[end:]
        elif what == "cut":
            text = text[:at] + text[end:]
        elif what == "double":
            text = text[:end] + text[at:]
        elif what == "letters":
            text = text[:at] + draw(st.text(max_size=8)) + text[at:]
        else:
            colon = text.find(": ", at)
            text = text[: colon + 2] + draw(st.sampled_from(SNIPPETS)) + " " + text[colon + 2 :] if colon >= 0 else text
    return text


def studies() -> st.SearchStrategy[str]:
    """Texts of study files, hardly one of them right."""
    return by_data() | by_text()


def trainings() -> st.SearchStrategy[str]:
    """Texts of training files, hardly one of them right."""
    return by_data(TRAININGS)


def settings_given() -> st.SearchStrategy[str]:
    """What may stand after --set."""
    paths = [".".join(map(str, path)) for data in DATA[:4] for path in places(data) if path]
    values = [json.dumps(one, ensure_ascii=True) for one in ODD] + SNIPPETS
    odd = st.sampled_from(
        ["", ".", "..", "a..b", "cells.", ".cells", "metrics.99", "metrics.-1", "cells.x.y.z", "data", "\0", "axes.a", "0"]
    )
    left = st.sampled_from(paths) | odd | st.text(max_size=6)
    return st.builds(
        lambda a, b, c: a + b + c,
        left,
        st.sampled_from(["=", "=", "=", " = ", "", "=="]),
        st.sampled_from(values) | st.text(max_size=8),
    )
