"""Tables of prompts: what stands in a cell, which clip a name means, and where each mistake is."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanlab.data.media import MediaError
from wanlab.data.table import read_captions, read_text, rows

NAMES = ("a.mp4", "a.mov", "b.mp4", "c.d.mp4")


@given(st.lists(st.lists(st.text(max_size=9), min_size=2, max_size=2), max_size=5))
def test_what_a_program_writes_is_read_back(table: list[list[str]]) -> None:
    stream, wrong = io.StringIO(newline=""), list[str]()
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([["x", "y"], *table])
    heads, found = rows(stream.getvalue(), wrong)
    assert not wrong and heads == ["x", "y"] and [list(row.values()) for _, row in found] == table


def captions(folder: Path, text: str, empty: bool = True) -> dict[str, str]:
    (folder / "x.csv").write_bytes(text.encode())
    return read_captions(folder / "x.csv", NAMES, empty)


def test_a_name_stands_with_its_suffix_or_without(tmp_path: Path) -> None:
    found = captions(tmp_path, '\ufefffile,prompt,more\na.mp4," left\nand up ",1\n\na.mov,right,2\nb,,3\nc.d, up,4\n')
    assert found == {"a.mp4": "left\nand up", "a.mov": "right", "b.mp4": "", "c.d.mp4": "up"}


@pytest.mark.parametrize(("text", "expected"), [
    ("file,prompt\na,left\n", ["x.csv:2: 'a' may be a.mp4 or a.mov: write the suffix"]),
    ("file,prompt\nb,left\na.mp4,up\nb.mp4,right\n", ["x.csv:4: b.mp4 stands in line 2 too"]),
    ('file,prompt\nb,"left\nand up"\nz,up\ny,up\n', ["x.csv:4: no clip 'z'; nearest: ", "x.csv:5: no clip 'y'"]),
    ("file,prompt\n", ["x.csv:1: no caption"]),
    ("", ["x.csv:1: no caption"]),
    ("file,prompt\nb\n", ["x.csv:2: no prompt: the line ends before it"]),
    ("file,prompt\nb,left, then up\n", ["x.csv:2: more fields than columns; a prompt with a comma stands in quotes"]),
    ('file,prompt\nb,"left\n', ["x.csv:2: no CSV from here on: unexpected end of data"]),
    ("file,text\nb,left\n", ["x.csv:1: captions have the columns file, prompt; this one has 'file, text'"]),
    ("file,file,prompt\nb,b,left\n", ["x.csv:1: the column 'file' stands twice"]),
    ("file,prompt\n" + "z,up\n" * 500, ["x.csv:2: no clip", "and 488 more"]),
])  # fmt: skip
def test_every_mistake_is_told_with_its_line(text: str, expected: list[str], tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        captions(tmp_path, text)
    assert all(part in str(caught.value) for part in expected), caught.value


def test_prompts_that_must_be_there(tmp_path: Path) -> None:
    assert captions(tmp_path, "file,prompt\nb,\n") == {"b.mp4": ""}
    with pytest.raises(MediaError, match=r"x.csv:2: no prompt of 'b'"):
        captions(tmp_path, "file,prompt\nb, \n", empty=False)


def test_bytes_that_are_no_text_are_placed(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes("file,prompt\nb,café\n".encode("latin-1"))
    with pytest.raises(MediaError, match=r"x.csv:2: not a text file \(UTF-8\)"):
        read_captions(tmp_path / "x.csv", NAMES)
    with pytest.raises(MediaError, match=r"none.csv: cannot be read: No such file"):
        read_text(tmp_path / "none.csv")
