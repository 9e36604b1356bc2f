"""A cluster of Ray: started on this machine, or joined."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from wanlab.graph import GIB

from .engine import EngineError
from .objects import capacity
from .spec import Cache

TRANSIT = 200 * 1024**2  # bytes of an object store for what is on its way: rows, features and clips, a few MB per worker
# Memory that processes share on Linux; containers often have little of it. It is asked for its size, nothing is written there.
SHARED = Path("/dev/shm")  # nosec B108
ANSWER = 10.0  # seconds within which an address that is to be joined must answer
PREFACE, SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), bytes([4])
ADVICE = "`ray start --head` says the address of the cluster that it starts"


class Cluster:
    """The cluster at an address ("auto" finds one on this machine); None: one that is started here when first needed.

    objects: bytes of stage outputs that the object store of a cluster started here is to hold. Raises EngineError where the
    package ray is not installed.
    """

    def __init__(self, address: str | None = None, workers: int | None = None):
        self._address, self._workers = address, workers
        self._ray: Any = None
        self._mine = False
        self._temporary: str | None = None
        self.objects = int(Cache().object_store_gib * GIB)
        _module()

    def join(self) -> Any:
        """The package ray, connected. Raises EngineError with the cause."""
        if self._ray is not None:
            return self._ray
        ray = _module()
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            _init(ray, {"include_dashboard": False, "log_to_driver": False, "logging_level": "error", **self._options()})
            self._mine = True
        self._ray = ray
        return ray

    def _options(self) -> dict[str, Any]:
        if self._address is not None:
            _demand_answer(self._address)
            return {"address": self._address}
        self._temporary = tempfile.mkdtemp(prefix="ray-")
        cpus = max(len(os.sched_getaffinity(0)), (self._workers or 1) * torch.get_num_threads())
        store = max(TRANSIT, min(capacity(self.objects, TRANSIT), _shared_memory()))
        return {"address": "local", "num_cpus": cpus, "object_store_memory": store, "_temp_dir": self._temporary}

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._mine:
            self._ray.shutdown()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._ray, self._mine, self._temporary = None, False, None

    def demand(self, device: str) -> int:
        """How many workers. Raises EngineError where the cluster can never hold them: Ray would wait for ever in silence."""
        kind, each = ("GPU", 1) if device == "cuda" else ("CPU", torch.get_num_threads())
        holds = int(self._ray.cluster_resources().get(kind, 0) // each)
        wanted = self._workers or max(1, holds)
        if wanted > holds:
            need = f"{wanted} workers with {each} {kind}{'s' if each > 1 else ''} each"
            raise EngineError(f"{need} do not fit: {self.resources()}; say fewer --workers, or join a larger one with --address")
        return wanted

    def resources(self) -> str:
        """What the cluster has, in words."""
        total, free = self._ray.cluster_resources(), self._ray.available_resources()
        counts = ", ".join(f"{total.get(kind, 0):g} {kind}s ({free.get(kind, 0):g} free)" for kind in ("CPU", "GPU"))
        return f"the cluster has {len(self._ray.nodes())} machines with {counts}"


def _shared_memory() -> int:
    """Bytes of this machine's memory that an object store may take: Ray lays what is more on disk, or does not start."""
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return min(half, shutil.disk_usage(SHARED).free) if SHARED.exists() else half


def _module() -> Any:
    """The package ray. Raises EngineError where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise EngineError(f"--engine ray needs the package ray: pip install 'wanlab[ray]' ({error})") from None
    return ray


def _demand_answer(address: str) -> None:
    """Raise EngineError where no server of Ray's kind is at host:port: Ray itself would try for minutes.

    Whoever speaks HTTP/2 (RFC 9113, section 3.4), which gRPC stands on, answers the preface with a frame of settings.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER) as server:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            server.sendall(PREFACE)
            answer = server.recv(9)
    except (OSError, OverflowError) as error:
        why = f"nothing answers there ({getattr(error, 'strerror', None) or error})"
        raise EngineError(f"--address {address}: {why}; {ADVICE}") from error
    if answer[3:4] != SETTINGS:
        raise EngineError(f"--address {address}: what answers there is no Ray cluster; {ADVICE}")


def _init(ray: Any, options: Mapping[str, Any]) -> None:
    """Start a cluster, a second time after a first failure, or join one; leaves SIGTERM to whoever listened before."""
    before, starts = signal.getsignal(signal.SIGTERM), "_temp_dir" in options
    for attempt in (1, 2):
        try:
            ray.init(**options)
            break
        except Exception as error:
            ray.shutdown()
            if attempt == 2 or not starts:
                what = "start" if starts else f"join the cluster at {options['address']}"
                more = _said(options) + _neighbour() if starts else _token(error)
                raise EngineError(f"Ray could not {what}: {cause(error)}{more}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _said(options: Mapping[str, Any]) -> str:
    """The last line that the cluster's own daemon wrote before it gave up."""
    logs = sorted(Path(options.get("_temp_dir") or tempfile.gettempdir()).glob("session_2*/logs/raylet.err"), key=os.path.getmtime)
    lines = [line for line in logs[-1].read_text(errors="replace").splitlines() if line.strip()] if logs else []
    return f"; raylet.err ends with: {lines[-1].strip()}" if lines else ""


def _token(error: Exception) -> str:
    """What may be missing where a cluster answers and does not let anybody in: Ray never shows a token unasked."""
    if not isinstance(error, ConnectionError) or "RAY_AUTH_MODE" in os.environ:
        return ""
    return "; where it asks for a token, set RAY_AUTH_MODE=token here, with the cluster's token in ~/.ray/auth_token"


def _neighbour() -> str:
    if importlib.util.find_spec("jupyterlab") is None:
        return ""
    return "; JupyterLab in the same environment can keep Ray from starting: give Ray an environment of its own"


def cause(error: BaseException) -> str:
    """What went wrong, in one line: the exception that a worker raised, or the first lines of what Ray says."""
    inner = getattr(error, "cause", None)
    if isinstance(inner, BaseException):
        return f"{type(inner).__name__}: {inner}"
    return " ".join(str(error).split())[:400] or type(error).__name__
