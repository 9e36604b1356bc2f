"""What a run and a training show where there is no terminal: lines, now and then."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.runs.toy import bench
from wanlab.runs import progress
from wanlab.runs.forecast import forecast
from wanlab.runs.progress import TrainingMonitor, clock
from wanlab.runs.store import RunFolder


def test_a_training_without_a_terminal_is_told_in_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    said = io.StringIO()
    with TrainingMonitor(Console(file=said, width=120)) as monitor:
        monitor.part("base", 1, 3)
        monitor.busy("drawing clips", 64, 128)
        monitor.begin("base/diffusion", 40, 42, Path("base") / "diffusion.pt")
        monitor.step(41, 2.0)
        monitor.step(42, 1.0)
        monitor.end()
        monitor.part("no_align", 2, 3, kept=True)
    lines = said.getvalue().splitlines()
    assert lines[:3] == [
        "base  part 1 of 3",
        "drawing clips: 64 of 128",
        "resumed base/diffusion: going on at step 40 of 42 (base/diffusion.pt)",
    ]
    assert lines[3].startswith("base/diffusion: step 41 of 42  loss 2.0000  0.00 s/step  0:00 left")
    assert lines[4].startswith("base/diffusion: step 42 of 42  loss 1.9500")
    assert lines[5:] == ["done    base/diffusion  42 steps, loss 1.9500, 0:00", "no_align  part 2 of 3  finished before, kept"]


def test_ctrl_c_waits_for_the_step_in_hand_and_for_nothing_else() -> None:
    before = signal.getsignal(signal.SIGINT)
    with TrainingMonitor(Console(file=io.StringIO())) as monitor:
        monitor.busy("drawing clips", 0, 2)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        monitor.begin("a", 0, 2)
        assert not monitor.stopping
        signal.raise_signal(signal.SIGINT)
        assert monitor.stopping
        with pytest.raises(KeyboardInterrupt):  # the second time
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


SECONDS = "seconds={text: 0.5, denoise: 2, upsample.0: 0.25, upsample.1: 0.25, detail: 0.25, metrics: 0.1}"


def test_a_run_ends_with_what_the_plan_said_and_what_it_was(run: Callable[..., Any], tmp_path: Path) -> None:
    planned, said = forecast(bench(SECONDS), RunFolder(tmp_path / "out")), io.StringIO()
    root, outcome = run("out", SECONDS, said=said)
    assert planned.seconds > 60 and outcome.seconds[0] == pytest.approx(planned.seconds) and outcome.seconds[1] > 0
    assert f"stage runs: would have been 150, was {outcome.runs['made']} (as planned)" in said.getvalue()
    assert f"time: {clock(outcome.seconds[1])} (planned: {clock(planned.seconds)})" in said.getvalue()
    ended = RunFolder(root).attempts()[-1]
    assert (ended["expected_seconds"], ended["seconds"]) == outcome.seconds
    quiet = io.StringIO()
    _, outcome = run("other", said=quiet)
    assert outcome.seconds[0] is None and "planned:" not in quiet.getvalue() and "time: " in quiet.getvalue()


def test_times_as_people_read_them() -> None:
    assert [clock(s) for s in (0.4, 59.6, 125, 3600)] == ["0:00", "1:00", "2:05", "1:00:00"]
