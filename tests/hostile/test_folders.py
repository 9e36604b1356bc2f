"""Run folders that were damaged, come from elsewhere, or lead out of themselves: told, and what was finished stays finished."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.hostile.cases import answer, every, full
from tests.hostile.files import Harm, harm, harms, restate
from tests.runs.toy import Toy, load_toy, resolve_toy
from wanlab.graph import file_digest
from wanlab.runs import cell, environment, source
from wanlab.runs.document import StudyError
from wanlab.runs.execution import Outcome
from wanlab.runs.files import RunFolderError
from wanlab.runs.store import RunFolder
from wanlab.runs.study import report_study, run_study

STUDY = """
name: toy
pipeline: toy
data: {kind: procedural, split: test, n: 2, seed: 0}
cells:
  baseline:
  .x.party: {ablate: text}
metrics: [psnr, colour_distance]
report: {videos: 0, figures: []}
"""


@pytest.fixture(autouse=True)
def _one_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of the stages does not change during a test, whoever edits it meanwhile."""
    for module in (cell, environment):
        monkeypatch.setattr(module, "context_of", lambda device: {"generate": "g", "measure": "m"})
    monkeypatch.setattr(environment, "commit", lambda: None)
    monkeypatch.setattr(source, "reading", lambda: "d")


@pytest.fixture
def go(tmp_path: Path) -> Callable[[Path], tuple[Path, Outcome]]:
    """Run the study of this file into a folder; no report."""
    (tmp_path / "study.yaml").write_text(STUDY)

    def run(out: Path) -> tuple[Path, Outcome]:
        quiet, options = Console(file=io.StringIO()), {"load": load_toy(Toy()), "resolve": resolve_toy, "report": False}
        return run_study(tmp_path / "study.yaml", out, (), "cpu", console=quiet, **options)

    return run


def contents(root: Path) -> dict[str, bytes]:
    """All files below a folder, links as what they say."""
    return {str(path.relative_to(root)): str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
            for path in sorted(root.rglob("*")) if path.is_symlink() or path.is_file()}  # fmt: skip


def finished(root: Path) -> Iterator[Path]:
    """The cells whose files are all those that DONE states."""
    for done in root.glob("cells/*/DONE"):
        try:
            sums = json.loads(done.read_text())
            if sums and all(file_digest(done.parent / name) == value for name, value in sums.items()):
                yield done.parent
        except (OSError, ValueError, AttributeError, RecursionError):
            continue


@full
def test_run_folders(whole: bool, tmp_path: Path, go: Callable[[Path], tuple[Path, Outcome]]) -> None:
    kept, outside, out = tmp_path / "kept", tmp_path / "outside", tmp_path / "out"
    go(kept)
    (outside / "folder").mkdir(parents=True)
    (outside / "file.txt").write_text("of somebody else")
    (outside / "folder" / "DONE").write_text("{}")
    before = contents(outside)

    def case(done: list[Harm]) -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(kept, out)
        for one in done:
            harm(out, outside, one)
        safe = {path: contents(path) for path in finished(out) if not path.is_symlink()}
        answer(lambda: report_study(out, resolve=resolve_toy), RunFolderError, StudyError, OSError)
        answer(lambda: go(out), RunFolderError, StudyError, OSError)
        assert contents(outside) == before, "something was written outside"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "out", "outside", "study.yaml"]
        for path, files in safe.items():
            logs = ("attempts.jsonl", ".lock")
            assert {k: v for k, v in contents(path).items() if k not in logs} == {k: v for k, v in files.items() if k not in logs}

    every("run folders", whole, harms(kept), case)


def test_a_cell_that_is_called_as_a_temporary_file_is_stays(tmp_path: Path, go: Callable[[Path], tuple[Path, Outcome]]) -> None:
    root, outcome = go(tmp_path / "out")
    assert set(outcome.done) == {"baseline", ".x.party"}
    assert set(go(root)[1].before) == {"baseline", ".x.party"}


@pytest.mark.parametrize("name", ["attempts.jsonl", ".lock", "cells", "study.yaml"])
def test_a_link_out_of_the_folder_is_refused_and_what_it_leads_to_stays(name: str, tmp_path: Path, go: Callable) -> None:
    root = go(tmp_path / "out")[0]
    secret = tmp_path / "secret"
    shutil.copytree(root / "cells", secret) if name == "cells" else secret.write_text("of somebody else")
    before = contents(tmp_path / "secret") if secret.is_dir() else secret.read_bytes()
    shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(secret)
    for call in (lambda: go(root), lambda: report_study(root, resolve=resolve_toy)):
        with pytest.raises(RunFolderError):
            call()
    assert (contents(secret) if secret.is_dir() else secret.read_bytes()) == before


def test_a_run_folder_behind_a_link_is_one_folder(tmp_path: Path, go: Callable) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large disk")
    assert go(tmp_path / "out")[1].done and RunFolder(tmp_path / "large disk").begun


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("environment.json", '{"code"', "environment.json is damaged"), ("study.yaml", "hash: [", "study.yaml is damaged or edited"),
    ("cells/*/samples.parquet", "PAR1", "files of these cells are not those that were written"),
    ("cells/*/cell.yaml", "&a [*a]", "files of these cells are not those that were written"),
    ("cells/*/cell.yaml, restated", "&a [*a]", "cell.yaml is damaged, or of another version"),
])  # fmt: skip
def test_damage_is_told_with_what_helps(name: str, text: str, expected: str, tmp_path: Path, go: Callable) -> None:
    root = go(tmp_path / "out")[0]
    name, _, restated = name.partition(", ")
    for path in root.glob(name):
        path.write_text(text)
        if restated:
            restate(path.parent / "DONE", path)
    with pytest.raises(RunFolderError, match=expected):
        report_study(root, resolve=resolve_toy)


def test_a_folder_of_another_version_is_told_so(tmp_path: Path, go: Callable) -> None:
    from wanlab.graph import digest
    from wanlab.runs.files import to_yaml
    from wanlab.runs.spec import settings

    root = go(tmp_path / "out")[0]
    data = RunFolder(root).study().resolved() | {"antialias": True}
    (root / "study.yaml").write_text(to_yaml({"hash": digest(settings(data)), "study": data}))
    with pytest.raises(RunFolderError, match=r"written by another version of wanlab \(antialias: "):
        report_study(root, resolve=resolve_toy)


def test_a_damaged_mark_of_the_true_clips_does_not_stop_a_run(tmp_path: Path, go: Callable) -> None:
    root = go(tmp_path / "out")[0]
    (root / "reference" / "DONE").write_bytes(b"\xff")
    assert len(go(root)[1].before) == 2 and (root / "reference" / "DONE").read_text().startswith("0 ")


def test_lines_of_a_log_that_say_nothing_do_not_stop_a_run(tmp_path: Path, go: Callable) -> None:
    root = go(tmp_path / "out")[0]
    for log in [root / "attempts.jsonl", *root.glob("cells/*/attempts.jsonl")]:
        with open(log, "ab") as stream:
            stream.write(b'null\n5\n{"state": "ok"}\n{"state": "ok", "chunk": 0, "stages": {"text": 5}}\n\xff\xfe\n' + b"[" * 3000)
    for done in root.glob("cells/baseline-*/DONE"):
        done.unlink()
    assert go(root)[1].done == ["baseline"] and report_study(root, resolve=resolve_toy).exists()


def rewritten(root: Path, name: str, change: Callable[[Path], None]) -> None:
    """Change a file of the baseline, and DONE so that it states the new checksum: what whoever makes run folders can do."""
    [home] = root.glob("cells/baseline-*")
    change(home / name)
    restate(home / "DONE", home / name)


def column(name: str, value: object) -> Callable[[Path], None]:
    """Give every row of a table this value in a column."""

    def change(path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
        pyarrow.parquet.write_table(table.set_column(table.column_names.index(name), name, [[value] * len(table)]), path)

    return change


@pytest.mark.parametrize(("name", "value"), [("index", 77), ("index", "x"), ("metric", "flicker"), ("prompt", None), ("value", "x"),
                                             ("seed", -1)])  # fmt: skip
def test_rows_that_do_not_fit_are_told_though_the_checksum_does(name: str, value: object, tmp_path: Path, go: Callable) -> None:
    root = go(tmp_path / "out")[0]
    rewritten(root, "samples.parquet", column(name, value))
    if name == "prompt":
        assert report_study(root, resolve=resolve_toy).exists()
        return
    with pytest.raises(RunFolderError, match=r"samples.parquet is damaged, or of another version \(.*makes this cell again"):
        report_study(root, resolve=resolve_toy)


def test_a_damaged_cell_of_other_code_stops_no_later_run(tmp_path: Path, go: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    root = go(tmp_path / "out")[0]
    for module in (cell, environment):
        monkeypatch.setattr(module, "context_of", lambda device: {"generate": "new", "measure": "new"})
    for path in root.glob("cells/baseline-*/cell.yaml"):
        path.write_text("[")
    assert set(go(root)[1].done) == {"baseline", ".x.party"}
