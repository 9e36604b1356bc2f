"""What a file from a stranger can do to its reader: nothing beyond what docs/security.md says, threat by threat."""

from __future__ import annotations

import ast
import json
import pickle
import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wanlab
from wanlab.core.label import RecordError
from wanlab.core.mask import Mask, MaskError
from wanlab.data.folder import load_image, read_video
from wanlab.data.media import MediaError
from wanlab.pipelines import published
from wanlab.pipelines.weights import WeightsError
from wanlab.runs import generating
from wanlab.runs.document import StudyError, parse
from wanlab.runs.files import RunFolderError, within
from wanlab.runs.reading import parse_study

ROOT = Path(__file__).resolve().parents[1]
STUDY = ("name: {name}\npipeline: tiny\ndata: {{kind: procedural, n: 1}}\nmetrics: [flicker]\n"
         "cells:\n  baseline:\n  {cell}: {{ablate: text}}\n")  # fmt: skip


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "sprung")


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    """The file that a trap would leave."""
    return tmp_path / "sprung"


def bomb(levels: int) -> str:
    """A few hundred letters of YAML that stand for 9 ** levels words."""
    lines = ["a0: &a0 [" + ", ".join("x" * 9) + "]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 9) + "]" for i in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.system [ls]", "a tag (!...) is not read here"),
        ("a: !!python/name:os.system", "a tag (!...) is not read here"),
        ("a: !include /etc/passwd", "a tag (!...) is not read here"),
        (bomb(12), "its aliases stand for more than 100,000 values"),
        ("a: &a [1, *a]", "nested too deeply: at most 50 levels, and nothing within itself"),
        ("a: " + "{b: " * 80 + "}" * 80, "nested too deeply"),
    ],
)
def test_a_study_is_plain_data_and_unfolds_to_no_more(text: str, message: str) -> None:
    started = time.process_time()
    with pytest.raises(StudyError, match=re.escape(message)):
        parse(text)
    assert time.process_time() - started < 20


def test_aliases_that_stand_for_little_are_welcome() -> None:
    assert parse("a: &a {b: [1, 2]}\nc: [*a, *a]\nd: {<<: *a}").data["d"] == {"b": [1, 2]}


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/b", "x" * 300, "a\\b", "a\0b", "line\n", "..", ".hidden"])
def test_no_name_of_a_study_leads_out_of_its_folder(name: str) -> None:
    with pytest.raises(StudyError, match="1:7: name: "):
        parse_study(STUDY.format(name=json.dumps(name), cell="other"))
    if not name.startswith("."):                                        # cells lie under their keys, whatever they are called
        with pytest.raises(StudyError, match=r"(?s)7:\d+: cells.*(a cell's name|is no text)"):
            parse_study(STUDY.format(name="good", cell=json.dumps(name)))


AXES = ("x/../../../../pwned", "/etc/pwned", "a/b", "x" * 300, "A", "a")


@pytest.mark.parametrize("where", ["name", pytest.param("value", marks=pytest.mark.slow)])
def test_no_axis_of_a_study_leads_out_of_its_folder(where: str, tmp_path: Path) -> None:
    """Axes are free text. Each of their values has heat maps of its own, in files that are called by numbers."""
    from wanlab.runs.report.figures import draw
    from wanlab.runs.stats import Result
    from wanlab.runs.store import CellFolder

    axes = [{"p": f"p{number}{one}", "q": f"q{number}{one}"} | ({text: 0} if where == "name" else {"n": text})
            for number, text in enumerate(AXES) for one in "ab"]  # fmt: skip
    cells = "".join(f"  c{number}: {{ablate: text, axes: {json.dumps(one)}}}\n" for number, one in enumerate(axes))
    study, _ = parse_study(STUDY.format(name="s", cell="other") + cells + "report: {figures: [heatmap]}\n")
    results = [Result(name, "flicker", "flicker", 1.0, 0.9, 1.1, 0.1, 0.0, 0.2, 0.5, 0.5, n=5, pairs=5) for name in study.cells]
    home = tmp_path / "1" / "2" / "3" / "figures"
    drawn = draw(study, {name: CellFolder(home) for name in study.cells}, results, home)
    assert [one.stem for one in drawn] == ["heatmap", *(f"heatmap-{number}" for number in range(2, len(AXES) + 1))]
    assert len({one.title for one in drawn}) == len(AXES)
    files = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {home / f"{one.stem}.{kind}" for one in drawn for kind in ("pdf", "png", "svg")}


@pytest.mark.parametrize("name", ["../up.pdf", "/etc/up.pdf", "a/b.pdf", "..", "", "a/../b.pdf"])
def test_no_file_of_a_report_leaves_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="it leads elsewhere"):
        within(tmp_path, name)
    assert within(tmp_path, "a.pdf") == tmp_path / "a.pdf"


def test_an_edit_on_the_command_line_is_plain_data_too() -> None:
    with pytest.raises(ValueError, match="what follows an = in brackets is a plain value"):
        generating.edit("scale[factor=!!python/name]:fusion.out")


def test_a_pipeline_folder_names_classes_of_a_table_and_checks_hashes(tmp_path: Path) -> None:
    from wanlab.pipelines.load import PRESETS

    copy = Path(shutil.copytree(PRESETS / "tiny", tmp_path / "copy"))
    manifest = json.loads((copy / "pipeline.json").read_text())
    whole = json.dumps(manifest)
    align = manifest["stages"]["align"]
    align["variants"][align["default"]]["class"] = "os.system"
    (copy / "pipeline.json").write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match=r"there is no class 'os\.system'"):
        wanlab.load(copy)
    (copy / "pipeline.json").write_text(whole)
    file = copy / manifest["stages"]["text"]["variants"][manifest["stages"]["text"]["default"]]["file"]
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(WeightsError, match="is damaged or was replaced"):
        wanlab.load(copy)


@pytest.mark.parametrize("form", ["pickle", "torch", "legacy"])
def test_a_pickle_in_the_clothes_of_weights_is_not_run(form: str, sprung: Path, tmp_path: Path) -> None:
    from metrics.weights.tensors import tensors
    from wanlab.pipelines.tensorfile import shapes
    from wanlab.training.checkpoint import load

    held = {"a": Trap(sprung)}
    for suffix in (".pth", ".bin", ".safetensors", ".pt"):
        file = tmp_path / f"weights{suffix}"
        if form == "pickle":
            file.write_bytes(pickle.dumps(held))
        else:
            torch.save(held, file, _use_new_zipfile_serialization=form == "torch")
        for read in (shapes, tensors, load):
            with pytest.raises(Exception):  # noqa: B017  each has its own error; what counts is the trap
                read(file)
    assert not sprung.exists()


def test_arrays_and_records_hold_no_pickle(sprung: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    with pytest.raises(MaskError, match="cannot be read"):
        Mask.of({"path": str(tmp_path / "mask.npy")})
    (tmp_path / "record.safetensors").write_bytes(pickle.dumps({"a": Trap(sprung)}))
    with pytest.raises(RecordError, match="cannot be read as safetensors"):
        wanlab.Record.load(tmp_path / "record.safetensors")
    assert not sprung.exists()


def test_a_picture_that_unfolds_to_gigabytes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(b"P4 60000 60000\n")                                # a header, and 43 GB as floating point numbers
    with pytest.raises(MediaError, match="too large to be read safely"):
        load_image(file)
    with pytest.raises(MaskError, match="cannot be read"):
        Mask.of({"path": str(file)})


def test_a_playlist_in_the_clothes_of_a_clip_reaches_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/clip.ts"
        for text in (f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n",
                     f"ffconcat version 1.0\nfile {address}\n"):
            (tmp_path / "clip.mp4").write_text(text)
            with pytest.raises(MediaError):
                read_video(tmp_path / "clip.mp4")
        with pytest.raises(TimeoutError):                               # nobody came
            server.accept()


def test_what_the_hub_gives_is_pinned_by_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, str]] = []

    def snapshot_download(name: str, revision: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, revision))
        return "."

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for source in (published.T5, published.DIT, "someone/t5@0123456"):
        published.folder_of("text", source)
    assert asked == [*published.REVISIONS.items(), ("someone/t5", "0123456")]
    assert all(re.fullmatch("[0-9a-f]{40}", revision) for revision in published.REVISIONS.values())
    with pytest.raises(WeightsError, match=r"needs the revision that you trust: .*@COMMIT.*nearest: google-t5/t5-base"):
        published.folder_of("text", "google-t5/t5-large")


def test_every_other_call_of_the_hub_stays_on_this_machine() -> None:
    reaching = "from_pretrained snapshot_download hf_hub_download load_state_dict_from_url urlopen urlretrieve".split()
    wrong = []
    for path in [*(ROOT / "wanlab").rglob("*.py"), *(ROOT / "metrics").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if re.search("|".join(reaching), text) else ():
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in reaching and given.get("local_files_only") != "True" and "revision" not in given:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}: {called}")
    assert not wrong, "could download what nobody pinned:\n" + "\n".join(wrong)


def test_security_page_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    missing = [f"{file}::{test}" for file, test in named
               if not (ROOT / file).is_file() or (test and f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8"))]
    assert len(named) > 12 and not missing, "\n".join(missing)


def test_the_allow_list_of_bandit_gives_a_reason_for_each_line() -> None:
    lines = (ROOT / ".ci" / "bandit.yaml").read_text(encoding="utf-8").splitlines()
    allowed = [line for line in lines if re.match(r"\s*- B\d+", line)]
    assert allowed and all(re.match(r"\s*- B\d{3}\s+# .{30,}", line) for line in allowed)
