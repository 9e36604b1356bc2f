"""Fixtures of the runner's tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.runs.toy import STUDY, Toy, load_toy, resolve_toy
from wanlab.runs import cell, environment, source
from wanlab.runs.execution import Outcome
from wanlab.runs.study import run_study


@pytest.fixture
def pipe() -> Toy:
    """A fresh toy pipeline."""
    return Toy()


@pytest.fixture(autouse=True)
def _one_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of the stages does not change during a test, whoever edits it meanwhile."""
    for module in (cell, environment):
        monkeypatch.setattr(module, "context_of", lambda device: {"generate": "g", "measure": "m"})
    monkeypatch.setattr(source, "reading", lambda: "d")


@pytest.fixture
def run(tmp_path: Path, pipe: Toy) -> Callable[..., tuple[Path, Outcome]]:
    """Run a study text with the toy pipeline: run(out, *sets, text=..., said=StringIO(), report=True)."""

    def go(out: str = "out", *sets: str, text: str = STUDY, said: io.StringIO | None = None, **given: Any) -> tuple[Path, Outcome]:
        file = tmp_path / "study.yaml"
        file.write_text(text)
        console = Console(file=said or io.StringIO(), width=200)
        options = {"load": load_toy(pipe), "resolve": resolve_toy, "report": False, **given}
        return run_study(file, tmp_path / out, sets, "cpu", console=console, **options)

    return go
