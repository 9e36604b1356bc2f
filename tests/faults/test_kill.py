"""Runs that are killed or stopped: nothing that was finished is lost or made again, and the results are the same bytes."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.contracts.engine_contract import content
from tests.faults.conftest import CELLS, TASKS, Wanlab, logs, parts, wait_for
from wanlab.runs.store import RunFolder

KILLS = 20


def held(root: Path) -> dict[str, bytes]:
    """What may not change any more: saved parts, and all that finished cells hold with their logs."""
    finished = [path for done in root.glob("cells/*/DONE") for path in done.parent.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in [*parts(root), *finished] if path.name != ".lock"}


@pytest.mark.slow
def test_a_run_that_is_killed_once_goes_on(wanlab: Wanlab, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = wanlab.start(out, "--shard", "1/1", "--set", "data.n=2", "--set", "metrics=[psnr]")
    wait_for(lambda: len(parts(out)) >= 3, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    before = held(out)
    assert len(before) >= 3
    code, said = wanlab.run(out, "--shard", "1/1", "--set", "data.n=2", "--set", "metrics=[psnr]")
    assert code == 0 and "all cells are done" in said, said
    assert len(list(out.glob("cells/*/DONE"))) == CELLS and not parts(out)
    tried = [(cell, line["chunk"]) for cell, lines in logs(out).items() for line in lines]
    assert len(set(tried)) == len(tried) and CELLS * 4 - 1 <= len(tried) <= CELLS * 4


@pytest.mark.slow(seconds=80)
def test_twenty_kills_at_random_moments_lose_nothing(wanlab: Wanlab, undisturbed: Path, tmp_path: Path) -> None:
    chance, kills, folders = random.Random(0), 0, 0
    while kills < KILLS:
        folders += 1
        out = tmp_path / f"out-{folders}"
        before: dict[str, bytes] = {}
        while True:
            process = wanlab.start(out)
            began = len(RunFolder(out).attempts())
            wait_for(lambda out=out, began=began: len(RunFolder(out).attempts()) > began, process)  # else most die while importing
            if kills < KILLS:
                time.sleep(chance.uniform(0, 2.0))
                process.kill()
                kills += process.wait() == -signal.SIGKILL
            else:
                assert process.wait() == 0
            now = held(out)
            gone = {name for name in before if name not in now and not (out / name).parents[1].joinpath("DONE").exists()}
            assert not gone, "finished work was lost"
            assert all(now[name] == data for name, data in before.items() if name in now), "finished work was made again"
            before = now
            if process.returncode == 0:
                break
        tried = [(cell, line["chunk"]) for cell, lines in logs(out).items() for line in lines]
        assert len(set(tried)) == len(tried) <= TASKS, "a finished batch ran again"
        assert content(out) == content(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_finishes_its_write_and_says_how_to_go_on(
    number: signal.Signals, wanlab: Wanlab, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = wanlab.start(out)
    wait_for(lambda: len(parts(out)) >= 7, process)
    os.kill(process.pid, number)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 128 + number and "stopped; what is finished is kept, go on with: wanlab run" in said
    assert not list(out.rglob(".*.part*")) and RunFolder(out).attempts()[-1]["state"] == "stopped"
    assert wanlab.run(out)[0] == 0
    assert content(out) == content(undisturbed)
