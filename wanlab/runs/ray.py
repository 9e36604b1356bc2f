"""The engine beyond one process: workers of a Ray cluster, started here or joined.

A worker is an actor that opens the study's workbench once and then evaluates groups. What a group's cells share stays in its
memory, so without more there is work for as many workers as there are groups; where the study names a `cache.disk` that
all machines have mounted, groups are cut and their pieces share through it. Nothing goes through Ray's object store but
rows, features and encoded clips; they come back one cell at a time, and only this process writes. Ray retries nothing:
a group whose worker died is handed in as failed, and the executor counts.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import platform
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .cell import Failure, Workbench, WorkbenchSpec
from .dispatch import Dispatch
from .engine import Deliver, EngineError, Place
from .environment import describe, pick_device
from .plan import Group, Task
from .store import Part, differing

STORE = 200 * 1024**2  # bytes of the object store of a cluster started here: what is on its way, a few MB per worker
PATIENCE = 300.0  # seconds until a cluster that starts no worker at all is given up
PIECES = 8  # for each worker, where groups may be cut
DEATHS = 3  # workers that may die per slot without one result between them
SAME = ("wanlab", "commit", "python", "device", "threads", "packages", "code")  # of an environment, what results depend on


class Worker:
    """What runs in a worker's process."""

    def __init__(self, threads: int):
        self._threads = threads
        self._bench: Any = None
        self._now = ("", "", 0, 0)

    def hello(self) -> str:
        """Where this is."""
        return f"{platform.node()}, process {os.getpid()}"

    def open(self, spec: WorkbenchSpec) -> tuple[dict[str, str], dict[str, Any]]:
        """Open the workbench; the keys of its cells, and the environment that they come from."""
        torch.set_num_threads(self._threads)
        self._bench = spec.open()
        self._bench.notify = self._notify
        return {name: cell.key for name, cell in self._bench.plan.cells.items()}, describe(spec.device)

    def evaluate(self, group: Group) -> Iterator[tuple[Task, Part | Failure]]:
        """See `Workbench.evaluate`."""
        torch.set_num_threads(self._threads)  # of this thread: Ray calls from several
        yield from self._bench.evaluate(group)

    def now(self) -> tuple[str, str, int, int]:
        """What the worker is at: cell, stage, steps done, steps."""
        return self._now

    def _notify(self, cell: str, what: str, done: int, total: int) -> None:
        self._now = (cell, what, done, total)


class Slot:
    """The place of one worker: its actor (None: none is running), and the group that it has in hand."""

    def __init__(self, number: int):
        self.number = number
        self.actor: Any = None
        self.where, self.state, self.since = "", "empty", 0.0
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
        self._address, self._workers = address, workers
        self._ray: Any = None
        self._mine = False
        self._temporary: str | None = None
        self._environment: Mapping[str, Any] = {}
        self._slots: list[Slot] = []
        self._deaths = 0
        self._dispatch = Dispatch((), 0)
        _module()

    @property
    def slots(self) -> list[Slot]:
        """The workers' places, once a run has begun."""
        return self._slots

    def prepare(self, device: str) -> Place:
        """The device of the workers. A cluster is asked where the answer lies there, and by a worker with a GPU."""
        if self._address is None and device in ("auto", "cpu"):
            device = pick_device(device)
        if device == "cpu":
            self._environment = describe("cpu")
            return Place("cpu", "cpu", self._environment)
        ray = self._join()
        device = ("cuda" if ray.cluster_resources().get("GPU") else "cpu") if device == "auto" else device
        if device == "cpu":
            return self.prepare("cpu")
        if device != "cuda":
            raise EngineError(f"--device {device}: with Ray it is cpu, cuda or auto; Ray gives each worker a GPU of its own")
        self._demand(device)
        self._environment = self._with_gpu(PATIENCE, describe, "cuda")
        return Place("cuda", "cpu", self._environment)

    def there(self, function: Callable[..., Any], *given: Any) -> Any:
        """In a worker with a GPU, where there are such; else here."""
        return self._with_gpu(None, function, *given) if self._environment["device"] != "cpu" else function(*given)

    def _with_gpu(self, patience: float | None, function: Callable[..., Any], *given: Any) -> Any:
        ray = self._join()
        asked = ray.remote(num_gpus=1, max_retries=0)(function).remote(*given)
        if not ray.wait([asked], timeout=patience)[0]:
            raise EngineError(f"no GPU became free within {patience:.0f} s; {self._resources()}")
        try:
            return ray.get(asked)
        except ray.exceptions.RayError as error:
            raise EngineError(f"a worker with a GPU cannot start: {_cause(error)}") from error

    def run(self, bench: Workbench, groups: Iterable[Group], deliver: Deliver) -> None:
        """Keep every worker busy until nothing is left; workers stay for the next call."""
        ray = self._join()
        if not self._slots:
            self._slots = [Slot(number) for number in range(self._demand(bench.spec.device))]
        self._dispatch = Dispatch(groups, len(self._slots), self._size(bench))
        dispatch = self._dispatch
        waiting: dict[Any, Slot] = {}
        try:
            while True:
                for slot in self._slots:
                    if slot.group is None and (group := dispatch.next(slot.number)) is not None:
                        slot.take(group)
                        waiting[self._step(slot, bench)] = slot
                if not waiting:
                    return
                ready, _ = ray.wait(list(waiting), num_returns=1, timeout=1.0)
                for thing in ready:
                    slot = waiting.pop(thing)
                    following = self._arrived(slot, thing, bench, deliver)
                    if following is not None:
                        waiting[following] = slot
                if not ready:
                    self._watch(bench)
        finally:
            for slot in waiting.values():  # an interrupted run: nothing of it may come back in a later one
                self._drop(slot)

    def close(self) -> None:
        """End the workers, and the cluster where it was started here."""
        if self._ray is not None:
            for slot in self._slots:
                self._drop(slot)
            if self._mine:
                self._ray.shutdown()
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)
        self._ray, self._slots, self._temporary = None, [], None

    def _step(self, slot: Slot, bench: Workbench) -> Any:
        """Ask a worker for the next thing: to start, to open the study, or to evaluate its group."""
        if slot.actor is None:
            gpus = 1 if bench.spec.device == "cuda" else 0
            options = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 2}
            actor = self._ray.remote(num_cpus=torch.get_num_threads(), num_gpus=gpus, **options)(Worker)
            slot.actor, slot.state, slot.since = actor.remote(torch.get_num_threads()), "starting", time.monotonic()
            return slot.actor.hello.remote()
        if slot.state == "started":
            slot.state = "opening"
            return slot.actor.open.remote(bench.spec)
        slot.state = "busy"
        return slot.actor.evaluate.options(num_returns="streaming").remote(slot.group)

    def _arrived(self, slot: Slot, thing: Any, bench: Workbench, deliver: Deliver) -> Any:
        """Take what a worker gave; returns what to wait for next, None where its group is over."""
        ray = self._ray
        try:
            if slot.state == "starting":
                slot.where, slot.state = ray.get(thing), "started"
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
            return None
        except ray.exceptions.RayTaskError as error:
            if slot.state != "busy":
                raise EngineError(f"the worker on {slot.where} cannot open the study: {_cause(error)}") from error
            slot.state = "ready"
            return self._lost(slot, Failure(_cause(error), str(error)), deliver)
        except ray.exceptions.RayError as error:
            return self._died(slot, error, bench, deliver)
        return self._step(slot, bench)

    def _lost(self, slot: Slot, failure: Failure, deliver: Deliver) -> None:
        """The task that a worker had in hand failed; those that it had not begun did not, and are handed out again."""
        task, *rest = slot.open_tasks
        self._dispatch.give_back(slot.number, Group(task.chunk, tuple(other.cell for other in rest)))
        slot.group = None
        deliver(task, failure)

    def _died(self, slot: Slot, error: Exception, bench: Workbench, deliver: Deliver) -> Any:
        """A worker is gone: another takes its place, in time for the next group."""
        was, where = slot.state, slot.where
        self._drop(slot)
        self._deaths += 1
        if self._deaths > DEATHS * len(self._slots):
            raise EngineError(
                f"{self._deaths} workers died one after the other without a result, the last one ({where}): {_cause(error)}"
            ) from error
        if was != "busy":
            return self._step(slot, bench)
        message = f"WorkerDied: the worker on {where} died: {_cause(error)}"
        return self._lost(slot, Failure(message, str(error)), deliver)

    def _size(self, bench: Workbench) -> int | None:
        """Cells of a piece, where workers share a cache: some pieces for each worker, and packs as they are."""
        study, plan = bench.study, bench.plan
        if study.cache.disk is None or not study.share.cache:
            return None
        cells = math.ceil(len(plan.chunks) * len(plan.cells) / (PIECES * len(self._slots)))
        return math.ceil(cells / study.share.pack) * study.share.pack

    def _drop(self, slot: Slot) -> None:
        if slot.actor is not None:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(slot.actor)
        slot.actor, slot.state = None, "empty"

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
            raise EngineError(f"no worker has started within {PATIENCE:.0f} s; {self._resources()}")

    def _demand(self, device: str) -> int:
        """How many workers. Raises EngineError where the cluster can never hold them: Ray would wait for ever in silence."""
        kind, each = ("GPU", 1) if device == "cuda" else ("CPU", torch.get_num_threads())
        holds = int(self._ray.cluster_resources().get(kind, 0) // each)
        wanted = self._workers or max(1, holds)
        if wanted > holds:
            need = f"{wanted} workers with {each} {kind}{'s' if each > 1 else ''} each"
            raise EngineError(f"{need} do not fit: {self._resources()}; say fewer --workers, or join a larger one with --address")
        return wanted

    def _resources(self) -> str:
        total, free = self._ray.cluster_resources(), self._ray.available_resources()
        counts = ", ".join(f"{total.get(kind, 0):g} {kind}s ({free.get(kind, 0):g} free)" for kind in ("CPU", "GPU"))
        return f"the cluster has {len(self._ray.nodes())} machines with {counts}"

    def _join(self) -> Any:
        """Ray, with a cluster joined or started."""
        if self._ray is not None:
            return self._ray
        ray = _module()
        if not ray.is_initialized():
            options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
            if self._address is not None:
                options["address"] = self._address
            else:
                self._temporary = tempfile.mkdtemp(prefix="ray-")
                cpus = max(len(os.sched_getaffinity(0)), (self._workers or 1) * torch.get_num_threads())
                options |= {"num_cpus": cpus, "object_store_memory": STORE, "_temp_dir": self._temporary}
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            _init(ray, options)
            self._mine = True
        self._ray = ray
        return ray


def _module() -> Any:
    """The package ray. Raises EngineError where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise EngineError(f"--engine ray needs the package ray: pip install 'wanlab[ray]' ({error})") from None
    return ray


def _init(ray: Any, options: Mapping[str, Any]) -> None:
    """Start or join a cluster, the second time after a first failure; leaves SIGTERM to whoever listened before."""
    before = signal.getsignal(signal.SIGTERM)
    for attempt in (1, 2):
        try:
            ray.init(**options)
            break
        except Exception as error:
            ray.shutdown()
            if attempt == 2:
                what = f"join the cluster at {options['address']}" if "address" in options else "start"
                raise EngineError(f"Ray could not {what}: {_cause(error)}{_said(options)}{_neighbour()}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _said(options: Mapping[str, Any]) -> str:
    """The last line that the cluster's own daemon wrote before it gave up."""
    logs = sorted(Path(options.get("_temp_dir") or tempfile.gettempdir()).glob("session_2*/logs/raylet.err"), key=os.path.getmtime)
    lines = [line for line in logs[-1].read_text(errors="replace").splitlines() if line.strip()] if logs else []
    return f"; raylet.err ends with: {lines[-1].strip()}" if lines else ""


def _neighbour() -> str:
    if importlib.util.find_spec("jupyterlab") is None:
        return ""
    return "; JupyterLab in the same environment can keep Ray from starting: give Ray an environment of its own"


def _cause(error: BaseException) -> str:
    """What went wrong, in one line: the exception that a worker raised, or the first lines of what Ray says."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return f"{type(cause).__name__}: {cause}"
    return " ".join(str(error).split())[:400] or type(error).__name__
