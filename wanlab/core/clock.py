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
from typing import Any, Generic, TypeVar

from wanlab.core.grid import Grid


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
    """What a run announces about itself. Rows are the samples of the batch; a part of a run has the steps from `start` up to,
    and without, `stop` (None: to the last)."""

    steps: int | None = None
    start: int = 0
    stop: int | None = None
    branches: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None                                # of each row
    tokens_of: Callable[[str, int], Sequence[int]] | None = None    # word, row -> its tokens
    words: tuple[tuple[str, ...], ...] | None = None                # of each row's prompt, in order
    text_sites: str | None = None                                   # glob of the sites whose tokens are the prompt's
    grid_of: Callable[[str], Grid | None] | None = None             # site -> how its tokens stand, if on a grid
    steps_of: Callable[[str], range | None] | None = None           # site -> the steps in which it fires, None: in all

    @property
    def due(self) -> range:
        """The steps that will run, as far as they are announced."""
        return range(self.start, (self.steps or 0) if self.stop is None else self.stop)

    def due_at(self, site: str) -> list[int]:
        """Of these, the steps in which a site fires."""
        fires = None if self.steps_of is None else self.steps_of(site)
        return [step for step in self.due if fires is None or step in fires]


T = TypeVar("T", Tick, Plan)


class _Within(Generic[T]):
    """A block that set a clock. It may end in another context than it began in (a generator that is closed by the garbage
    collector, in any thread), which cannot set this one's variable back: so it says that it is over, and is passed by."""

    __slots__ = ("outer", "over", "value")

    def __init__(self, value: T, outer: _Within[T] | None) -> None:
        self.value: T = value
        self.outer: _Within[T] | None = outer
        self.over = False


_NOWHERE, _UNPLANNED = Tick(), Plan()
_tick: ContextVar[_Within[Tick] | None] = ContextVar("wanlab_tick", default=None)
_plan: ContextVar[_Within[Plan] | None] = ContextVar("wanlab_plan", default=None)


def now() -> Tick:
    """Where the run is in this thread."""
    block = _innermost(_tick)
    return _NOWHERE if block is None else block.value


def plan() -> Plan:
    """What the run in this thread has announced."""
    block = _innermost(_plan)
    return _UNPLANNED if block is None else block.value


@contextmanager
def at(*, step: int | None = None, sigma: float | None = None, branch: str | None = None) -> Iterator[Tick]:
    """Move the clock within the block; what is not given stays as it is."""
    moved: dict[str, Any] = {k: v for k, v in (("step", step), ("sigma", sigma), ("branch", branch)) if v is not None}
    with _set(_tick, replace(now(), **moved)) as tick:
        yield tick


@contextmanager
def announce(*, steps: int | None = None, start: int | None = None, stop: int | None = None, branches: Sequence[str] | None = None,
             seeds: Sequence[int] | None = None, tokens_of: Callable[[str, int], Sequence[int]] | None = None,
             words: Sequence[Sequence[str]] | None = None, text_sites: str | None = None,
             grid_of: Callable[[str], Grid | None] | None = None,
             steps_of: Callable[[str], range | None] | None = None) -> Iterator[Plan]:
    """Tell what the run within the block will do: "last" then means something, and ledgers know what to expect.

    `tokens_of(word, row)` gives the tokens of a word in a row's prompt, and raises LookupError with the prompt's words;
    `words` are those of each row's prompt, in order; `text_sites` is a glob of the sites whose axis j (else n) begins with
    those tokens: `words=` is for those. `grid_of(site)` says how the tokens of a site stand (axis n, else j, as of keys), or
    None: `mask=` is for those with axis n, beside the sites with axes h and w. `steps_of(site)` says in which steps a site
    inside the loop fires, where that is not in all (of two experts, each has its own): None for all.
    """
    told: dict[str, Any] = {
        "steps": steps, "start": start, "stop": stop, "tokens_of": tokens_of, "text_sites": text_sites, "grid_of": grid_of,
        "steps_of": steps_of,
        "words": None if words is None else tuple(tuple(row) for row in words),
        "branches": None if branches is None else tuple(branches),
        "seeds": None if seeds is None else tuple(seeds),
    }
    with _set(_plan, replace(plan(), **{k: v for k, v in told.items() if v is not None})) as announced:
        yield announced


@contextmanager
def again(tick: Tick, announced: Plan) -> Iterator[None]:
    """Set the clock to an earlier moment of a run within the block, to compute again what was computed then."""
    with _set(_tick, tick), _set(_plan, announced):
        yield


@contextmanager
def _set(variable: ContextVar[_Within[T] | None], value: T) -> Iterator[T]:
    block = _Within(value, _innermost(variable))
    variable.set(block)
    try:
        yield value
    finally:
        block.over = True
        if variable.get() is block:
            variable.set(block.outer)


def _innermost(variable: ContextVar[_Within[T] | None]) -> _Within[T] | None:
    block = variable.get()
    while block is not None and block.over:
        block = block.outer
    return block
