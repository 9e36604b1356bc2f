"""Activation checkpointing that knows about traces: the backward pass computes again under the edits of the forward.

    y = checkpointed(block, x)      # block(x); what it computes on the way is dropped, and computed again when needed
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from contextvars import copy_context
from typing import Any, Self, TypeVar

import torch

from wanlab.core import clock
from wanlab.core.clock import Plan, Tick
from wanlab.core.site import Hookable
from wanlab.core.tap import BaseTap, _open, _opened

T = TypeVar("T")


class Again(BaseTap):
    """Stands in for a trace, open or closed since, while its forward is computed again: edits act, nothing is kept or counted."""

    def __init__(self, trace: Any, modules: Sequence[Hookable]) -> None:
        super().__init__()
        self._trace, self._modules = trace, modules

    def __enter__(self) -> Self:
        self._hang(self._modules)
        return self

    def __exit__(self, *_: object) -> None:
        self._take_off()

    def wants(self, module: Hookable, name: str) -> bool:
        """What the trace wants."""
        return bool(self._trace.wants(module, name))

    def listens(self, module: Hookable, name: str) -> bool:
        """What the trace listened to: the same must be computed, in the same order."""
        return self._here and self._trace.acts(module, name)

    def fire(self, module: Hookable, name: str, x: Any, identity: Any) -> Any:
        """Let `x` pass under the trace's edits."""
        return self._trace.repeat(module, name, x, identity) if self._here else x

    def again(self) -> Again:
        """For a checkpoint within a checkpoint."""
        return Again(self._trace, self._modules)


def checkpointed(function: Callable[..., T], *args: Any) -> T:
    """`function(*args)` by `torch.utils.checkpoint` (non-reentrant; Chen et al. 2016).

    It is computed again under the clock, the edits and the random numbers of the first time, in whatever thread the
    backward pass runs, and after the trace was closed too. Captures and ledgers see it once. Without autograd it is the
    function itself.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    from torch.utils.checkpoint import checkpoint

    context, taps, moment, first = copy_context(), _opened(), (clock.now(), clock.plan()), True

    def run(*args: Any) -> T:
        nonlocal first
        if first:
            first = False
            return function(*args)
        return context.copy().run(_again, taps, moment, function, args)

    return checkpoint(run, *args, use_reentrant=False)


def _again(taps: Sequence[BaseTap], moment: tuple[Tick, Plan], function: Callable[..., T], args: Sequence[Any]) -> T:
    _open.set(())
    with clock.again(*moment), ExitStack() as stack:
        for tap in taps:
            if (other := tap.again()) is not None:
                stack.enter_context(other)      # type: ignore[arg-type]  # all are contexts
        return function(*args)
