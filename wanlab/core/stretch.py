"""Stretches: the nodes and denoising steps of a run that are differentiated; all else runs without autograd, and cuts the graph.

    "**"                whatever runs            "detail"            one node alone: what comes before is constant
    "**@steps=4:"       from step 4 to the video "denoise@steps=3"   one step alone
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from wanlab.core import clock
from wanlab.core.checkpoint import checkpointed
from wanlab.core.gradient import GradientError
from wanlab.core.index import positions
from wanlab.core.nearest import suggestion
from wanlab.core.pattern import matches
from wanlab.core.select import PARTS, Select, SelectionError

T = TypeVar("T")


@dataclass(frozen=True)
class Stretch:
    """What is differentiated: `where` names nodes by a glob, and steps or a range of sigma. checkpoint: what a step or a node
    computes is dropped and computed again by the backward pass, which then needs the memory of one at a time."""

    where: Select
    checkpoint: bool = False

    @classmethod
    def of(cls, asked: Any, nodes: Mapping[str, bool], steps: int, checkpoint: bool = False) -> Stretch:
        """What `generate(grad=asked)` means, True or a selection of nodes and steps. nodes: whether each has steps.

        Unknown nodes and steps raise, with the nearest.
        """
        where = Select("**") if asked is True else Select.of(asked)
        told = [key for key in (*PARTS, "branch") if getattr(where, key) is not None]
        if told:
            raise SelectionError(f"grad={str(where)!r}: {told[0]}= cannot limit what is differentiated; nodes and steps can")
        found = [name for name in nodes if matches(where.at, name)]
        if not found:
            raise SelectionError(f"grad={str(where)!r}: no node {where.at!r}{suggestion(where.at, nodes)}; "
                                 f"there are {', '.join(nodes)}")
        if (where.steps, where.sigma) != (None, None) and not any(nodes[name] for name in found):
            raise SelectionError(f"grad={str(where)!r}: {', '.join(found)} runs outside any step")
        if where.steps is not None:
            positions(where.steps, steps, "grad: steps")
        if torch.is_inference_mode_enabled():
            raise GradientError("nothing can be differentiated under torch.inference_mode: leave it, or use torch.no_grad")
        return cls(where, checkpoint)

    def covers(self, node: str) -> bool:
        """Whether a node is differentiated, as a whole or in some of its steps."""
        return matches(self.where.at, node)


_stretch: ContextVar[Stretch | None] = ContextVar("wanlab_stretch", default=None)


@contextmanager
def differentiating(stretch: Stretch | None) -> Iterator[None]:
    """Differentiate what runs within the block where the stretch covers it; None: nothing."""
    before = _stretch.get()
    _stretch.set(stretch)
    try:
        with torch.no_grad():
            yield
    finally:
        _stretch.set(before)


def covers(node: str) -> bool:
    """Whether the run in this thread differentiates a node."""
    stretch = _stretch.get()
    return stretch is not None and stretch.covers(node)


def node(name: str, steps: bool, function: Callable[..., T], *args: Any) -> T:
    """`function(*args)` as the node `name`, differentiated where the stretch covers it; one with steps sees to them itself."""
    stretch = _stretch.get()
    if stretch is None or not covers(name):
        return function(*args)
    with torch.enable_grad():
        return checkpointed(function, *args) if stretch.checkpoint and not steps else function(*args)


@contextmanager
def step() -> Iterator[None]:
    """One denoising step, where the clock stands: without autograd unless the stretch covers it."""
    stretch = _stretch.get()
    covered = stretch is None or stretch.where.acts(clock.now(), clock.plan(), "the denoising loop")
    with torch.set_grad_enabled(torch.is_grad_enabled() and covered):
        yield


def held(function: Callable[..., T], *args: Any) -> T:
    """`function(*args)` within a step, behind a checkpoint where the stretch asks for it."""
    stretch = _stretch.get()
    return checkpointed(function, *args) if stretch is not None and stretch.checkpoint else function(*args)
