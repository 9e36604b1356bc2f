"""Lists of pictures and tables of captions as they come out of other programs."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from tests.hostile.studies import ODD

FIELDS = [
    "a.png",
    "",
    "none.png",
    "../a.png",
    "/etc/passwd",
    "a\0b",
    "x" * 400,
    "a red circle",
    '"',
    '"quoted, text"',
    "'",
    "\u202e",
    "<b>",
    "1",
]
HEADS = [
    "image,prompt",
    "image,prompt,name",
    "image,prompt,name,last",
    "file,prompt",
    "prompt",
    "image",
    "",
    "image;prompt",
    '"image","prompt"',
    "image,image",
]


def lists() -> st.SearchStrategy[tuple[str, bytes]]:
    """(suffix, bytes) of a list of images."""
    field = st.sampled_from(FIELDS) | st.text(max_size=5)
    row = st.lists(field, max_size=5).map(",".join)
    table = st.builds(lambda head, rows: "\n".join([head, *rows]), st.sampled_from(HEADS), st.lists(row, max_size=4))
    wide = st.builds(
        lambda head, letter: f"{head}\n{letter * 200_000},x", st.sampled_from(HEADS), st.sampled_from(["a", '"', ",", "\0"])
    )
    value = st.sampled_from(ODD) | field
    thing = st.dictionaries(st.sampled_from(["image", "prompt", "name", "last", "x"]), value, max_size=4) | value
    lines = st.lists(
        thing.map(json.dumps)
        | st.sampled_from(["", "{", "[" * 3000, "9" * 5000, "NaN", '{"image": "a.png", "prompt": ' + "9" * 5000 + "}"]),
        max_size=4,
    )
    text = table | wide | lines.map("\n".join)
    coded = st.builds(
        lambda text, code: text.encode(code, "surrogatepass"), text, st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"])
    )
    return st.tuples(st.sampled_from([".csv", ".jsonl", ".csv", ".jsonl", ".txt"]), coded | st.binary(max_size=40))
