"""A cluster of two machines, both on this one, of which the second is lost in the middle of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.engine_contract import content, run, whole
from wanlab.runs.store import CellFolder, Part

__all__ = ["whole"]  # a fixture of the suite
ROOT = Path(__file__).resolve().parents[2]
WAITS = 30.0  # seconds after which a group goes to a worker that is free; longer than a worker takes to start on a busy machine
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}


@pytest.mark.ray
def test_a_machine_that_is_lost_in_the_middle_changes_no_byte(whole: Path, tmp_path: Path) -> None:
    """Its worker dies, with what it may have in hand, and no other can take its place: the one that is left does the rest."""
    pytest.importorskip("ray", reason="needs the extra ray, in an environment of its own")
    # A process of its own: Ray reads its settings once in each, and this cluster has others than the product's.
    settings = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.contracts.test_ray_node", str(tmp_path / "out")]
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert content(tmp_path / "out") == content(whole)


def lose(out: Path) -> None:
    """Run the suite's study on two machines with one CPU each, and kill the second when four parts are saved."""
    from ray.cluster_utils import Cluster

    from wanlab.runs import ray as engine

    each = {"num_cpus": 1, "object_store_memory": 300 * 1024**2}
    machines = Cluster(initialize_head=True, head_node_args={**each, "include_dashboard": False, "_system_config": QUICK})
    machines.add_node(**each)
    save, saved = CellFolder.save, list[int]()

    def saving(self: CellFolder, chunk: int, part: Part) -> None:
        save(self, chunk, part)
        saved.append(chunk)
        if len(saved) == 4:
            [second] = machines.worker_nodes
            machines.remove_node(second, allow_graceful=False)

    CellFolder.save, engine.WAITS = saving, WAITS  # type: ignore[method-assign]  # this process does nothing else
    try:
        outcome = run(out, engine.Ray(machines.address, workers=2))
        assert len(outcome.done) == 5 and not outcome.failed and not machines.worker_nodes
    finally:
        machines.shutdown()


if __name__ == "__main__":
    lose(Path(sys.argv[1]))
