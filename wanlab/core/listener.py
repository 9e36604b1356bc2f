"""Listeners: what acts at one site of a model while a trace is open, in order, each with its line of the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wanlab.core.capture import Capture
from wanlab.core.clock import Plan, Tick
from wanlab.core.edit import Edit, Event
from wanlab.core.gradient import GradientLine, own
from wanlab.core.lazy import Lazy
from wanlab.core.ledger import Line
from wanlab.core.region import narrow
from wanlab.core.select import Select
from wanlab.core.site import Hookable, Site, Sites


class NonFiniteError(ArithmeticError):
    """A tensor with NaN or infinity, at the first site where one passed: `site` and `tick` say where and when."""

    def __init__(self, message: str, site: Site, tick: Tick) -> None:
        super().__init__(message)
        self.site, self.tick = site, tick


@dataclass
class Listener:
    """One site that is listened to."""

    site: Site
    edits: list[tuple[Edit, Line]] = field(default_factory=list)
    captures: list[tuple[Capture, Line]] = field(default_factory=list)          # of values
    gradients: list[tuple[Capture, GradientLine]] = field(default_factory=list)
    stop: tuple[Select, Line] | None = None

    def selections(self) -> Iterator[Select]:
        """Of everything that may act here."""
        yield from (edit.where for edit, _ in self.edits)
        yield from (capture.where for capture, _ in (*self.captures, *self.gradients))
        if self.stop:
            yield self.stop[0]

    @property
    def seen(self) -> set[Tick]:
        """When the site fired."""
        lines = [line for _, line in (*self.edits, *self.captures, *self.gradients)]
        return {tick for line in lines for tick in line.seen}

    def acts(self, select: Select, tick: Tick, plan: Plan) -> bool:
        """Whether a selection of this site covers this moment."""
        return select.acts(tick, plan, self.site.name)

    def wanted(self, x: Tensor | Lazy, tick: Tick, plan: Plan) -> Tensor | Lazy:
        """`x` as this site's; all of what was not computed yet, where a part of it would not do: edits, gradients, graphs."""
        if not isinstance(x, Lazy):
            return x
        whole = [edit.where for edit, _ in self.edits] + [capture.where for capture, _ in self.gradients]
        whole += [capture.where for capture, _ in self.captures if capture.keep == "graph"]
        x = x.bound(self.site.name)
        return x.whole() if any(self.acts(one, tick, plan) for one in whole) else x

    def edited(self, x: Any, tick: Tick, plan: Plan, identity: Any, watch: bool) -> Any:
        """`x` after the edits; with `watch`, NaN and infinity raise before and after each."""
        if watch and not isinstance(x, Lazy):
            _finite(x, self.site, tick, "")
        for edit, line in self.edits:
            acts = self.acts(edit.where, tick, plan)
            line.saw(tick, acts)
            if acts:
                x = edit.apply(x, Event(self.site, tick, plan, identity))
                if watch:
                    _finite(x, self.site, tick, f" after {edit}")
        return x

    def repeated(self, x: Any, tick: Tick, plan: Plan, identity: Any) -> Any:
        """`x` as it was passed on before, when a checkpoint computes again: the same operations, and nothing noted."""
        given, x = x, self.wanted(x, tick, plan)
        for edit, _ in self.edits:
            if self.acts(edit.where, tick, plan):
                x = edit.apply(x, Event(self.site, tick, plan, identity))
        if any(self.acts(capture.where, tick, plan) for capture, _ in self.gradients):
            x = own(x, self.site, tick)
        for capture, _ in self.captures:
            if capture.keep == "graph" and self.acts(capture.where, tick, plan):
                narrow(capture.where, self.site, x, plan)
        return given if isinstance(x, Lazy) else x


def listeners(modules: Mapping[str, Hookable], known: Sites | None) -> dict[tuple[int, str], Listener]:
    """One for every site of modules (by path), by its module's id and its local name; with shapes, where `known` has them."""
    found = {}
    for path, module in modules.items():
        for name, axes in module.SITES.items():
            full = f"{path}.{name}" if path else name
            shaped = known[full] if known is not None and full in known else None
            site = shaped or Site(full, tuple(axes.split()), derived=name in module.DERIVED)
            found[id(module), name] = Listener(site)
    return found


def _finite(x: Tensor, site: Site, tick: Tick, when: str) -> None:
    if x.is_floating_point() and not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).sum())
        raise NonFiniteError(f"{bad} of {x.numel()} values are NaN or infinite at {site.name}{when} ({tick})",
                             site, tick)
