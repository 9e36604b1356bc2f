"""The clock: where a run is. Only the sampler sets the step; stages that run per guidance branch are given the branch.

    with clock.announce(steps=8, branches=("cond", "uncond"), seeds=[0, 1]):
        for i, sigma in enumerate(sigmas):
            with clock.at(step=i, sigma=float(sigma)):
                with clock.at(branch="cond"): ...

Both live in context variables: threads and asyncio tasks have clocks of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Tick:
    """One moment of a run; what is None does not apply here (outside the denoising loop there is no step)."""

    step: int | None = None
    sigma: float | None = None
    branch: str | None = None

    def __str__(self) -> str:
        parts = (("step", self.step), ("branch", self.branch))
        told = [f"{name} {value}" for name, value in parts if value is not None]
        return ", ".join(told) or "outside the loop"


@dataclass(frozen=True)
class Plan:
    """What a run announces about itself. Rows are the samples of the batch; a fork runs no steps before `start`."""

    steps: int | None = None
    start: int = 0
    branches: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None                                # of each row
    tokens_of: Callable[[str, int], Sequence[int]] | None = None    # word, row -> its tokens
    text_sites: str | None = None                                   # glob of the sites whose tokens are the prompt's


_NOWHERE, _UNPLANNED = Tick(), Plan()
_tick: ContextVar[Tick | None] = ContextVar("wanlab_tick", default=None)
_plan: ContextVar[Plan | None] = ContextVar("wanlab_plan", default=None)


def now() -> Tick:
    """Where the run is in this thread."""
    return _tick.get() or _NOWHERE


def plan() -> Plan:
    """What the run in this thread has announced."""
    return _plan.get() or _UNPLANNED


@contextmanager
def at(*, step: int | None = None, sigma: float | None = None, branch: str | None = None) -> Iterator[Tick]:
    """Move the clock within the block; what is not given stays as it is."""
    moved = {k: v for k, v in (("step", step), ("sigma", sigma), ("branch", branch)) if v is not None}
    before = _tick.get()
    tick = replace(now(), **moved)
    _tick.set(tick)
    try:
        yield tick
    finally:
        _tick.set(before)       # set, not reset: a generator may be closed from another context than it was opened in


@contextmanager
def announce(*, steps: int | None = None, start: int | None = None, branches: Sequence[str] | None = None,
             seeds: Sequence[int] | None = None, tokens_of: Callable[[str, int], Sequence[int]] | None = None,
             text_sites: str | None = None) -> Iterator[Plan]:
    """Tell what the run within the block will do: "last" then means something, and ledgers know what to expect.

    `tokens_of(word, row)` gives the tokens of a word in a row's prompt, and raises LookupError with the prompt's words;
    `text_sites` is a glob of the sites whose axis j (else n) begins with those tokens: `words=` is for those.
    """
    before = _plan.get()
    told = {
        "steps": steps, "start": start, "tokens_of": tokens_of, "text_sites": text_sites,
        "branches": None if branches is None else tuple(branches),
        "seeds": None if seeds is None else tuple(seeds),
    }
    announced = replace(plan(), **{k: v for k, v in told.items() if v is not None})
    _plan.set(announced)
    try:
        yield announced
    finally:
        _plan.set(before)
