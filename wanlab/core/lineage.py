"""Lineage: which sites what a run gives depends on, and which of them no longer once others are cut.

    with Lines(model) as lines:
        out = model(x)                              # with autograd on; values are of no account, the meta device will do
    lineage = lines.of(out)
    lineage.read({"detail.out": True})              # the sites that still matter where the detail stage is bypassed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wanlab.core.lazy import Lazy
from wanlab.core.site import Hookable
from wanlab.core.tap import Onlooker


class Firing(NamedTuple):
    """A value that passed a site: the firings it was computed from, and those from which what stands there when it is bypassed."""

    site: str
    parents: tuple[int, ...]
    substitutes: tuple[int, ...]


@dataclass(frozen=True)
class Lineage:
    """How the sites of one run feed each other, and its output, as plain data."""

    firings: Sequence[Firing]
    ends: tuple[int, ...]

    @property
    def sites(self) -> set[str]:
        """All that are in it: not those whose values are computed for listeners alone, or have no gradient."""
        return {firing.site for firing in self.firings}

    def read(self, cut: Mapping[str, bool] | None = None) -> set[str]:
        """The sites on which the output depends. cut: sites where nothing passes any more, but for what stands there when they are
        bypassed (True)."""
        cut, found, seen, todo = cut or {}, set(), set(self.ends), list(self.ends)
        while todo:
            site, parents, substitutes = self.firings[todo.pop()]
            if site not in cut:
                found.add(site)
            further = parents if site not in cut else substitutes if cut[site] else ()
            todo += set(further) - seen
            seen.update(further)
        return found


class Lines(Onlooker):
    """Notes how sites feed each other, while it is open: each that fires becomes a node of autograd's graph. What passes keeps its
    bytes. Where autograd sees no path (an argsort, a comparison) there is none here."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__(root)
        self._nodes: dict[Any, tuple[int, str]] = {}        # node of the graph -> number and site of the firing

    def listens(self, module: Hookable, name: str) -> bool:
        """Nothing is computed for it that the model does not compute."""
        return False

    def fire(self, module: Hookable, name: str, x: Tensor | Lazy, identity: Any) -> Tensor | Lazy:
        """Put a node for the site into the graph."""
        if not self._here or isinstance(x, Lazy) or not x.is_floating_point() or not torch.is_grad_enabled():
            return x
        substitute = identity() if callable(identity) else identity
        marked: Tensor = _Mark.apply(x if x.requires_grad else x.detach().requires_grad_(), substitute)
        self._nodes[marked.grad_fn] = len(self._nodes), self._full(module, name)
        return marked

    def of(self, out: Tensor) -> Lineage:
        """The lineage of what the run gave."""
        firings = []
        for node, (_, site) in self._nodes.items():
            (first, _), *others = node.next_functions
            firings.append(Firing(site, self._before(first), self._before(*(other for other, _ in others))))
        return Lineage(firings, self._before(out.grad_fn))

    def _before(self, *nodes: Any) -> tuple[int, ...]:
        """The firings on the way back from some nodes of the graph, without those behind them."""
        found: list[int] = []
        seen, todo = set(nodes), list(nodes)
        while todo:
            node = todo.pop()
            if node in self._nodes:
                found.append(self._nodes[node][0])
            elif node is not None:
                further = {parent for parent, _ in node.next_functions} - seen
                seen |= further
                todo += further
        return tuple(sorted(found))


class _Mark(torch.autograd.Function):
    """A value that passes a site: itself, with what stands for it when bypassed as a second parent."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, substitute: Tensor | None) -> Tensor:
        return x.view_as(x)
