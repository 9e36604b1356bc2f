"""The clock: where a run is. Only the sampler sets the step; stages that run once per guidance branch are given the branch.

    with clock.announce(steps=8, branches=("cond", "uncond"), seeds=[0, 1]):
        for i, sigma in enumerate(sigmas):
            with clock.at(step=i, sigma=float(sigma)):
                with clock.at(branch="cond"): ...

Both live in context variables: threads and asyncio tasks have clocks of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Tick:
    """One moment of a run; what is None does not apply here (outside the denoising loop there is no step)."""

    step: int | None = None
    sigma: float | None = None
    branch: str | None = None

    def __str__(self) -> str:
        told = [f"{name} {value}" for name, value in (("step", self.step), ("branch", self.branch)) if value is not None]
        return ", ".join(told) or "outside the loop"


@dataclass(frozen=True)
class Plan:
    """What a run announces about itself: number of steps, sigma of each, branches, seed of each row of the batch."""

    steps: int | None = None
    branches: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    sigmas: tuple[float, ...] | None = None


_tick: ContextVar[Tick] = ContextVar("wanlab_tick", default=Tick())
_plan: ContextVar[Plan] = ContextVar("wanlab_plan", default=Plan())


def now() -> Tick:
    """Where the run is in this thread."""
    return _tick.get()


def plan() -> Plan:
    """What the run in this thread has announced."""
    return _plan.get()


@contextmanager
def at(*, step: int | None = None, sigma: float | None = None, branch: str | None = None) -> Iterator[Tick]:
    """Move the clock within the block; what is not given stays as it is."""
    moved = {k: v for k, v in (("step", step), ("sigma", sigma), ("branch", branch)) if v is not None}
    token = _tick.set(replace(_tick.get(), **moved))
    try:
        yield _tick.get()
    finally:
        _tick.reset(token)


@contextmanager
def announce(*, steps: int | None = None, branches: Sequence[str] | None = None, seeds: Sequence[int] | None = None,
             sigmas: Sequence[float] | None = None) -> Iterator[Plan]:
    """Tell what the run within the block will do, so that "last" and -1 mean something and ledgers know what to expect."""
    told: dict[str, Any] = {"steps": steps}
    told |= {k: tuple(v) for k, v in (("branches", branches), ("seeds", seeds), ("sigmas", sigmas)) if v is not None}
    token = _plan.set(replace(_plan.get(), **{k: v for k, v in told.items() if v is not None}))
    try:
        yield _plan.get()
    finally:
        _plan.reset(token)
