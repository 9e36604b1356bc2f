"""A long run ends as small and as quick as it began, and a clock that is put back does it no harm.

WANLAB_SOAK=640x10 in the environment runs so many samples through so many cells instead of 2,000 through 20.
"""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tests.runs.toy import STUDY, Toy, load_toy, resolve_toy
from tests.soak.measure import slope, soak
from wanlab.runs.logs import records
from wanlab.runs.study import report_study, run_study

SAMPLES, CELLS = map(int, os.environ.get("WANLAB_SOAK", "2000x20").split("x"))


def test_a_slope_comes_with_its_error() -> None:
    noise = np.random.default_rng(0).normal(size=(400, 200))
    found = [slope(3.0 + 0.01 * np.arange(200) + row, 1.0) for row in noise]
    rises, errors = np.array(found).T
    assert rises.mean() == pytest.approx(0.01, abs=5e-4) and errors.mean() == pytest.approx(rises.std(), rel=0.1)


@pytest.mark.slow(seconds=120)
def test_a_long_run_ends_as_small_and_as_quick_as_it_began(tmp_path: Path) -> None:
    readings = soak(SAMPLES, CELLS, tmp_path / "out")
    (growth, error), (slowing, doubt) = readings.growth(), readings.slowing()
    told = (
        f"{len(readings.memory)} readings of {SAMPLES} samples x {CELLS} cells: "
        f"memory {growth:+.2f} ± {error:.2f} MiB per 1,000 readings, "
        f"files {min(readings.files)} to {max(readings.files)}, threads {min(readings.threads)} to {max(readings.threads)}, "
        f"slowing {slowing:+.1%} ± {doubt:.1%}, {readings.moments[-1] - readings.moments[0]:.0f} s of CPU"
    )
    print(told)
    half = len(readings.files) // 2
    assert error < 4 and growth - 3 * error < 16, told  # keeping one video of each batch would be 200
    assert max(readings.files[half:]) <= max(readings.files[:half]) and max(readings.threads[half:]) <= max(
        readings.threads[:half]
    ), told
    assert doubt < 0.15 and slowing - 3 * doubt < 0.25, told


def test_a_clock_that_is_put_back_again_and_again_does_a_run_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, true, strftime = [0], time.time, time.strftime

    def backwards() -> float:
        calls[0] += 1
        return true() - 3600.0 * calls[0]

    monkeypatch.setattr(time, "time", backwards)
    monkeypatch.setattr(time, "strftime", lambda form, *given: strftime(form, *(given or (time.localtime(backwards()),))))
    (tmp_path / "study.yaml").write_text(STUDY.replace("n: 5", "n: 2").replace("videos: 2", "videos: 0, figures: []"))

    def run() -> object:
        quiet, toy = Console(file=io.StringIO()), {"load": load_toy(Toy()), "resolve": resolve_toy, "report": False}
        return run_study(tmp_path / "study.yaml", tmp_path / "out", (), "cpu", console=quiet, **toy)[1]

    first = run()
    assert len(first.done) == 5 and calls[0] > 5
    for log in (tmp_path / "out").rglob("attempts.jsonl"):
        for line in records(log):
            assert line.get("metrics", 0) >= 0 and all(one["seconds"] >= 0 for one in line.get("stages", {}).values()), json.dumps(
                line
            )
    assert len(run().before) == 5, "a clock decides what is done"
    assert report_study(tmp_path / "out", resolve=resolve_toy).exists()
