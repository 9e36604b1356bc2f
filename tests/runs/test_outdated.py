"""A run folder that several runs have filled, with other code, other settings of the report, or nothing but failures."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from tests.contracts.engine_contract import content
from tests.runs.toy import Toy, resolve_toy
from wanlab.runs import environment
from wanlab.runs.cell import Workbench
from wanlab.runs.plan import Task
from wanlab.runs.report.build import clips_of
from wanlab.runs.store import RunFolder, RunFolderError
from wanlab.runs.study import report_study

Run = Callable[..., Any]


def test_other_code_runs_again_beside_the_old(run: Run, pipe: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    root, _ = run()
    monkeypatch.setattr(environment, "context_of", lambda device: {"generate": "new", "measure": "new"})
    said = io.StringIO()
    _, outcome = run(said=said)
    assert len(outcome.done) == 5 and "run again" in said.getvalue()
    assert len(RunFolder(root).cells()) == 5 and len(list(root.glob("cells/*"))) == 10


def test_going_back_to_earlier_code_finds_what_it_made(run: Run, pipe: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    root, _ = run(report=True)
    before = content(root)
    with monkeypatch.context() as patch:
        patch.setattr(environment, "context_of", lambda device: {"generate": "new", "measure": "new"})
        run(report=True)
    pipe.runs.clear()
    _, outcome = run(report=True)
    assert pipe.runs == [] and len(outcome.before) == 5 and not outcome.done
    assert before.items() <= content(root).items() and not RunFolder(root).outdated()


def test_what_earlier_code_made_is_not_mixed_into_a_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    root, _ = run()
    monkeypatch.setattr(environment, "context_of", lambda device: {"generate": "new", "measure": "new"})
    part = Workbench.part

    done: set[str] = set()

    def stopped(self: Workbench, task: Task) -> Any:
        if not done:
            raise KeyboardInterrupt
        if task.cell not in done:
            raise RuntimeError("out of luck")
        return part(self, task)

    monkeypatch.setattr(Workbench, "part", stopped)
    with pytest.raises(KeyboardInterrupt):
        run()
    with pytest.raises(RunFolderError, match="no finished cell of its last run; earlier ones finished baseline, text, "):
        report_study(root, resolve=resolve_toy)
    done |= {"baseline", "detail", "sharp", "both"}
    run()
    page = report_study(root, resolve=resolve_toy).read_text()
    assert set(RunFolder(root).cells()) == done and RunFolder(root).outdated() == ["text"]
    assert "text (1 finished by earlier runs, with other code" in page
    assert {line.split(",")[0] for line in (root / "results.csv").read_text().splitlines()[1:]} == done


def test_a_run_of_which_every_cell_fails_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Workbench, task: Task) -> Any:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Workbench, "part", failing)
    root, outcome = run("out", "reference=baseline", report=True)
    assert len(outcome.failed) == 5 and not outcome.done and not (root / "results.csv").exists()


def test_a_sample_is_shown_that_all_cells_have_a_video_of(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Workbench.part

    def failing(self: Workbench, task: Task) -> Any:
        if task.cell == "text":
            raise RuntimeError("out of luck")
        return part(self, task)

    monkeypatch.setattr(Workbench, "part", failing)
    run("out", "report.videos=1", report=True)
    monkeypatch.setattr(Workbench, "part", part)
    said = io.StringIO()
    root, outcome = run("out", "report.videos=4", report=True, said=said)
    assert outcome.done == ["text"] and "finished with fewer than 4 videos, which they keep: baseline, " in said.getvalue()
    cells = RunFolder(root).cells()
    clips = clips_of(RunFolder(root), RunFolder(root).study(), cells, list(cells))
    assert {sample: list(shown) for sample, shown in clips.items()} == {"0000": ["true clip", *cells]}
    assert [path.name for path in (root / "report" / "figures").glob("strip-*.png")] == ["strip-0000.png"]
