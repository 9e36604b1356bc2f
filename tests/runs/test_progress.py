"""What a run and a training show where there is no terminal: lines, now and then."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import pytest
from rich.console import Console

from wanlab.runs import progress
from wanlab.runs.progress import TrainingMonitor, clock


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


def test_times_as_people_read_them() -> None:
    assert [clock(s) for s in (0.4, 59.6, 125, 3600)] == ["0:00", "1:00", "2:05", "1:00:00"]
