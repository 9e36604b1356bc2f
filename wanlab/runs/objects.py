"""The object tier: stage outputs that the workers of a Ray cluster share through its object store, without a common folder.

One actor, the index, knows which outputs there are, and lets go what was used longest ago when they are more bytes than the
study states (`cache.object_store_gib`). The outputs themselves go from the worker that made them into the shared memory of its
machine, and from there to whoever asks. Nobody but the index holds on to one, so what it lets go is freed: a reader copies once,
into memory of its own. What a worker has put dies with it, and everything with the index, which then starts again empty; both
cost what must be computed again, because an object that cannot be had is not there, and never an error.

There is no checksum, as there is none in the memory tier: an object cannot be seen before it is whole, nor changed after that,
and it lives as long as the run.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wanlab.graph.disk import Tell
from wanlab.graph.memory import Outputs, size_of
from wanlab.graph.recent import Recent

SPILL = 0.8  # share of its object store at which Ray begins to move objects to disk
PATIENCE = 60.0  # seconds for an object to come from another machine: after that it is computed here


@dataclass(frozen=True)
class Held:
    """What an index holds: bytes now and at most, its limit, objects now, and how many made room for others."""

    used: int
    peak: int
    limit: int
    objects: int
    dropped: int


class Index:
    """What runs in the process of the index. References travel in lists, so that Ray does not fetch what they stand for."""

    def __init__(self, limit: int):
        self._recent: Recent[Any] = Recent(limit)
        self._peak = 0

    def find(self, key: str) -> list[Any]:
        """The object under `key`; none where there is none."""
        found = self._recent.get(key)
        return [] if found is None else [found]

    def has(self, key: str) -> bool:
        """Whether there is an object under `key`; it becomes no more recent."""
        return key in self._recent

    def room(self, key: str, size: int, last: bool) -> bool:
        """Make room for an object, before it is put; False where it need not be: it is there, or there is no room."""
        return key not in self._recent and self._recent.make_room(size, spare=last)

    def keep(self, key: str, reference: list[Any], size: int, last: bool) -> None:
        """Hold on to an object of `size` bytes as long as there is room."""
        self._recent.put(key, reference[0], size, spare=last)
        self._peak = max(self._peak, self._recent.used)

    def lost(self, key: str) -> None:
        """Forget an object that could not be had."""
        self._recent.drop(key)

    def held(self) -> Held:
        """What there is."""
        recent = self._recent
        return Held(recent.used, self._peak, recent.limit, len(recent), recent.dropped)


def room(capacity: float, transit: int) -> int:
    """How many bytes of stage outputs an object store of `capacity` bytes takes without moving any to disk, with `transit` bytes
    for what is on its way."""
    return max(0, int(SPILL * capacity) - transit)


def capacity(limit: int, transit: int) -> int:
    """How large an object store must be for so many bytes of stage outputs: see `room`."""
    return int((limit + transit) / SPILL) + 1


def start_index(ray: Any, limit: int) -> Any:
    """An index on this machine. One that dies starts again, empty."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0, scheduling_strategy=here)(Index).remote(limit)


class ObjectTier:
    """A worker's way to the outputs; a `Tier`."""

    def __init__(self, index: Any, tell: Tell | None = None):
        import ray

        self._ray, self._index = ray, index
        self.tell: Tell = tell or logging.getLogger(__name__).warning
        self._told = False

    def __contains__(self, key: str) -> bool:
        try:
            return bool(self._ask("has", key))
        except self._ray.exceptions.RayError as error:
            self._trouble(error)
            return False

    def get(self, key: str) -> Outputs | None:
        """A copy of the outputs under `key`, or None where there are none or they cannot be had any more."""
        try:
            found = self._ask("find", key)
            return unpacked(self._ray.get(found[0], timeout=PATIENCE)) if found else None
        except (self._ray.exceptions.ObjectLostError, self._ray.exceptions.GetTimeoutError):
            with suppress(self._ray.exceptions.RayError):
                self._ask("lost", key)
        except self._ray.exceptions.RayError as error:
            self._trouble(error)
        return None

    def put(self, key: str, outputs: Outputs, last: bool = False) -> None:
        """Keep `outputs` as long as there is room; `last` ones only in room that others leave."""
        try:
            if self._ask("room", key, size_of(outputs), last):
                reference = self._ray.put(packed(outputs))
                self._ask("keep", key, [reference], size_of(outputs), last)
        except self._ray.exceptions.RayError as error:
            self._trouble(error)

    def _ask(self, what: str, *given: Any) -> Any:
        return self._ray.get(getattr(self._index, what).remote(*given), timeout=PATIENCE)

    def _trouble(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            why = " ".join(str(error).split())[:200] or type(error).__name__
            self.tell(f"outputs cannot be shared through Ray's object store as they should ({why}); the run goes on, and computes "
                      "what it does not find there")


Packed = dict[str, tuple[np.ndarray, torch.dtype, tuple[int, ...]]]


def packed(outputs: Outputs) -> Packed:
    """Outputs as arrays of bytes with dtype and shape: what Ray puts into shared memory as it lies."""
    flat = {name: tensor.detach().cpu().contiguous() for name, tensor in outputs.items()}
    return {name: (x.reshape(-1).view(torch.uint8).numpy(), x.dtype, tuple(x.shape)) for name, x in flat.items()}


def unpacked(found: Packed) -> Outputs:
    """The outputs again, in memory of their own: what lies in shared memory must not be written to."""
    outputs = {name: torch.empty(shape, dtype=dtype) for name, (_, dtype, shape) in found.items()}
    for name, tensor in outputs.items():
        tensor.reshape(-1).view(torch.uint8).numpy()[:] = found[name][0]
    return outputs
