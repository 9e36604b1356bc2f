"""Several processes on one folder: they keep out of each other's way, or fill it together."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.contracts.engine_contract import content
from tests.faults.conftest import CELLS, TASKS, Wanlab, logs, wait_for
from wanlab.runs.store import RunFolder


def began(out: Path) -> int:
    """How many runs have begun in a folder."""
    return sum(line["state"] == "began" for line in RunFolder(out).attempts())


@pytest.mark.slow
def test_a_second_runner_is_told_who_is_at_work_and_harms_nothing(wanlab: Wanlab, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = wanlab.start(out)
    wait_for(lambda: began(out) == 1, first)
    first.send_signal(signal.SIGSTOP)           # or it is over before the second has begun
    for more in ([], ["--shard", "1/2"]):
        code, said = wanlab.run(out, *more)
        assert code == 2 and f"is being run by process {first.pid}" in said and "Traceback" not in said, said
    first.send_signal(signal.SIGCONT)
    said = first.communicate()[0]
    assert first.returncode == 0, said
    assert content(out) == content(undisturbed)


@pytest.mark.slow
def test_shards_side_by_side_fill_one_folder(wanlab: Wanlab, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shards = [wanlab.start(out, "--shard", f"{i}/3") for i in (1, 2, 3)]
    wait_for(lambda: began(out) == 3, shards[0])
    shards[1].send_signal(signal.SIGSTOP)
    code, said = wanlab.run(out, "--shard", "2/3")
    shards[1].send_signal(signal.SIGCONT)
    assert code == 2 and f"is being run by shard 2/3 in process {shards[1].pid}" in said, said
    answers = [process.communicate()[0] for process in shards]
    assert [process.returncode for process in shards] == [0, 0, 0], answers
    assert any("all cells are done" in answer for answer in answers)
    assert len(list(out.glob("cells/*/DONE"))) == CELLS and not list(out.rglob("*.part*"))
    tried = [(cell, line["chunk"]) for cell, lines in logs(out).items() for line in lines]
    assert sorted(set(tried)) == sorted(tried) and len(tried) == TASKS
    kept = {name: value for name, value in content(out).items() if name.startswith(("cells", "reference"))}
    assert kept == {name: value for name, value in content(undisturbed).items() if name.startswith(("cells", "reference"))}
