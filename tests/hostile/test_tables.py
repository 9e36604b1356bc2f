"""Lists of images and tables of captions: every line that is wrong is told, whatever program wrote it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.hostile.cases import answer, every, full, within
from tests.hostile.tables import lists
from wanlab.data.folder import write_video
from wanlab.data.media import MediaError
from wanlab.data.table import read_captions
from wanlab.runs.pairs import read_pairs
from wanlab.runs.source import FolderSource
from wanlab.runs.spec import Folder


@full
def test_lists_of_images_and_captions(whole: bool, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")

    def case(given: tuple[str, bytes]) -> None:
        path = tmp_path / f"list{given[0]}"
        path.write_bytes(given[1])
        found = answer(lambda: read_pairs(path), MediaError)
        if not isinstance(found, str):
            json.dumps([pair.prompt for pair in found], ensure_ascii=False).encode()
        answer(lambda: read_captions(path, ["a.png"]), MediaError)

    every("tables", whole, lists(), case)


@pytest.mark.parametrize(("suffix", "text", "expected"), [
    (".csv", "image,prompt\na.png," + "x" * 200_000, "field larger than field limit"),
    (".jsonl", '{"image": "a.png", "prompt": "\\ud800"}', "list.jsonl:1: the character U\\+D800 is no text"),
    (".jsonl", "[" * 3000, "list.jsonl:1: not JSON"), (".jsonl", "9" * 5000, "list.jsonl:1: not JSON"),
    (".jsonl", '{"image": ["a.png"], "prompt": "x"}', "list.jsonl:1: image and prompt are texts"),
    (".csv", f"image,prompt\n{'x' * 400}.png,a", "list.csv:2: no file 'xxxx"),
    (".csv", "\n" + "," * 200_000, "list.csv:1: the column '' stands twice"),
    (".csv", ",".join(map(str, range(200_000))) + "\n1", "list.csv:1: no column '0', .* and 199,988 more; a list of images has"),
])  # fmt: skip
def test_a_line_that_is_wrong_is_told(suffix: str, text: str, expected: str, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / f"list{suffix}").write_text(text)
    with within(), pytest.raises(MediaError, match=expected):
        read_pairs(tmp_path / f"list{suffix}")


def test_captions_with_more_fields_than_columns_are_told(tmp_path: Path) -> None:
    for text, expected in (("file,prompt\none.mp4,a,b\n", ":2: more fields"), ("file\none.mp4\n", "columns file, prompt"),
                           ("", ":1: no caption"),
                           ("file,caption\n" + "x" * 200_000, "field larger"),
                           ("file,prompt\none.mp4\n", ":2: no prompt")):  # fmt: skip
        (tmp_path / "captions.csv").write_text(text)
        with pytest.raises(MediaError, match=expected):
            read_captions(tmp_path / "captions.csv", ["one.mp4"])


def test_files_whose_names_are_no_text_have_names_that_are(tmp_path: Path) -> None:
    write_video(tmp_path / "one.mp4", torch.zeros(2, 3, 16, 16), lossless=True)
    os.rename(tmp_path / "one.mp4", os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    source = FolderSource(Folder(kind="folder", path=tmp_path), 16, 2)
    assert source.units([0]) == ["caf\\udce9.mp4"] and source.digest([0])
    assert source.clips([0]).video.shape == (1, 2, 3, 16, 16)
