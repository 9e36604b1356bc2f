"""The engine beyond one process: workers of a Ray cluster, started here or joined.

A worker is an actor that opens the study's workbench once and then evaluates groups. Stage outputs are shared through the
study's `cache.disk`, a folder that all machines have mounted, or without one through Ray's object store, up to
`cache.object_store_gib` (objects.py); so groups are cut, and whoever is free helps with their pieces. Where neither is, what a
group's cells share stays in the memory of its worker, and there is work for as many workers as there are groups. Rows, features
and encoded clips come back one cell at a time, and only this process writes. Ray retries nothing: a group whose worker died is
handed in as failed, and the executor counts.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from wanlab.graph import GIB

from .cell import Failure, Workbench, WorkbenchSpec
from .cluster import TRANSIT, Cluster, cause
from .differences import differing
from .dispatch import Dispatch
from .engine import Deliver, EngineError, Place
from .environment import describe, pick_device
from .objects import Held, ObjectTier, room, start_index
from .plan import Group, Task
from .store import Part

PATIENCE = 300.0  # seconds until a cluster that starts no worker at all is given up
PIECES = 8  # for each worker, where groups may be cut
PAUSE = 5.0  # seconds after a worker that died before it began, until another is tried: a lost machine is still counted for a while
WAITS = 60.0  # seconds that a group waits for a worker that has not started, where another one has nothing to do
DEATHS = 3  # workers that may die per slot without one result between them
SAME = ("wanlab", "commit", "python", "device", "threads", "packages", "code")  # of an environment, what results depend on


class Worker:
    """What runs in a worker's process."""

    def __init__(self, threads: int):
        self._threads = threads
        self._bench: Any = None
        self._now = ("", "", 0, 0)
        self._said: list[str] = []

    def hello(self) -> str:
        """Where this is."""
        return f"{platform.node()}, process {os.getpid()}"

    def open(self, spec: WorkbenchSpec, index: Any) -> tuple[dict[str, str], dict[str, Any]]:
        """Open the workbench; the keys of its cells, and the environment that they come from. index: of the stage outputs that
        are shared through the object store, or None."""
        torch.set_num_threads(self._threads)
        self._bench = spec.open()
        self._bench.notify = self._notify
        if index is not None:
            self._bench.cache.shared = ObjectTier(index)
        if self._bench.cache.shared is not None:
            self._bench.cache.shared.tell = self._said.append
        return {name: cell.key for name, cell in self._bench.plan.cells.items()}, describe(spec.device)

    def evaluate(self, group: Group) -> Iterator[tuple[Task, Part | Failure]]:
        """See `Workbench.evaluate`."""
        torch.set_num_threads(self._threads)  # of this thread: Ray calls from several
        yield from self._bench.evaluate(group)

    def now(self) -> tuple[str, str, int, int]:
        """What the worker is at: cell, stage, steps done, steps."""
        return self._now

    def said(self) -> list[str]:
        """What the user should hear about, since it was asked last."""
        return [self._said.pop(0) for _ in range(len(self._said))]

    def _notify(self, cell: str, what: str, done: int, total: int) -> None:
        self._now = (cell, what, done, total)


class Slot:
    """The place of one worker: its actor (None: none is running), and the group that it has in hand. since: when it was first tried
    to start a worker that has not begun yet; after: when it may be tried again."""

    def __init__(self, number: int):
        self.number = number
        self.actor: Any = None
        self.where, self.state, self.since, self.after = "", "empty", 0.0, 0.0
        self.group: Group | None = None
        self.open_tasks: list[Task] = []

    def take(self, group: Group) -> None:
        """Put a group, or a piece of one, in hand."""
        self.group, self.open_tasks = group, list(group)


class Ray:
    """See `Engine`.

    address: of a cluster to join ("auto" finds one); None starts one here. workers: as many as the cluster holds where None,
    each with a GPU of its own where the device is one, else with as many CPUs as it has threads.
    """

    name: str = "ray"
    threads: int | None = 1

    def __init__(self, address: str | None = None, workers: int | None = None):
        self._address = address
        self._cluster = Cluster(address, workers)
        self._ray: Any = None
        self._environment: Mapping[str, Any] = {}
        self._slots: list[Slot] = []
        self._deaths = 0
        self._dispatch = Dispatch((), 0)
        self._index: Any = None
        self._told: set[str] = set()

    @property
    def slots(self) -> list[Slot]:
        """The workers' places, once a run has begun."""
        return self._slots

    def prepare(self, device: str, objects: int | None = None) -> Place:
        """The device of the workers. A cluster is asked where the answer lies there, and by a worker with a GPU; one that is to be
        joined is joined here, before anything is loaded."""
        if objects is not None:
            self._cluster.objects = objects
        if self._address is not None:
            self._ray = self._cluster.join()
        elif device in ("auto", "cpu"):
            device = pick_device(device)
        if device == "cpu":
            if self._address is not None:
                self._cluster.demand("cpu")
            self._environment = describe("cpu")
            return Place("cpu", "cpu", self._environment)
        ray = self._ray = self._cluster.join()
        device = ("cuda" if ray.cluster_resources().get("GPU") else "cpu") if device == "auto" else device
        if device == "cpu":
            return self.prepare("cpu")
        if device != "cuda":
            raise EngineError(f"--device {device}: with Ray it is cpu, cuda or auto; Ray gives each worker a GPU of its own")
        self._cluster.demand(device)
        self._environment = self._with_gpu(PATIENCE, describe, "cuda")
        return Place("cuda", "cpu", self._environment)

    def there(self, function: Callable[..., Any], *given: Any) -> Any:
        """In a worker with a GPU, where there are such; else here."""
        return self._with_gpu(None, function, *given) if self._environment["device"] != "cpu" else function(*given)

    def _with_gpu(self, patience: float | None, function: Callable[..., Any], *given: Any) -> Any:
        ray = self._ray = self._cluster.join()
        asked = ray.remote(num_gpus=1, max_retries=0)(function).remote(*given)
        if not ray.wait([asked], timeout=patience)[0]:
            raise EngineError(f"no GPU became free within {patience:.0f} s; {self._cluster.resources()}")
        try:
            return ray.get(asked)
        except ray.exceptions.RayError as error:
            raise EngineError(f"a worker with a GPU cannot start: {cause(error)}") from error

    def run(self, bench: Workbench, groups: Iterable[Group], deliver: Deliver) -> None:
        """Keep every worker busy until nothing is left; workers stay for the next call."""
        ray = self._ray = self._cluster.join()
        if not self._slots:
            self._slots = [Slot(number) for number in range(self._cluster.demand(bench.spec.device))]
            self._index = self._share_objects(bench)
        self._dispatch = Dispatch(groups, len(self._slots), self._size(bench))
        dispatch = self._dispatch
        waiting: dict[Any, Slot] = {}
        try:
            while True:
                for slot in self._slots:
                    if slot.group is None and (group := dispatch.next(slot.number) or self._left_waiting(slot)) is not None:
                        slot.take(group)
                    if slot.group is not None and slot not in waiting.values() and time.monotonic() >= slot.after:
                        waiting[self._step(slot, bench)] = slot
                if all(slot.group is None for slot in self._slots):
                    self._look_at_objects(bench)
                    return
                if not waiting:
                    time.sleep(0.1)
                    continue
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=1.0)
                for thing in ready:
                    slot = waiting.pop(thing)
                    following = self._arrived(slot, thing, bench, deliver)
                    if following is not None:
                        waiting[following] = slot
                if not ready:
                    self._watch(bench)
        finally:
            for slot in waiting.values():  # an interrupted run: nothing of it may come back in a later one; or a worker never came
                self._drop(slot)
                slot.since = 0.0
            for slot in self._slots:
                slot.group = None

    def close(self) -> None:
        """End the workers, and the cluster where it was started here."""
        if self._ray is not None:
            for slot in self._slots:
                self._drop(slot)
            self._kill(self._index)
        self._cluster.close()
        self._ray, self._slots, self._index = None, [], None

    def _left_waiting(self, slot: Slot) -> Group | None:
        """The group of a worker that does not start, for one that has nothing to do: where a machine is lost, there may be no place
        for the worker that was to go on."""
        late = time.monotonic() - WAITS
        waiting = [other for other in self._slots if other.group is not None and 0 < other.since < late]
        if slot.state != "ready" or not waiting:
            return None
        group, waiting[0].group = waiting[0].group, None
        return group

    def _step(self, slot: Slot, bench: Workbench) -> Any:
        """Ask a worker for the next thing: to start, to open the study, or to evaluate its group."""
        if slot.actor is None:
            gpus = 1 if bench.spec.device == "cuda" else 0
            options = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 2}
            actor = self._ray.remote(num_cpus=torch.get_num_threads(), num_gpus=gpus, **options)(Worker)
            slot.actor, slot.state, slot.since = actor.remote(torch.get_num_threads()), "starting", slot.since or time.monotonic()
            return slot.actor.hello.remote()
        if slot.state == "started":
            slot.state = "opening"
            return slot.actor.open.remote(bench.spec, self._index)
        slot.state = "busy"
        return slot.actor.evaluate.options(num_returns="streaming").remote(slot.group)

    def _arrived(self, slot: Slot, thing: Any, bench: Workbench, deliver: Deliver) -> Any:
        """Take what a worker gave; returns what to wait for next, None where its group is over."""
        ray = self._ray
        try:
            if slot.state == "starting":
                slot.where, slot.state, slot.since = ray.get(thing), "started", 0.0
            elif slot.state == "opening":
                self._check(slot, bench, *ray.get(thing))
                slot.state = "ready"
            else:
                task, result = ray.get(next(thing))
                self._deaths = 0
                slot.open_tasks.remove(task)
                deliver(task, result)
                return thing
        except StopIteration:
            slot.state, slot.group = "ready", None
            self._dispatch.done(slot.number)
            self._hear(slot, bench)
            return None
        except ray.exceptions.RayTaskError as error:
            if slot.state != "busy":
                raise EngineError(f"the worker on {slot.where} cannot open the study: {cause(error)}") from error
            slot.state = "ready"
            return self._lost(slot, Failure(cause(error), str(error)), bench, deliver)
        except ray.exceptions.RayError as error:
            return self._died(slot, error, bench, deliver)
        return None if slot.group is None else self._step(slot, bench)  # None: another worker has taken it

    def _lost(self, slot: Slot, failure: Failure, bench: Workbench, deliver: Deliver) -> None:
        """The task that a worker had in hand failed; those that it had not begun did not, and are handed out again. One that had
        delivered all has lost nothing."""
        slot.group = None
        if not slot.open_tasks:
            self._dispatch.done(slot.number)
            self._say(bench, f"after its last result: {failure.message}")
            return
        task, *rest = slot.open_tasks
        self._dispatch.give_back(slot.number, Group(task.chunk, tuple(other.cell for other in rest)))
        deliver(task, failure)

    def _died(self, slot: Slot, error: Exception, bench: Workbench, deliver: Deliver) -> Any:
        """A worker is gone: another takes its place, in time for the next group."""
        was, where = slot.state, slot.where
        self._drop(slot)
        if was == "starting" and any(other.state in ("ready", "busy") for other in self._slots):
            slot.after = time.monotonic() + PAUSE  # the others go on, and take its group after a while
            return None
        self._deaths += 1
        if self._deaths > DEATHS * len(self._slots):
            raise EngineError(
                f"{self._deaths} workers died one after the other without a result, the last one ({where}): {cause(error)}"
            ) from error
        if was != "busy":
            slot.after = time.monotonic() + PAUSE
            return None
        message = f"WorkerDied: the worker on {where} died: {cause(error)}"
        return self._lost(slot, Failure(message, str(error)), bench, deliver)

    def _size(self, bench: Workbench) -> int | None:
        """Cells of a piece, where workers share a cache: some pieces for each worker, and packs as they are."""
        study, plan = bench.study, bench.plan
        if not study.share.cache or (study.cache.disk is None and self._index is None):
            return None
        cells = math.ceil(len(plan.chunks) * len(plan.cells) / (PIECES * len(self._slots)))
        return math.ceil(cells / study.share.pack) * study.share.pack

    def _share_objects(self, bench: Workbench) -> Any:
        """The index of the stage outputs that the workers share; None where a folder serves, nothing is shared, or no other
        worker is there."""
        stated = bench.study.objects
        if not stated or len(self._slots) < 2:
            return None
        limit = min(stated, room(self._ray.cluster_resources().get("object_store_memory", 0), TRANSIT))
        if limit > 0:
            less = "" if limit == stated else f"; {stated / GIB:.1f} are stated, and the cluster's store holds no more"
            bench.tell(f"workers share stage outputs through Ray's object store, at most {limit / GIB:.1f} GiB{less}")
            return start_index(self._ray, limit)
        bench.tell("the cluster's object store is too small for stage outputs: name a cache.disk, or groups of cells are not cut")
        return None

    def _look_at_objects(self, bench: Workbench) -> None:
        """Say so where more outputs were to be shared than the limit allows."""
        if self._index is None:
            return
        with contextlib.suppress(self._ray.exceptions.RayError):  # an index that died: the workers have told what there is to tell
            held: Held = self._ray.get(self._index.held.remote(), timeout=10)
            if held.dropped:
                full = f"the object store's {held.limit / GIB:.1f} GiB were full: {held.dropped} stage outputs made room"
                self._say(bench, f"{full}, and may have been computed again; a larger cache.object_store_gib or a cache.disk helps")

    def _hear(self, slot: Slot, bench: Workbench) -> None:
        """Pass on what a worker has to say."""
        with contextlib.suppress(self._ray.exceptions.RayError):  # of a worker that has just died: its next group tells
            for text in self._ray.get(slot.actor.said.remote(), timeout=10):
                self._say(bench, text)

    def _say(self, bench: Workbench, text: str) -> None:
        if text not in self._told:  # by another worker
            self._told.add(text)
            bench.tell(text)

    def _drop(self, slot: Slot) -> None:
        self._kill(slot.actor)
        slot.actor, slot.state = None, "empty"

    def _kill(self, actor: Any) -> None:
        if actor is not None:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor)

    def _check(self, slot: Slot, bench: Workbench, keys: Mapping[str, str], environment: Mapping[str, Any]) -> None:
        """Raise EngineError for a worker that would compute something else."""
        if keys == {name: cell.key for name, cell in bench.plan.cells.items()}:
            return
        here, there = ({key: found[key] for key in SAME} for found in (self._environment, environment))
        lines = "; ".join(differing(here, there)) or "the weights or the data that it reads"
        raise EngineError(f"the worker on {slot.where} would compute under other keys than this process plans. Different: {lines}")

    def _watch(self, bench: Workbench) -> None:
        """Show what the workers are at, and give up where none has started for long."""
        busy = [slot for slot in self._slots if slot.state == "busy"]
        asked = [slot.actor.now.remote() for slot in busy]
        seen = self._ray.wait(asked, num_returns=len(asked), timeout=1.0)[0] if asked else []
        with contextlib.suppress(self._ray.exceptions.RayError):  # of a worker that has just died: the next round tells
            told = [f"{cell} {what}" + (f" {done}/{total}" if total else "") for cell, what, done, total in self._ray.get(seen)]
            bench.notify(" | ".join(told), "", 0, 0)
        starting = [time.monotonic() - slot.since for slot in self._slots if slot.state == "starting"]
        if starting and not any(slot.state not in ("starting", "empty") for slot in self._slots) and min(starting) > PATIENCE:
            raise EngineError(f"no worker has started within {PATIENCE:.0f} s; {self._cluster.resources()}")
