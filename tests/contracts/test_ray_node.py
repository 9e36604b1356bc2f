"""A cluster of two machines, both on this one, of which the second is lost in the middle of a run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.engine_contract import content, run, whole
from wanlab.runs.store import CellFolder, Part, RunFolder

pytestmark = pytest.mark.ray
__all__ = ["whole"]  # a fixture of the suite
ROOT = Path(__file__).resolve().parents[2]
QUICK = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two of them, with one CPU each, that notice quickly when one is gone."""
    pytest.importorskip("ray", reason="needs the extra ray, in an environment of its own")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    handler = signal.getsignal(signal.SIGTERM)
    each = {"num_cpus": 1, "object_store_memory": 300 * 1024**2, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**each, "_system_config": QUICK})
    cluster.add_node(**{key: value for key, value in each.items() if key != "include_dashboard"})
    yield cluster
    cluster.shutdown()
    signal.signal(signal.SIGTERM, handler)


def test_a_machine_that_is_lost_in_the_middle_changes_no_byte(
    machines: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker dies with what it has in hand, and no other can take its place: the one that is left does it all."""
    from wanlab.runs import ray as engine

    monkeypatch.setattr(engine, "WAITS", 5.0)
    save, saved = CellFolder.save, list[int]()

    def saving(self: CellFolder, chunk: int, part: Part) -> None:
        save(self, chunk, part)
        saved.append(chunk)
        if len(saved) == 4:
            [second] = machines.worker_nodes
            machines.remove_node(second, allow_graceful=False)

    monkeypatch.setattr(CellFolder, "save", saving)
    outcome = run(tmp_path / "out", engine.Ray(machines.address, workers=2))
    assert len(outcome.done) == 5 and not outcome.failed and not machines.worker_nodes
    lines = [line for cell in RunFolder(tmp_path / "out").cells().values() for line in cell.attempts()]
    assert [line["error"] for line in lines if line["state"] == "failed" and "WorkerDied" in line["error"]], "nothing was lost"
    assert content(tmp_path / "out") == content(whole)
