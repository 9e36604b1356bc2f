"""A disk that is full where any file of a run folder is written: told, and the same command goes on to the same bytes.

The system says no at the one place through which every write goes, so no file system has to be mounted and no test is skipped.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.engine_contract import content, run
from wanlab.runs import files
from wanlab.runs.files import RunFolderError

SETS = ("data.n=2", "seeds=[0]", "report.videos=1")


def test_a_disk_that_is_full_at_any_file_is_told_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    telling, seen, refused = files.telling, dict[str, Path](), set[str]()

    @contextlib.contextmanager
    def small(path: Path) -> Iterator[None]:
        seen.setdefault(path.name, path)
        with telling(path):
            if path.name in refused:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield

    monkeypatch.setattr(files, "telling", small)
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(whole, "inline", *SETS)
    assert {"study.yaml", "environment.json", "00000.safetensors", "cell.yaml", "samples.parquet", "features.safetensors", "DONE",
            "0000.mp4", "attempts.jsonl"} <= set(seen)  # fmt: skip
    for name in list(seen):
        refused.add(name)
        with pytest.raises(RunFolderError, match=rf"(?s)the disk is full .* while writing .*{name}.*make room and give the same"):
            run(out, "inline", *SETS)
        refused.clear()
        run(out, "inline", *SETS)
        assert content(out) == content(whole), name
        shutil.rmtree(out)
