"""Workers of Ray, in a cluster that `wanlab run --engine ray` starts by itself."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contracts.engine_contract import content
from tests.faults.conftest import Wanlab, logs, parts, wait_for
from wanlab.runs.store import RunFolder

pytestmark = pytest.mark.ray
RAY = ("--engine", "ray", "--workers", "2")


def below(pid: int) -> dict[int, str]:
    """The processes that a process started, and those that they started, with what they are called."""
    found, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(folder.name)] = int(status.split("PPid:")[1].split()[0])

    def descends(child: int) -> bool:
        while child in parents and child != pid:
            child = parents[child]
        return child == pid

    return {child: name for child, name in found.items() if child != pid and descends(child)}


def at_work(pid: int) -> list[int]:
    """The workers that are evaluating cells."""
    return [child for child, name in below(pid).items() if name.startswith("ray::Worker.evaluate")]


def seen_at_work(pid: int, ready: Callable[[], bool], process: subprocess.Popen[str]) -> list[int]:
    """The workers that evaluate cells at a moment at which `ready` holds; a moment later they may be between two tasks."""
    busy: list[int] = []

    def seen() -> bool:
        busy[:] = at_work(pid)
        return bool(busy) and ready()

    wait_for(seen, process)
    return busy


def test_a_worker_killed_from_outside_changes_no_byte(wanlab: Wanlab, undisturbed: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "out"
    process = wanlab.start(out, *RAY)
    busy = seen_at_work(process.pid, lambda: len(parts(out)) >= 3, process)
    os.kill(busy[0], signal.SIGKILL)
    cluster = below(process.pid)
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0 and "it is tried again: WorkerDied" in said, said
    lost = [line for lines in logs(out).values() for line in lines if line["state"] == "failed"]
    assert len(lost) == 1 and "WorkerDied" in lost[0]["error"]
    assert content(out) == content(undisturbed)
    left = [name for pid, name in cluster.items() if Path(f"/proc/{pid}").exists()]
    assert not left, "processes of the cluster are left"


def test_ctrl_c_with_workers_leaves_a_folder_that_goes_on_without_them(wanlab: Wanlab, undisturbed: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "out"
    process = wanlab.start(out, *RAY)
    wait_for(lambda: len(parts(out)) >= 3, process)
    os.kill(process.pid, signal.SIGINT)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 130 and "go on with: wanlab run" in said, said
    assert wanlab.run(out)[0] == 0
    assert content(out) == content(undisturbed)
    assert [line["engine"] for line in RunFolder(out).attempts() if line["state"] == "began"] == ["ray", "inline"]


def test_gpus_that_no_machine_has_are_told_at_once(wanlab: Wanlab, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    assert ray is not None
    code, said = wanlab.run(tmp_path / "out", *RAY, "--device", "cuda")
    if code == 0:
        pytest.skip("this machine has GPUs")
    assert code == 2 and "2 workers with 1 GPU each do not fit" in said and "0 GPUs (0 free)" in said, said
    assert not (tmp_path / "out").exists()
