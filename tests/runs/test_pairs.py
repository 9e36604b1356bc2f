"""Lists of first frames with prompts: read, run, and told line by line where they are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from tests.runs.toy import STUDY, bench, load_toy, resolve_toy
from wanlab.data.media import MediaError
from wanlab.runs.cell import open_workbench
from wanlab.runs.document import StudyError
from wanlab.runs.pairs import read_pairs
from wanlab.runs.reading import load_study
from wanlab.runs.source import SourceError, open_source
from wanlab.runs.spec import Images

LINES = [("a.png", "a red circle moves left", "first"), ("deep/b.png", 'a blue star, "spinning"', None), ("a.png", "", None)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "deep").mkdir()
    for index, name in enumerate(("a.png", "deep/b.png")):
        pixels = np.random.default_rng(index).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Picture.fromarray(pixels).save(tmp_path / name)
    rows = "".join(f'{image},"{prompt.replace(chr(34), chr(34) * 2)}",{name or ""}\n' for image, prompt, name in LINES)
    (tmp_path / "list.csv").write_text("image,prompt,name\n" + rows)
    objects = [{"image": image, "prompt": prompt, **({"name": name} if name else {})} for image, prompt, name in LINES]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, objects)) + "\n\n")
    return tmp_path


@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_both_forms_say_the_same(folder: Path, name: str) -> None:
    source = open_source(Images(kind="images", path=folder / name), 16, 8)
    assert source.prompts(range(3)) == [prompt for _, prompt, _ in LINES]
    assert source.units([0]) == ["first"] and source.units([1])[0].startswith("b-")
    clips = source.clips([0, 1])
    assert clips.video.shape == (2, 1, 3, 16, 16)
    pixels = torch.tensor(np.array(Picture.open(folder / "a.png"))).permute(2, 0, 1)
    assert torch.equal((clips.first[0] * 255).round().byte(), pixels)


def test_what_the_rows_depend_on_is_their_content(folder: Path, tmp_path: Path) -> None:
    source, same = (open_source(Images(kind="images", path=folder / f"list.{kind}"), 16, 8) for kind in ("csv", "jsonl"))
    assert source.digest([0, 1]) == same.digest([0, 1]) != source.digest([0, 2])
    Picture.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "a.png")
    changed = open_source(Images(kind="images", path=folder / "list.csv"), 16, 8)
    assert changed.digest([0]) != source.digest([0]) and changed.digest([1]) == source.digest([1])


def test_a_list_may_hold_last_frames(folder: Path) -> None:
    (folder / "ends.csv").write_text("image,prompt,last\na.png,one,deep/b.png\ndeep/b.png,two,a.png\n")
    source = open_source(Images(kind="images", path=folder / "ends.csv"), 16, 8)
    clips = source.clips([0, 1])
    assert torch.equal(clips.last, clips.first.flip(0))
    (folder / "plain.csv").write_text("image,prompt\na.png,one\ndeep/b.png,two\n")
    plain = open_source(Images(kind="images", path=folder / "plain.csv"), 16, 8)
    assert plain.clips([0]).last is None and plain.digest([0]) != source.digest([0])
    (folder / "some.csv").write_text("image,prompt,last\na.png,one,deep/b.png\ndeep/b.png,two,\n")
    with pytest.raises(MediaError, match="in some lines and not in others, as 'b-3'"):
        read_pairs(folder / "some.csv")


def test_a_study_runs_on_a_list(folder: Path) -> None:
    text = STUDY.replace("{kind: procedural, split: test, n: 5, seed: 0}", f"{{kind: images, path: {folder / 'list.csv'}, n: 2}}")
    work = bench("metrics=[flicker]", text=text)
    assert work.plan.reference == "baseline" and work.source.n == 2
    for group in work.plan.groups():
        for _, part in work.evaluate(group):
            assert part.prompt == [LINES[index][1] for index in part.index]  # type: ignore[union-attr]


def keys(file: Path) -> list[str]:
    """The hash of a study file and the keys of its cells, as this process and as a worker in the same folder finds them."""
    study, document = load_study(file, ["metrics=[flicker]"])
    work = open_workbench(study, document, "cpu", load_toy(), resolve_toy)
    found = [cell.key for cell in work.plan.cells.values()]
    assert found == [cell.key for cell in work.spec.open().plan.cells.values()]
    return [study.hash, *found]


def test_files_that_a_study_names_are_found_beside_it_from_anywhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, away = folder / "home", folder / "away"
    for name in ("a.png", "deep", "list.csv"):
        (home / name).parent.mkdir(exist_ok=True)
        (folder / name).rename(home / name)
    text = STUDY.replace("{kind: procedural, split: test, n: 5, seed: 0}", "{kind: images, path: list.csv, n: 2}")
    (home / "study.yaml").write_text(text)
    shutil.copytree(home, folder / "moved")
    away.mkdir()
    monkeypatch.chdir(home)
    here = keys(Path("study.yaml"))
    monkeypatch.chdir(away)
    assert keys(home / "study.yaml") == keys(Path("../moved/study.yaml")) == here
    (away / "list.csv").write_text(f"image,prompt\n{home / 'a.png'},one\n{home / 'a.png'},two\n")
    assert keys(home / "study.yaml")[0] == here[0] and keys(home / "study.yaml")[1:] != here[1:]  # the current folder comes first
    (away / "list.csv").unlink()
    (home / "list.csv").rename(home / "lists.csv")
    with pytest.raises(StudyError) as caught:
        keys(home / "study.yaml")
    for part in ("study.yaml:4:28: data.path: list.csv: no such file", str(away), str(home), "lists.csv"):
        assert part in str(caught.value)
    study, document = load_study(home / "study.yaml", ["data.path=lost.csv"])
    with pytest.raises(StudyError, match=r"^--set data.path=lost.csv: data.path: lost.csv: no such file"):
        open_workbench(study, document, "cpu", load_toy(), resolve_toy)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("x.csv", "image,prompt\nb.png,two\nc/d.png,three\n", ["x.csv:2: no file 'b.png'", "mean 'a.png'?)", "x.csv:3: "]),
        ("x.csv", "image,promt\na.png,one\n", ["x.csv:1: no column 'promt' (did you mean 'prompt'?)"]),
        ("x.csv", "image\na.png\n", ["x.csv:1: the column prompt is missing"]),
        ("x.csv", "image,prompt\na.png,left, right\n", ["x.csv:2: more fields than columns"]),
        ("x.csv", "image,prompt\n,one\n", ["x.csv:2: no image"]),
        ("x.csv", "image,prompt,name\na.png,one,n\na.png,two,n\n", ["x.csv:3: the name 'n' stands in line 2 too"]),
        ("x.csv", 'image,prompt\na.png,"left\nand up"\nb.png,two\n', ["x.csv:4: no file 'b.png'"]),
        ("x.csv", 'image,prompt\na.png,"left\nb.png,two\n', ["x.csv:2: no CSV from here on"]),
        ("x.csv", "image,prompt,image\na.png,one,b.png\n", ["x.csv:1: the column 'image' stands twice"]),
        ("x.csv", "image,prompt\n", ["x.csv:1: no pair"]),
        ("x.jsonl", '{"image": "a.png", "prompt": "x"}\n{"image": }\n[1]\n', ["x.jsonl:2: not JSON", "x.jsonl:3: expected"]),
        ("x.txt", "a.png\n", ["ends in .csv or .jsonl"]),
    ],
)  # fmt: skip
def test_every_wrong_line_is_told(folder: Path, name: str, text: str, expected: list[str]) -> None:
    (folder / name).write_text(text)
    with pytest.raises(MediaError) as caught:
        read_pairs(folder / name)
    for part in expected:
        assert part in str(caught.value)


def test_too_few_pairs_and_a_missing_list(folder: Path) -> None:
    with pytest.raises(SourceError, match="holds 3 pairs, the study asks for 4"):
        open_source(Images(kind="images", path=folder / "list.csv", n=4), 16, 8)
    with pytest.raises(MediaError, match="cannot be read: No such file"):
        open_source(Images(kind="images", path=folder / "none.csv"), 16, 8)


BROKEN = ("a red\ncircle", "left\u2028then up", "a\u0085b", "a\x0cb\x0bc", "one\r\ntwo", "x\x1cy\x1dz")


@pytest.mark.parametrize("name", ["breaks.csv", "breaks.jsonl"])
def test_breaks_of_lines_stay_in_their_prompts(folder: Path, name: str) -> None:
    """Whatever Python counts as a break of lines; only a line feed outside of quotes ends a row."""
    rows = "".join(f'a.png,"{prompt}"\r\n' for prompt in BROKEN)
    objects = [json.dumps({"image": "a.png", "prompt": prompt}, ensure_ascii=False) for prompt in BROKEN]
    text = "image,prompt\r\n" + rows if name.endswith("csv") else "\n".join(objects)
    (folder / name).write_bytes(text.encode())
    assert [pair.prompt for pair in read_pairs(folder / name)] == list(BROKEN)
