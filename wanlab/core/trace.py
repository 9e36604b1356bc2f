"""Traces: edits and captures around any forward.

    with trace(model, edits=[Zero("up.attn.z", heads=[2])], capture=["mid.out"], steps=8) as t:
        model(x)
    t.record["mid.out"], t.ledger

Everything is resolved to a checked list before anything runs; after any exit the model is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from wanlab.core import clock
from wanlab.core.capture import Capture
from wanlab.core.clock import Plan, Tick
from wanlab.core.edit import Edit, EditError, Event
from wanlab.core.index import positions
from wanlab.core.ledger import Ledger, Line
from wanlab.core.record import GIB, Entry, Key, Record, check_budget
from wanlab.core.region import check, narrow
from wanlab.core.select import AXIS_OF, Select
from wanlab.core.site import Hookable, Site, Sites, UnknownSite, hookables
from wanlab.core.stat import Statistic, statistic
from wanlab.core.tap import BaseTap


class NonFiniteError(ArithmeticError):
    """A tensor with NaN or infinity, at the first site where one passed: `site` and `tick` say where and when."""

    def __init__(self, message: str, site: Site, tick: Tick) -> None:
        super().__init__(message)
        self.site, self.tick = site, tick


class Stopped(BaseException):
    """Ends a forward after the site that `stop_after` names; caught by the trace that raised it."""

    def __init__(self, trace: Trace) -> None:
        super().__init__("the forward was stopped here on request")
        self.trace = trace


@dataclass
class _Place:
    """One site that is listened to: what acts there, in order, each with its line of the ledger."""

    site: Site
    edits: list[tuple[Edit, Line]] = field(default_factory=list)
    captures: list[tuple[Capture, Line]] = field(default_factory=list)
    stop: tuple[Select, Line] | None = None

    def selections(self) -> Iterable[Select]:
        yield from (edit.where for edit, _ in self.edits)
        yield from (capture.where for capture, _ in self.captures)
        if self.stop:
            yield self.stop[0]


class Trace(BaseTap):
    """A `with` that edits and records; see `trace` for its arguments. Afterwards: `record`, `ledger`, `statistics`."""

    def __init__(self, root: nn.Module, edits: Sequence[Edit], capture: Sequence[Any], plan: Plan, budget: int | None,
                 strict: bool, watch_finite: bool, stop_after: Any, sites: Sites | None,
                 within: Callable[[str], bool] | None) -> None:
        super().__init__()
        self.record, self.ledger = Record(budget), Ledger()
        self.statistics: dict[str, Statistic] = {}
        self._strict, self._watch, self._told = strict, watch_finite, plan
        self._modules = {id(module): module for module in hookables(root).values()}
        self._places, self._within = _places(root, sites), within
        self._plan_seen: Plan | None = None
        self._plan = plan
        edits = [edits] if isinstance(edits, Edit) else list(edits)
        captures = [Capture.of(one) for one in ([capture] if isinstance(capture, (str, Capture)) else capture)]
        self._resolve(edits, captures, stop_after)
        self._check_plan()
        self._check_budget(budget)

    # ------------------------------------------------------------------------------------------------ before the run

    def _resolve(self, edits: list[Edit], captures: list[Capture], stop_after: Any) -> None:
        found = Sites([place.site for place in self._places.values()])
        at = {place.site.name: place for place in self._places.values()}
        for edit in edits:
            if not isinstance(edit, Edit):
                raise EditError(f"{edit!r} is no edit: write Zero('site'), or read data by edit_from_dict")
            for site in self._find(found, edit.where):
                edit.check(site)
                at[site.name].edits.append((edit, self.ledger.line(str(edit), site.name, edit.where)))
        for capture in captures:
            for site in self._find(found, capture.where):
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
        told = {key: value for key, value in vars(self._told).items() if value not in (None, 0)}
        self._plan_seen, self._plan = announced, replace(announced, **told)
        for place in self._places.values():
            for select in place.selections():
                check(select, place.site, self._plan)
        self.ledger.plan = self._plan

    def _check_budget(self, budget: int | None) -> None:
        """Refuse, before the run, what is known to exceed the budget (float32, every selected step and branch)."""
        total = 0
        for place in self._places.values():
            for capture, line in place.captures:
                if place.site.shape is None or capture.streams or capture.keep == "disk" or capture.where.words:
                    continue
                steps, branches = (self._plan.steps, self._plan.branches) if place.site.clock is None else (
                    self._plan.steps if "step" in place.site.clock else None,
                    self._plan.branches if "branch" in place.site.clock else None)
                shape = _batch_shape(place.site, self._plan)
                kept = narrow(capture.where, place.site, torch.empty(shape, device="meta"), self._plan)
                ticks = [Tick(step, None, branch) for step in range(steps or 0) or [None]
                         for branch in branches or [None]]
                total += 4 * kept.numel() * sum(_covers(capture.where, tick, self._plan) for tick in ticks)
                check_budget(total, budget, f"the captures up to {line.site}")

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
        self._read_statistics()
        if isinstance(error, Stopped) and error.trace is self:
            self.ledger.stopped = True
            return True
        if error is None and self._strict:
            self.ledger.verify()
        return False

    def _read_statistics(self) -> None:
        for name, stat in self.statistics.items():
            self.record.add(Key(name), Entry(stat.value, stat.axes, name.split(" -> ")[0]))

    # ------------------------------------------------------------------------------------------------ during the run

    def wants(self, module: Hookable, name: str) -> bool:
        """Whether something may act at this site at some time."""
        return (id(module), name) in self._places

    def listens(self, module: Hookable, name: str) -> bool:
        """Whether something will act at this site now."""
        place = self._places.get((id(module), name))
        if place is None or not self._here:
            return False
        self._check_plan()
        return any(select.acts(clock.now(), self._plan, place.site.name) for select in place.selections())

    def fire(self, module: Hookable, name: str, x: Tensor, identity: Any) -> Tensor:
        """Let `x` pass: watched, edited, kept, in this order."""
        place = self._places.get((id(module), name))
        if place is None or not self._here:
            return x
        self._check_plan()
        tick = clock.now()
        if self._watch:
            _finite(x, place.site, tick, "")
        for edit, line in place.edits:
            acts = edit.where.acts(tick, self._plan, place.site.name)
            line.saw(tick, acts)
            if acts:
                x = edit.apply(x, Event(place.site, tick, self._plan, identity))
                if self._watch:
                    _finite(x, place.site, tick, f" after {edit}")
        for capture, line in place.captures:
            acts = capture.where.acts(tick, self._plan, place.site.name)
            line.saw(tick, acts)
            if acts:
                self._keep(capture, place.site, tick, x)
        self._maybe_stop(place, tick)
        return x

    def _keep(self, capture: Capture, site: Site, tick: Tick, x: Tensor) -> None:
        kept = narrow(capture.where, site, x, self._plan)
        if capture.streams:
            name = f"{site.name} -> {capture.keep}"
            if name not in self.statistics:
                self.statistics[name] = statistic(capture.keep, site.axes)
            self.statistics[name].add(kept)
            return
        if capture.keep != "graph":
            kept = kept.detach()
            kept = kept.to("cpu", copy=True) if capture.keep != "device" else kept.clone()
        entry = Entry(kept, site.axes, site.name, _labels(capture.where, site, x))
        self.record.add(Key(site.name, tick.step, tick.branch), entry, disk=capture.keep == "disk")

    def _maybe_stop(self, place: _Place, tick: Tick) -> None:
        if place.stop is not None:
            select, line = place.stop
            acts = select.acts(tick, self._plan, place.site.name)
            line.saw(tick, acts)
            if acts:
                raise Stopped(self)


def trace(root: nn.Module, edits: Sequence[Edit] | Edit = (), capture: Sequence[Any] | str = (), *,
          steps: int | None = None, start: int = 0, branches: Sequence[str] | None = None,
          seeds: Sequence[int] | None = None,
          budget: int | None = 2 * GIB, strict: bool = True, watch_finite: bool = False, stop_after: Any = None,
          sites: Sites | None = None, within: Callable[[str], bool] | None = None) -> Trace:
    """A context in which `edits` act and `capture` is kept at the sites of the Hookables under `root`.

    edits: in order; at one site they compose. capture: selections as strings, with " -> mean" and the like (`Capture`).
    steps, start, branches, seeds: what the run will do, where it does not announce it itself (`clock.announce`).
    budget: bytes of captured values in memory. strict: whether a ledger that does not agree raises at the end.
    watch_finite: raise at the first site where NaN or infinity passes. stop_after: end the forward after this site.
    sites: the sites with known shapes (from a `Probe`), for checks before the run. within: which sites will run at all,
    by name; a pattern then means those alone.

    Raises UnknownSite, SelectionError, EditError, BudgetError on the call; LedgerError on leaving the block.
    """
    plan = Plan(steps, start, None if branches is None else tuple(branches), None if seeds is None else tuple(seeds))
    return Trace(root, edits, capture, plan, budget, strict, watch_finite, stop_after, sites,  # type: ignore[arg-type]
                 within)


def _places(root: nn.Module, known: Sites | None) -> dict[tuple[int, str], _Place]:
    places = {}
    for path, module in hookables(root).items():
        for name, axes in module.SITES.items():
            full = f"{path}.{name}" if path else name
            site = known[full] if known is not None and full in known else Site(full, tuple(axes.split()))
            places[id(module), name] = _Place(site)
    return places


def _batch_shape(site: Site, plan: Plan) -> tuple[int, ...]:
    """The site's known shape with as many rows as seeds are announced (a dry run may have had one)."""
    sizes = zip(site.axes, site.shape or (), strict=True)
    return tuple(len(plan.seeds) if axis == "b" and plan.seeds is not None else size for axis, size in sizes)


def _covers(select: Select, tick: Tick, plan: Plan) -> bool:
    if tick.step is not None and select.steps is not None and not select.acts(replace(tick, sigma=0.0), plan, ""):
        return False
    return tick.branch is None or select.covers(tick.branch)


def _labels(select: Select, site: Site, x: Tensor) -> dict[str, Any]:
    """Original positions along the axes that a capture was cut to."""
    return {axis: tuple(positions(getattr(select, key), x.shape[site.axes.index(axis)], key))
            for key, axis in AXIS_OF.items() if getattr(select, key) is not None}


def _finite(x: Tensor, site: Site, tick: Tick, when: str) -> None:
    if x.is_floating_point() and not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).sum())
        raise NonFiniteError(f"{bad} of {x.numel()} values are NaN or infinite at {site.name}{when} ({tick})",
                             site, tick)


