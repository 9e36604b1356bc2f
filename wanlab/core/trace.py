"""Traces: edits and captures around any forward.

    with trace(model, edits=[Zero("up.attn.z", heads=[2])], capture=["mid.out"], steps=8) as t:
        model(x)
    t.record["mid.out"], t.ledger

Everything is resolved to a checked list before anything runs; after any exit the model is as it was. Within a backward
pass a forward is a checkpoint's recomputation: edits act again, captures and the ledger do not see it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from wanlab.core import clock
from wanlab.core.budget import GIB
from wanlab.core.capture import Capture
from wanlab.core.checkpoint import Again
from wanlab.core.clock import Plan, Tick
from wanlab.core.edit import Edit, EditError
from wanlab.core.gradient import GradientError, GradientLine, graph_task, own, recomputing, unknown_moment
from wanlab.core.lazy import Lazy
from wanlab.core.ledger import Ledger
from wanlab.core.listener import Listener, listeners
from wanlab.core.quote import quoted
from wanlab.core.recorder import Recorder
from wanlab.core.region import check
from wanlab.core.select import Select
from wanlab.core.site import Hookable, Site, Sites, UnknownSite, hookables
from wanlab.core.tap import BaseTap, known_context


class Stopped(BaseException):
    """Ends a forward after the site that `stop_after` names; caught by the trace that raised it."""

    def __init__(self, trace: Trace) -> None:
        super().__init__("the forward was stopped here on request")
        self.trace = trace


class Trace(BaseTap):
    """A `with` that edits and records; see `trace` for its arguments. Afterwards: `record` and `ledger`."""

    def __init__(self, root: nn.Module, edits: Sequence[Edit] | Edit, capture: Sequence[Any] | str, plan: Plan, budget: int | None,
                 strict: bool, watch_finite: bool, stop_after: Any, sites: Sites | None,
                 within: Callable[[str], bool] | None) -> None:
        super().__init__()
        self._recorder, self.ledger = Recorder(budget), Ledger()
        self.record = self._recorder.record
        self._strict, self._watch, self._told = strict, watch_finite, plan
        modules = hookables(root)
        self._modules = {id(module): module for module in modules.values()}
        self._places, self._within = listeners(modules, sites), within
        self._handles: list[RemovableHandle] = []       # of gradients that are to come
        self._lock, self._task = threading.Lock(), graph_task()
        self._plan_seen: Plan | None = None
        self._plan = plan
        edits = [edits] if isinstance(edits, (Edit, str, Mapping)) else list(edits or ())     # text is refused as a whole
        self._resolve(edits, Capture.several(capture), stop_after)
        self._check_plan()

    # ------------------------------------------------------------------------------------------------ before the run

    def _resolve(self, edits: list[Edit], captures: list[Capture], stop_after: Any) -> None:
        found = Sites([place.site for place in self._places.values()])
        at = {place.site.name: place for place in self._places.values()}
        for edit in edits:
            if not isinstance(edit, Edit):
                raise EditError(f"{quoted(edit)} is no edit: write Zero('site'), or read data by edit_from_dict")
            named = self._find(found, edit.where)
            for site in [site for site in named if not site.derived or edit.inert] or named:      # what can be edited of a glob
                edit.check(site)
                at[site.name].edits.append((edit, self.ledger.line(str(edit), site.name, edit.where)))
        for capture in captures:
            for site in self._find(found, capture.where):
                if capture.grad:
                    if site.derived:
                        raise GradientError(f"{capture}: no gradient comes back to {site.name}, nothing is computed from it")
                    back = GradientLine(f"capture {capture}", site.name, capture.where)
                    self.ledger.lines.append(back)
                    at[site.name].gradients.append((capture, back))
                    continue
                line = self.ledger.line(f"capture {capture}", site.name, capture.where)
                at[site.name].captures.append((capture, line))
        if stop_after is not None:
            select = Select.of(stop_after)
            for site in self._find(found, select):
                at[site.name].stop = (select, self.ledger.line(f"stop_after {select}", site.name, select))
        if not self._watch:
            self._places = {key: place for key, place in self._places.items() if any(place.selections())}

    def _find(self, sites: Sites, select: Select) -> Sites:
        """The sites that a selection names, of those that run here; none at all raises."""
        found = sites.find(select.at)
        here = Sites([site for site in found if self._within is None or self._within(site.name)])
        if not here:
            raise UnknownSite(f"{select.at!r} matches {found.names[0]}, but nothing that runs here")
        return here

    def _check_plan(self) -> None:
        """Check every selection against what the run has announced; once for each announcement."""
        announced = clock.plan()
        if announced is self._plan_seen:
            return
        self._plan_seen, self._plan = announced, self._with_told(announced)
        for place in self._places.values():
            for select in place.selections():
                check(select, place.site, self._plan)
            for edit, _ in place.edits:
                edit.check_run(place.site, self._plan)
        self._recorder.expect([(place.site, [capture for capture, _ in (*place.captures, *place.gradients)])
                               for place in self._places.values()], self._plan)
        self.ledger.plan = self._plan
        self.ledger.check(self._plan)

    def _with_told(self, announced: Plan) -> Plan:
        told = {key: value for key, value in vars(self._told).items() if value not in (None, 0)}
        return replace(announced, **told)

    # ------------------------------------------------------------------------------------------------ the with

    def __enter__(self) -> Self:
        if self._hung:
            raise RuntimeError("this trace is already open; make another")
        if self.record.firings or any(line.seen for line in self.ledger):
            raise RuntimeError("this trace has run; make another, so that its record and ledger stay what they are")
        self._hang(self._modules[id_] for id_ in dict.fromkeys(id_ for id_, _ in self._places))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> bool:
        self._take_off()
        while self._handles:
            self._handles.pop().remove()
        stopped = isinstance(error, Stopped) and error.trace is self
        if error is not None and not stopped:
            return False
        if self._strict:
            self.ledger.verify()
        return stopped

    # ------------------------------------------------------------------------------------------------ during the run

    def wants(self, module: Hookable, name: str) -> bool:
        """Whether something may act at this site at some time."""
        return (id(module), name) in self._places

    def listens(self, module: Hookable, name: str) -> bool:
        """Whether something will act at this site now."""
        place = self._places.get((id(module), name))
        if place is None or not self._here:
            return False
        if recomputing(self._task):
            self._check_moment(place)
        return self.acts(module, name)

    def acts(self, module: Hookable, name: str) -> bool:
        """Whether something is to act at this site at this moment, in whatever context."""
        place, plan = self._places.get((id(module), name)), self._plan_here()
        return place is not None and any(place.acts(select, clock.now(), plan) for select in place.selections())

    def fire(self, module: Hookable, name: str, x: Any, identity: Any) -> Any:
        """Let `x` pass: watched, edited, kept, in this order. GradientError where a checkpoint that is not ours computes again."""
        place = self._places.get((id(module), name))
        if place is None:
            return x
        if not self._here:
            if recomputing() and not known_context():
                raise unknown_moment(place.site)
            return x
        if recomputing(self._task):
            self._check_moment(place)
            return self.repeat(module, name, x, identity)
        self._check_plan()
        plan, tick, given = self._plan, clock.now(), x
        x = place.edited(place.wanted(x, tick, plan), tick, plan, identity, self._watch)
        x = self._await_gradients(place, tick, plan, x)
        for capture, line in place.captures:
            acts = place.acts(capture.where, tick, plan)
            line.saw(tick, acts)
            if acts:
                plain = x if capture.keep == "graph" or isinstance(x, Lazy) else x.detach()
                self._recorder.keep(capture, place.site, tick, plan, plain)
        self._maybe_stop(place, tick)
        return given if isinstance(x, Lazy) else x

    def repeat(self, module: Hookable, name: str, x: Any, identity: Any) -> Any:
        """Let `x` pass once more, in a checkpoint's recomputation: as before, but nothing is noted."""
        place = self._places.get((id(module), name))
        return x if place is None else place.repeated(x, clock.now(), self._plan_here(), identity)

    def again(self) -> Again:
        """What stands in for this trace while a checkpoint computes again."""
        return Again(self, [self._modules[id_] for id_ in dict.fromkeys(id_ for id_, _ in self._places)])

    def _check_moment(self, place: Listener) -> None:
        """Let a checkpoint that is not ours compute again only where the clock stands as it did the first time."""
        if not place.seen <= {clock.now()} or clock.plan() != self._plan_seen:
            raise unknown_moment(place.site)

    def _plan_here(self) -> Plan:
        """What this run has announced; of a recomputation, what its forward had."""
        if recomputing(self._task):
            return self._with_told(clock.plan())
        self._check_plan()
        return self._plan

    def _await_gradients(self, place: Listener, tick: Tick, plan: Plan, x: Tensor) -> Tensor:
        """`x`, with its gradient to be kept when it comes."""
        awaited = []
        for capture, line in place.gradients:
            acts = place.acts(capture.where, tick, plan)
            line.saw(tick, False)
            if acts:
                awaited.append((capture, line))
        if not awaited:
            return x
        x = own(x, place.site, tick)
        for capture, line in awaited:
            came = partial(self._came, capture, line, *line.awaits(tick), place.site, tick, plan)
            self._handles.append(x.register_hook(came))
        return x

    def _came(self, capture: Capture, line: GradientLine, firing: int, call: int, site: Site, tick: Tick, plan: Plan,
              grad: Tensor) -> None:
        with self._lock:        # on several devices, gradients come in several threads
            line.came(firing)
            self._recorder.keep(capture, site, tick, plan, grad if capture.keep == "graph" else grad.detach(), call)

    def _maybe_stop(self, place: Listener, tick: Tick) -> None:
        if place.stop is not None:
            select, line = place.stop
            acts = select.acts(tick, self._plan, place.site.name)
            line.saw(tick, acts)
            if acts:
                self.ledger.stopped = tick
                raise Stopped(self)


def trace(root: nn.Module, edits: Sequence[Edit] | Edit = (), capture: Sequence[Any] | str = (), *,
          steps: int | None = None, start: int = 0, branches: Sequence[str] | None = None,
          seeds: Sequence[int] | None = None,
          budget: int | None = 2 * GIB, strict: bool = True, watch_finite: bool = False, stop_after: Any = None,
          sites: Sites | None = None, within: Callable[[str], bool] | None = None) -> Trace:
    """A context in which `edits` act and `capture` is kept at the sites of the Hookables under `root`.

    edits: in order; at one site they compose. capture: selections as strings, with " -> mean" and the like (`Capture`);
    with " -> grad" the gradients that come back within the block (`wanlab.core.gradient`).
    steps, start, branches, seeds: what the run will do, where it does not announce it itself (`clock.announce`).
    budget: bytes of captured values in memory. strict: whether a ledger that does not agree raises at the end.
    watch_finite: raise at the first site where NaN or infinity passes. stop_after: end the forward after this site.
    sites: the sites with known shapes (from a `Probe`), for checks before the run. within: which sites will run at all,
    by name; a pattern then means those alone.

    Traces may stand within each other, and `generate` opens one. What passes a site comes to the outermost first: its capture sees
    the tensor before the edits of those within it, its edits act before theirs, and a capture within sees what outer edits made.

    Raises UnknownSite, SelectionError, EditError, BudgetError on the call; LedgerError on leaving the block.
    """
    plan = Plan(steps, start, branches=None if branches is None else tuple(branches),
                seeds=None if seeds is None else tuple(seeds))
    return Trace(root, edits, capture, plan, budget, strict, watch_finite, stop_after, sites, within)
