"""The studies of Wan run on random weights as they would on published ones."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from wanlab.runs.study import run_study

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "wan"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cells"), [("blocks", 91), ("conditioning", 7)])
def test_a_study_of_wan_runs_on_one_sample(name: str, cells: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parents[1])
    said = io.StringIO()
    root, outcome = run_study(FOLDER / f"{name}.yaml", tmp_path / "out", ["data.n=1", "report.videos=1"], "cpu",
                              console=Console(file=said, width=200))
    assert not outcome.failed and len(outcome.done) == cells, said.getvalue()
    assert (root / "report" / "report.html").is_file()
