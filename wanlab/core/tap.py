"""Taps: what hangs on a model's sites while a `with` is open, and is gone after any exit.

A tap acts only in the context (thread, asyncio task) that opened it: two threads may share modules and do not see
each other.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from wanlab.core import clock
from wanlab.core.lazy import Lazy
from wanlab.core.site import Hookable, Sites, hookables, sites_of

_open: ContextVar[tuple[BaseTap, ...]] = ContextVar("wanlab_open_taps", default=())
_lock = threading.Lock()


class BaseTap:
    """Base of traces and probes: hangs itself on modules and takes off itself alone, in any order of nesting."""

    def __init__(self) -> None:
        self._hung: list[Hookable] = []

    def _hang(self, modules: Iterable[Hookable]) -> None:
        try:
            with _lock:
                _uncompiled(self)
                for module in modules:
                    self._hung.append(module)
                    object.__setattr__(module, "_taps", (*(module._taps or ()), self))
                    module._tapped()
        except BaseException:
            self._take_off()
            raise
        _open.set((*_opened(), self))

    def _take_off(self) -> None:
        with _lock:
            while self._hung:
                module = self._hung.pop()
                left = tuple(tap for tap in module._taps or () if tap is not self)
                if left:
                    object.__setattr__(module, "_taps", left)
                else:
                    module.__dict__.pop("_taps", None)
                module._tapped()
            _compiled(self)
        _open.set(tuple(tap for tap in _opened() if tap is not self))

    def again(self) -> BaseTap | None:
        """What stands in for this tap while a checkpoint recomputes what ran under it; None: nothing need act."""
        return None

    def wants(self, module: Hookable, name: str) -> bool:
        """Whether this tap may act at a site at any time while it hangs."""
        return True

    @property
    def _here(self) -> bool:
        """Whether the running code is in the context that opened this tap."""
        return any(tap is self for tap in _open.get())


def _opened() -> tuple[BaseTap, ...]:
    """The taps that are open in this context; one may have been closed in another."""
    return tuple(tap for tap in _open.get() if tap._hung)


def known_context() -> bool:
    """Whether taps were ever opened in this context: where not, none of the caller's can be seen from here."""
    return _open.get(None) is not None


# Compiled callables run uncompiled while any tap hangs: their graphs have no sites, and could not hold the clock.
_hanging: set[int] = set()
_stance: list[Any] = []
_said = False


def _uncompiled(tap: BaseTap) -> None:
    global _said
    _hanging.add(id(tap))
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and not _stance:
        if not _said and dynamo.utils.counters["frames"]["total"]:
            _said = True
            logging.getLogger(__name__).warning(
                "a trace is open: what torch.compile has compiled has no sites, and runs uncompiled until the trace is closed "
                "(said once)")
        _stance.append(torch.compiler.set_stance("force_eager"))
        _stance[0].__enter__()


def _compiled(tap: BaseTap) -> None:
    _hanging.discard(id(tap))
    if _stance and not _hanging:
        _stance.pop().__exit__(None, None, None)


class Onlooker(BaseTap):
    """Base of taps that hang on every Hookable under a root and change nothing."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self._modules = {id(module): (path, module) for path, module in hookables(root).items()}

    def __enter__(self) -> Self:
        self._hang(module for _, module in self._modules.values())
        return self

    def __exit__(self, *_: object) -> None:
        self._take_off()

    def _full(self, module: Hookable, name: str) -> str:
        """The full name of a module's site."""
        path, _ = self._modules[id(module)]
        return f"{path}.{name}" if path else name


class Probe(Onlooker):
    """Notes shape, clock and bypass of every site that fires: `with Probe(model) as probe: ...; probe.sites`."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__(root)
        self._root = root
        self._seen: dict[str, tuple[tuple[int, ...], set[str], bool]] = {}

    def listens(self, module: Hookable, name: str) -> bool:
        """Everything is of interest; of what is computed for its listeners alone, the shape is."""
        return self._here

    def fire(self, module: Hookable, name: str, x: Tensor | Lazy, identity: Any) -> Tensor | Lazy:
        """Note shape, clock and bypass; what passes is unchanged."""
        if self._here:
            tick, full = clock.now(), self._full(module, name)
            parts = {part for part in ("step", "branch") if getattr(tick, part) is not None}
            shape = x.bound(full).shape if isinstance(x, Lazy) else x.shape
            _, seen, _ = self._seen.setdefault(full, (tuple(shape), parts, identity is not None))
            seen &= parts
        return x

    def _alike(self) -> dict[str, tuple[tuple[int, ...], set[str], bool]]:
        """What is known of sites that were not passed, from those that are like them."""
        pairs = ((self._full(module, name), self._full(module, other))
                 for _, module in self._modules.values() for name, other in module.ALIKE.items())
        return {name: (*self._seen[other][:2], False) for name, other in pairs if other in self._seen}

    @property
    def sites(self) -> Sites:
        """Every site of the model; with shape, clock and bypass where it fired, or one that is like it did."""
        seen = self._alike() | self._seen
        return Sites([replace(site, **_known(seen[site.name])) if site.name in seen else site for site in sites_of(self._root)])


def _known(seen: tuple[tuple[int, ...], set[str], bool]) -> dict[str, Any]:
    return {"shape": seen[0], "clock": frozenset(seen[1]), "bypass": seen[2]}
