"""Ray under the contract of engines, on a real cluster of this machine; and what Ray alone can do: lose a worker."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.engine_contract import EngineContract, content, run, whole
from wanlab.runs.cell import Failure
from wanlab.runs.engine import Engine, EngineError
from wanlab.runs.plan import Group, Task
from wanlab.runs.store import Part, RunFolder

pytestmark = pytest.mark.ray
__all__ = ["whole"]  # a fixture of the suite
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One cluster for all tests of this file, whose workers find the tests' modules."""
    ray = pytest.importorskip("ray", reason="needs the extra ray, in an environment of its own")
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), before])
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error", object_store_memory=1024**3)
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, handler)
    os.environ["PYTHONPATH"] = before


class TestRay(EngineContract):
    def engine(self) -> Engine:
        from wanlab.runs.ray import Ray

        return Ray(workers=2)


def ray(**given: object) -> Engine:
    from wanlab.runs.ray import Ray

    return Ray(**given)  # type: ignore[arg-type]


def test_a_worker_killed_in_the_middle_of_a_cell_changes_no_byte(whole: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    once = f"once {tmp_path / 'killed'}"
    outcome = run(tmp_path / "out", ray(workers=2), f"cells.once={{swap: {{detail: {once!r}}}}}", said=said)
    assert (tmp_path / "killed").exists() and not outcome.failed and len(outcome.done) == 6
    lines = [line for cell in RunFolder(tmp_path / "out").cells().values() for line in cell.attempts()]
    [lost] = [line for line in lines if line["state"] == "failed"]
    assert "WorkerDied" in lost["error"] and "it is tried again" in said.getvalue()
    [again] = [line for line in lines if line["state"] == "ok" and line["attempt"] == 2]
    assert again["chunk"] == lost["chunk"] and len(lines) == 6 * 6 + 1
    run(tmp_path / "plain", "inline", f"cells.once={{swap: {{detail: {once!r}}}}}")
    assert content(tmp_path / "out") == content(tmp_path / "plain")


def test_a_worker_that_dies_after_its_last_result_has_lost_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wanlab.runs import ray as engine

    left, said = tmp_path / "left", io.StringIO()

    class Leaving(engine.Worker):
        def evaluate(self, group: Group) -> Iterator[tuple[Task, Part | Failure]]:
            yield from super().evaluate(group)
            if not left.exists():
                left.touch()
                time.sleep(2)  # until the result has arrived
                os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(engine, "Worker", Leaving)
    outcome = run(tmp_path / "out", ray(workers=1), said=said)
    assert left.exists() and len(outcome.done) == 5 and "after its last result: WorkerDied" in said.getvalue()
    lines = [line for cell in RunFolder(tmp_path / "out").cells().values() for line in cell.attempts()]
    assert {line["state"] for line in lines} == {"ok"} and content(tmp_path / "out") == content(whole)


def test_a_cell_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    outcome = run(tmp_path / "out", ray(workers=2), "data.n=2", "cells.deadly={swap: {detail: deadly}}", "seeds=[0]")
    assert list(outcome.failed) == ["deadly"] and "WorkerDied" in outcome.failed["deadly"] and len(outcome.done) == 5


def test_a_demand_that_no_cluster_meets_is_told_before_anything_is_submitted(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"8 workers with 1 CPU each do not fit: the cluster has 1 machines with 2 CPUs"):
        run(tmp_path / "many", ray(workers=8))
    engine = ray()
    with pytest.raises(EngineError, match=r"1 workers with 1 GPU each do not fit: .* 0 GPUs \(0 free\)"):
        engine.prepare("cuda")
    engine.close()
    with pytest.raises(EngineError, match="cpu, cuda or auto"):
        ray().prepare("cuda:1")


def test_a_worker_that_would_compute_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wanlab.runs import environment

    context = environment.context_of
    monkeypatch.setattr(environment, "context_of", lambda device: {**context(device), "generate": "another code"})
    with pytest.raises(EngineError, match=r"would compute under other keys.*code\.generate: "):
        run(tmp_path / "out", ray(workers=1))


def test_workers_that_share_a_cache_help_with_one_batch(tmp_path: Path) -> None:
    sets = ("data.n=2", "seeds=[0]", f"cache.disk={tmp_path / 'cache'}", "share.fork=false")
    engine, seen = ray(workers=2), set()
    close = engine.close

    def closing() -> None:
        seen.update(slot.where for slot in engine.slots if slot.where)  # type: ignore[attr-defined]
        close()

    engine.close = closing  # type: ignore[method-assign]
    outcome = run(tmp_path / "out", engine, *sets)
    assert len(outcome.done) == 5 and len(seen) == 2, "the only batch kept one worker busy"
    assert outcome.runs["shared"] <= outcome.runs["made"] <= outcome.runs["shared"] + 4  # both may begin the same stage
    run(tmp_path / "plain", "inline", *sets[:2], "share.fork=false")
    ours, theirs = (content(tmp_path / name) for name in ("out", "plain"))
    assert {k: v for k, v in ours.items() if "/" in k} == {k: v for k, v in theirs.items() if "/" in k}
