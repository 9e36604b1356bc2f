"""Segments of the denoising loop: one may begin where another paused, and gives the bytes of a loop that never stopped.

    with segment(until=4):                 # Paused, raised by the sampler before step 4, carries the state
        run()
    with segment(before=paused.state):     # goes on from there to the end
        run()

A state is a dictionary of tensors like any node's outputs, so that it can be cached, moved and saved: the latents, and of each
scheduler whatever has changed since its steps were set. A multistep scheduler remembers earlier predictions; one that is set to
an index instead of being restored was off by 3e-3. Tensors without rows (positions in time, the tree of plain values) are named so
(`core.rows.ONCE`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wanlab.core.rows import ONCE

State = dict[str, Tensor]

TREE = ONCE + "tree"
_NOTHING = object()


class Paused(BaseException):
    """Ends a loop before the step at which its segment ends; `state` is what the next segment begins with."""

    def __init__(self, state: State) -> None:
        super().__init__("the denoising loop was paused on request")
        self.state = state


@dataclass(frozen=True)
class Segment:
    """The part of a loop to run: from the state `before` (None: from noise) until the step `until` (None: to the end)."""

    before: State | None = None
    until: int | None = None

    @property
    def start(self) -> int:
        """The first step of it."""
        return 0 if self.before is None else int(_tree(self.before)["step"])


_segment: ContextVar[Segment | None] = ContextVar("wanlab_segment", default=None)


@contextmanager
def segment(before: State | None = None, until: int | None = None) -> Iterator[Segment]:
    """Let the sampler run this part of its loop within the block."""
    token = _segment.set(Segment(before, until))
    try:
        yield _segment.get()    # type: ignore[misc]
    finally:
        _segment.reset(token)


def here() -> Segment:
    """The part that is to be run here: all of it, unless told otherwise."""
    return _segment.get() or Segment()


def freeze(step: int, latents: Mapping[str, Tensor], solvers: Mapping[str, Any], fresh: Callable[[], Any]) -> State:
    """The state before `step`: the latents and what has changed of each scheduler beside a `fresh` one."""
    state: State = dict(latents)
    tree: dict[str, Any] = {"step": step, "solvers": {}}
    for part, solver in solvers.items():
        before, kept = vars(fresh()), {}
        for name, value in vars(solver).items():
            if not _same(value, before.get(name, _NOTHING)):
                kept[name] = _packed(value, f"{part}.{name}", latents[part].shape, state, solver)
        tree["solvers"][part] = kept
    state[TREE] = torch.tensor(list(json.dumps(tree).encode()), dtype=torch.uint8)
    return state


def thaw(state: State, solvers: Mapping[str, Any]) -> State:
    """Bring fresh `solvers` to where they were and return the latents. The tensors of `state` stand on the run's device."""
    for part, kept in _tree(state)["solvers"].items():
        for name, value in kept.items():
            setattr(solvers[part], name, _unpacked(value, state))
    return {part: state[part] for part in solvers}


def _tree(state: State) -> dict[str, Any]:
    return json.loads(bytes(state[TREE].cpu().tolist()))


def _same(one: Any, other: Any) -> bool:
    """Whether two attributes hold the same, as far as that can be said of any kind of value."""
    if one is other:
        return True
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return type(one) is type(other) and bool(one == other)


def _packed(value: Any, name: str, rows: torch.Size, state: State, solver: Any) -> Any:
    """`value` as plain data, its tensors put into `state`."""
    if isinstance(value, Tensor):
        place = name if value.shape == rows else ONCE + name
        state[place] = value
        return {"tensor": place, "cpu": value.device.type == "cpu"}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    if isinstance(value, (list, tuple)):
        packed = [_packed(one, f"{name}.{i}", rows, state, solver) for i, one in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": packed}
    raise TypeError(f"{type(solver).__name__} keeps a {type(value).__name__} in {name}: its loop cannot be paused "
                    "(share: {fork: false} in the study runs it whole)")


def _unpacked(packed: Mapping[str, Any], state: State) -> Any:
    [(kind, value)] = [(kind, value) for kind, value in packed.items() if kind != "cpu"]
    if kind == "tensor":
        return state[value].cpu() if packed["cpu"] else state[value]
    if kind == "value":
        return value
    many = [_unpacked(one, state) for one in value]
    return many if kind == "list" else tuple(many)
