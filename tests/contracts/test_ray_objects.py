"""Stage outputs shared through Ray's object store: real workers of a real cluster, and the ends that they may come to."""

from __future__ import annotations

import io
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.engine_contract import content, load_fragile, run, same, whole
from tests.contracts.test_ray_contract import cluster, ray
from tests.runs.toy import STUDY, resolve_toy
from wanlab.runs.cell import Workbench, open_workbench
from wanlab.runs.environment import threads
from wanlab.runs.plan import Group
from wanlab.runs.reading import parse_study
from wanlab.runs.store import Part

pytestmark = pytest.mark.ray
__all__ = ["cluster", "whole"]  # fixtures
MIB = 1024**2
EVERYTHING = dict.fromkeys(("text", "denoise", "upsample.0", "upsample.1", "detail"), 1)


@pytest.fixture
def bench() -> Iterator[Workbench]:
    study, document = parse_study(STUDY, ["data.n=2", "seeds=[0]"])
    with threads(1):
        yield open_workbench(study, document, "cpu", load_fragile, resolve_toy)


class Two:
    """Two workers as the engine starts them, and the index that they share."""

    def __init__(self, bench: Workbench, limit: int):
        import ray as package

        from wanlab.runs.objects import start_index
        from wanlab.runs.ray import Worker

        self.ray, self.bench = package, bench
        self.index = start_index(package, limit)
        self.workers = [package.remote(num_cpus=1, max_concurrency=2)(Worker).remote(1) for _ in range(2)]
        for worker in self.workers:
            keys, _ = package.get(worker.open.remote(bench.spec, self.index))
            assert keys == {name: cell.key for name, cell in bench.plan.cells.items()}

    def evaluate(self, worker: int, *cells: str) -> tuple[Counter[str], Counter[str]]:
        """Stage runs and hits of these cells on the first batch; the bits are those of a plain loop."""
        group, runs, hits = Group(0, cells), Counter[str](), Counter[str]()
        there = self.workers[worker].evaluate.options(num_returns="streaming").remote(group)
        for given, (task, expected) in zip(there, self.bench.evaluate(group), strict=True):
            name, part = self.ray.get(given)
            assert name == task and isinstance(part, Part) and isinstance(expected, Part) and same(part, expected)
            for stage, counts in part.log["stages"].items():
                runs[stage] += int(counts["runs"])
                hits[stage] += int(counts["hits"])
        return +runs, +hits

    def kill(self, actor: Any) -> None:
        """SIGKILL, from outside."""
        os.kill(self.ray.get(actor.__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)

    def said(self, worker: int) -> list[str]:
        return self.ray.get(self.workers[worker].said.remote())

    def close(self) -> None:
        for actor in (*self.workers, self.index):
            self.ray.kill(actor)


def until(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    """Wait for something that comes by itself."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)


def test_what_one_worker_made_no_other_makes_again(bench: Workbench) -> None:
    from wanlab.runs.objects import ObjectTier

    two = Two(bench, 100 * MIB)
    try:
        first = two.evaluate(0, "baseline")[0]
        assert first == EVERYTHING
        runs, hits = two.evaluate(1, "detail", "both")
        # detail goes on from the baseline's last level; `both` cuts the skips of the levels, and starts from its denoised video
        assert runs == {"detail": 2, "upsample.0": 1, "upsample.1": 1} and hits["denoise"] == 1 and hits["upsample.1"] == 1
        held = two.ray.get(two.index.held.remote())
        assert 0 < held.used == held.peak <= held.limit and held.dropped == 0
        assert two.said(0) == two.said(1) == []
        two.kill(two.workers[0])  # what it made dies with it, as soon as the others hear of its end
        until(lambda: ObjectTier(two.index).get(bench.plan.cells["baseline"].keys[0]["text"]) is None)
        assert two.evaluate(1, "baseline")[0] == EVERYTHING
        assert not two.evaluate(1, "baseline", "detail", "both")[0] and two.said(1) == []
    finally:
        two.close()


def test_an_index_that_dies_costs_time_and_no_result(bench: Workbench) -> None:
    two = Two(bench, 100 * MIB)
    try:
        two.evaluate(0, "baseline")
        two.kill(two.index)
        assert sum(two.evaluate(1, "detail")[0].values()) >= 1
        until(lambda: _answers(two))
        two.evaluate(0, "both")  # the index is there again, and forgot what it knew
        assert not two.evaluate(1, "both")[0]
    finally:
        two.close()


def _answers(two: Two) -> bool:
    try:
        return bool(two.ray.get(two.index.held.remote()).limit)
    except two.ray.exceptions.RayError:
        return False


def test_the_limit_is_kept_and_what_made_room_is_freed(bench: Workbench) -> None:
    """A batch of the toy is 3 kB before its levels, 12 and 49 kB after them, and 49 kB at its end."""
    two = Two(bench, 100_000)
    try:
        for cells in (["baseline", "both"], ["text"], ["detail", "baseline"]):
            two.evaluate(0, *cells)
            two.evaluate(1, *cells[::-1])
        held = two.ray.get(two.index.held.remote())
        assert held.used <= held.peak <= held.limit == 100_000 and held.dropped > 0
    finally:
        two.close()


def test_objects_that_made_room_leave_the_store() -> None:
    import torch

    from wanlab.runs.objects import ObjectTier, start_index

    package = pytest.importorskip("ray")
    index = start_index(package, 40 * MIB)
    tier = ObjectTier(index)
    try:
        for number in range(30):
            tier.put(f"key{number}", {"video": torch.full((10 * MIB // 4,), float(number))})
            found = tier.get(f"key{number}")
            assert found is not None and float(found["video"][-1]) == number
        held = package.get(index.held.remote())
        assert held.objects == 4 and held.peak <= 40 * MIB and held.dropped == 26 and "key0" not in tier and "key29" in tier
        assert tier.get("key0") is None
        until(lambda: _used(package) <= 45 * MIB)  # or something holds on to objects that the index let go
    finally:
        package.kill(index)


def _used(package: Any) -> float:
    """Bytes in the cluster's object store."""
    return package.cluster_resources()["object_store_memory"] - package.available_resources()["object_store_memory"]


def test_workers_without_a_common_folder_help_with_one_batch(whole: Path, tmp_path: Path) -> None:
    sets = ("data.n=2", "seeds=[0]", "share.fork=false")
    said, seen = io.StringIO(), set()
    engine = ray(workers=2)
    close = engine.close

    def closing() -> None:
        seen.update(slot.where for slot in engine.slots if slot.where)  # type: ignore[attr-defined]
        close()

    engine.close = closing  # type: ignore[method-assign]
    outcome = run(tmp_path / "out", engine, *sets, said=said)
    assert len(outcome.done) == 5 and len(seen) == 2, "the only batch kept one worker busy"
    assert outcome.runs["shared"] <= outcome.runs["made"] <= outcome.runs["shared"] + 4  # both may begin the same stage
    assert outcome.runs["made"] < outcome.runs["alone"]
    assert "share stage outputs through Ray's object store, at most 0.6 GiB; 2.0 are stated" in said.getvalue()
    run(tmp_path / "plain", "inline", *sets)
    assert content(tmp_path / "out") == content(tmp_path / "plain")
