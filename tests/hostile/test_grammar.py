"""Selections, edits and masks, bad ones: told in few words, whatever was typed, and before anything large is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.hostile.cases import answer, every, full, within
from tests.hostile.grammar import commands, edits, selections
from tests.hostile.media import bomb
from wanlab.core import EditError, PatternError, Select, edit_from_dict
from wanlab.core.mask import Mask, MaskError
from wanlab.core.pattern import compiled, matches
from wanlab.runs import generating


@full
def test_selections_edits_and_commands(whole: bool) -> None:
    every("selections", whole, selections(), lambda text: answer(lambda: str(Select(text))))
    every("edits", whole, edits(), lambda data: answer(lambda: edit_from_dict(data).hash))
    every("commands", whole, commands(), lambda text: answer(lambda: generating.edit(text)))


def test_braces_that_unfold_without_end_are_refused() -> None:
    with within(), pytest.raises(PatternError, match="unfold to more than 1,000"):
        compiled("{a,b}" * 30)
    for pattern in ("{" * 1000 + "}" * 1000, "{a,b}" * 3000, "*" + "a" * 100_000):
        with within(), pytest.raises(PatternError, match="at most 50,000 letters and 50 braces") as caught:
            compiled(pattern)
        assert len(str(caught.value)) < 400
    assert matches("{a,b}.{c,d}.*", "b.c.x")


@pytest.mark.parametrize(
    "pattern", ["**." * 500 + "x", "*.**." * 12 + "nothing", "*a" * 40 + "b", "**.a.**." * 10 + "b", "*" + "a*" * 200 + "b"]
)
def test_no_pattern_takes_long(pattern: str) -> None:
    with within(5):
        assert not any(matches(pattern, name) for name in ("a." * 40 + "a", "a" * 2000, "generator.down.0.temporal.attn.z"))


def test_wildcards_find_what_they_found() -> None:
    names = ["a", "a.b", "a.b.c", "a.x.b.c", "x.a.b", "ab.c", "a.bb.bc", "a.b.b.c"]
    found = {
        pattern: [name for name in names if matches(pattern, name)]
        for pattern in ("**", "a.**", "**.b", "a.**.c", "a.*.c", "*b*.c", "**.b.**.c", "a.**.**", "**.b*.**", "a*.**.*c")
    }
    assert found == {
        "**": names,
        "a.**": ["a.b", "a.b.c", "a.x.b.c", "a.bb.bc", "a.b.b.c"],
        "**.b": ["a.b", "x.a.b"],
        "a.**.c": ["a.b.c", "a.x.b.c", "a.b.b.c"],
        "a.*.c": ["a.b.c"],
        "*b*.c": ["ab.c"],
        "**.b.**.c": ["a.b.c", "a.x.b.c", "a.b.b.c"],
        "a.**.**": ["a.b", "a.b.c", "a.x.b.c", "a.bb.bc", "a.b.b.c"],
        "**.b*.**": ["a.b.c", "a.x.b.c", "a.bb.bc", "a.b.b.c"],
        "a*.**.*c": ["a.b.c", "a.x.b.c", "ab.c", "a.bb.bc", "a.b.b.c"],
    }


@pytest.mark.parametrize("text", ["0*999999999999", "01*99999999/10", "1*99999999999999999999", ";".join(["0*99999999"] * 2)])
def test_masks_are_refused_by_their_size_before_they_are_made(text: str) -> None:
    with within(), pytest.raises(MaskError, match="at most 67,108,864"):
        Mask.of(text)
    with within(), pytest.raises(MaskError):
        Select("generator.out", mask=text)


def test_damaged_files_of_masks_are_told(tmp_path: Path) -> None:
    files = {
        "bomb.png": bomb(9000, 9000),
        "larger.png": bomb(30_000, 30_000),
        "cut.png": bomb(9, 9)[:40],
        "text.png": b"no picture",
        "empty.npy": b"",
        "cut.npy": b"\x93NUMPY\x01\0\x10\0{",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with within(), pytest.raises(MaskError, match=f"{name}"):
            Mask.of(str(tmp_path / name))
    np.save(tmp_path / "objects.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(MaskError, match="cannot be read"):
        Mask.of(str(tmp_path / "objects.npy"))


def test_long_texts_are_cut_in_messages() -> None:
    for text in ("@" * 100_000, "[" * 100_000, "a[" + "heads=2," * 10_000 + "]", "a@steps=" + "x" * 100_000):
        with within(), pytest.raises(ValueError) as caught:
            Select(text)
        assert len(str(caught.value)) < 1000
    with pytest.raises(EditError, match=r"no kind of edit \['zero'\]"):
        edit_from_dict({"kind": ["zero"], "at": "generator.out"})
    with pytest.raises(ValueError, match=r"--edit 'steer\[a=\{\]:x': .* a plain value: not YAML"):
        generating.edit("steer[a={]:x")
