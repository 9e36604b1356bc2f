"""What captures do in a run: names in the record, refusals before the run, values and statistics kept as it goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wanlab.core.budget import check_disk, check_memory, folder_for_captures
from wanlab.core.capture import Capture
from wanlab.core.clock import Plan, Tick
from wanlab.core.entry import Entry
from wanlab.core.firing import Key
from wanlab.core.index import positions
from wanlab.core.label import Label
from wanlab.core.lazy import Lazy
from wanlab.core.pattern import matches
from wanlab.core.record import Record
from wanlab.core.region import kept_positions
from wanlab.core.select import Select
from wanlab.core.site import Site
from wanlab.core.stat import Moment, Statistic, StatisticError, statistic

FLOAT32 = 4                 # bytes of a value, until a site has shown its own type


class Recorder:
    """Fills a record. `expect` before the run, `keep` for each firing that a capture covers."""

    def __init__(self, budget: int | None) -> None:
        self.record = Record(budget)
        self._named: dict[str, dict[str, list[Capture]]] = {}       # site -> name in the record -> captures
        self._needs: dict[bool, dict[str, int]] = {False: {}, True: {}}         # on disk? -> name -> bytes
        self._measured: set[str] = set()
        self._held: dict[Key, Statistic] = {}
        self._tables: dict[int, np.ndarray] = {}        # number of tokens -> words of each row, of the announced prompts

    # ------------------------------------------------------------------------------------------------ before the run

    def expect(self, wanted: Iterable[tuple[Site, Sequence[Capture]]], plan: Plan) -> None:
        """Take note of all captures, and refuse what is known to exceed the budget or the free disk.

        Known are sites with a shape: each value counts as float32, each selected step and branch once (of a range of sigma:
        every step). Other sites are measured when they fire first.
        """
        self.record.steps, self.record.branches, self._tables = plan.steps, plan.branches or (), {}
        for site, captures in wanted:
            self._named[site.name] = named = names(site, captures)
            for name, group in named.items():
                if group[0].streams:
                    _empty(group[0], site)        # axes that do not fit raise now
                if site.shape is not None and site.clock is not None and name not in self._measured:
                    sizes = _sizes(site, group[0].where, plan)
                    self._need(name, group, site, sizes, FLOAT32, site.clock, plan)
        self._check()

    def _need(self, name: str, group: list[Capture], site: Site, sizes: dict[str, int], each: int,
              parts: Iterable[str], plan: Plan) -> None:
        """Note what the captures of one name will take in all; `parts` are those of the clock that the site fires under."""
        due = {moment for capture in group for moment in _due(capture.where, site, parts, plan)}
        if group[0].streams:
            states = len({_moment(Tick(step, None, branch), group[0].by) for step, branch in due})
            self._needs[False][name] = _empty(group[0], site).forecast(sizes) * states
        else:
            size = int(np.prod(list(sizes.values()), dtype=object)) * each * len(due)
            self._needs[group[0].keep == "disk"][name] = size

    def _check(self) -> None:
        check_memory(self._needs[False], self.record.budget)
        if self._needs[True]:
            check_disk(self._needs[True], folder_for_captures())

    # ------------------------------------------------------------------------------------------------ during the run

    def keep(self, capture: Capture, site: Site, tick: Tick, plan: Plan, x: Tensor | Lazy, call: int = 0) -> None:
        """Keep one firing, or add it to its statistic. What two captures of one name cover is kept once.

        `x` is the value at the site, or its gradient; call: its number, where it does not come in the order of the run."""
        name, group = next((name, group) for name, group in self._named[site.name].items() if capture in group)
        earlier = group[:group.index(capture)]
        if any(other.where.acts(tick, plan, site.name) for other in earlier):
            return
        at = kept_positions(capture.where, site, x, plan)
        self._measure(name, group, site, tick, plan, x, at)
        part = _part(x, {site.axes.index(axis): places for axis, places in at.items()})
        if tick.step is not None and tick.sigma is not None:
            self.record.sigmas[tick.step] = tick.sigma
        if capture.streams:
            labels = _cut(x.labels, at) if isinstance(x, Lazy) else {}
            self._add(name, capture, site, part, Moment(tick, plan.seeds, at), labels)
            return
        if capture.keep != "graph":
            part = _own(part, x, capture.keep)
        labels = self._words(site, x, at, plan) if tick.branch in (None, "cond") else {}
        full = {axis: x.shape[site.axes.index(axis)] for axis in at}
        coords: dict[str, Any] = {axis: tuple(places) for axis, places in at.items()}
        if isinstance(x, Lazy):
            labels, coords = {**labels, **_cut(x.labels, at)}, {**x.coords, **coords}
        entry = Entry(part, site.axes, site.name, coords, labels, full)
        self.record.add(Key(name, tick.step, tick.branch, call), entry, disk=capture.keep == "disk")

    def _words(self, site: Site, x: Tensor | Lazy, at: dict[str, list[int]], plan: Plan) -> dict[str, Label]:
        """Labels of the tokens, where the site carries the prompt and its words are announced."""
        axis = "j" if "j" in site.axes else "n"
        if plan.words is None or plan.tokens_of is None or plan.text_sites is None:
            return {}
        if axis not in site.axes or not matches(plan.text_sites, site.name):
            return {}
        tokens = x.shape[site.axes.index(axis)]
        if tokens not in self._tables:
            self._tables[tokens] = _word_table(plan, tokens)
        table = self._tables[tokens]
        rows = at.get("b", range(x.shape[site.axes.index("b")])) if "b" in site.axes else range(len(table))
        table = table[list(rows)][:, at.get(axis, slice(None))]
        if (table == table[:1]).all():
            return {"word": Label((axis,), table[0])}
        return {"word": Label(("b", axis), table)} if "b" in site.axes else {}

    def _measure(self, name: str, group: list[Capture], site: Site, tick: Tick, plan: Plan, x: Tensor | Lazy,
                 at: dict[str, list[int]]) -> None:
        """At the first firing the true size is known: refuse now what would be too much in the end."""
        if name not in self._measured:
            self._measured.add(name)
            parts = [key for key in ("step", "branch") if getattr(tick, key) is not None]
            sizes = dict(zip(site.axes, x.shape, strict=True)) | {axis: len(places) for axis, places in at.items()}
            self._need(name, group, site, sizes, x.itemsize, parts, plan)
            self._check()

    def _add(self, name: str, capture: Capture, site: Site, part: Tensor, at: Moment, labels: Mapping[str, Label]) -> None:
        key = Key(name, *_moment(at.tick, capture.by))
        stat = self._held.get(key) or _empty(capture, site)
        before = stat.nbytes if stat.count else 0
        try:
            stat.add(part, at)
        except StatisticError as error:
            raise StatisticError(f"{name} ({at.tick}): {error}") from error
        stat.labels = {told: label for told, label in labels.items() if set(label.axes) <= set(stat.axes)}
        if key not in self._held and stat.count:
            self._held[key] = stat
            self.record.add(key, stat)
        elif stat.count and stat.nbytes != before:
            self.record.weigh(stat.nbytes - before, key)


def names(site: Site, captures: Sequence[Capture]) -> dict[str, list[Capture]]:
    """What the record calls each capture of a site: the site's name, with as much more as tells captures apart.

    A statistic has its own name behind an arrow; limits are told where captures of one kind differ in them.
    """
    found: dict[str, list[Capture]] = {}
    for capture in dict.fromkeys(captures):
        like = [one for one in captures if (one.grad, one.streams) == (capture.grad, capture.streams)
                and (not capture.streams or one.keep == capture.keep)]
        limits = {_limits(site, one) for one in like}
        name = _limits(site, capture) if len(limits) > 1 else site.name
        ways = {one.keep for one in like}
        name += " -> grad" if capture.grad else ""
        name += f" -> {capture.keep}" if capture.streams or len(ways) > 1 else ""
        found.setdefault(name, []).append(capture)
    return found


def _empty(capture: Capture, site: Site) -> Statistic:
    kind, options = capture.statistic
    try:
        found: Statistic = statistic(kind, site.axes, options)
    except StatisticError as error:
        raise StatisticError(f"{capture} at {site.name}: {error}") from error
    return found


def _limits(site: Site, capture: Capture) -> str:
    """The site with the limits of a capture: of values those of their part, for steps and branches have keys of their own."""
    when: dict[str, Any] = {} if capture.streams else {"steps": None, "sigma": None, "branch": None}
    return str(replace(capture.where, at=site.name, **when))


def _part(x: Tensor | Lazy, at: dict[int, list[int]]) -> Tensor:
    """`x` at some positions of some axes."""
    if isinstance(x, Lazy):
        return x.part(at)
    for axis, places in at.items():
        x = x.index_select(axis, torch.tensor(places, device=x.device))
    return x


def _cut(labels: Mapping[str, Label], at: dict[str, list[int]]) -> dict[str, Label]:
    """Labels of the positions that are kept."""
    found = {}
    for name, label in labels.items():
        values = label.values
        for place, axis in enumerate(label.axes):
            values = values.take(at[axis], place) if axis in at else values
        found[name] = Label(label.axes, values)
    return found


def _own(part: Tensor, x: Tensor | Lazy, keep: str) -> Tensor:
    """Values that nobody else writes to: those of the model may be written to after the site."""
    part = part.detach()
    shared = not isinstance(x, Lazy) and part.data_ptr() == x.data_ptr()
    if keep == "device":
        return part.clone() if shared else part
    return part.to("cpu", copy=shared)


def _moment(tick: Tick, by: Sequence[str]) -> tuple[int | None, str | None]:
    return tick.step if "step" in by else None, tick.branch if "branch" in by else None


def _due(select: Select, site: Site, parts: Iterable[str], plan: Plan) -> list[tuple[int | None, str | None]]:
    """Every announced step and branch that a selection covers; what is not announced counts once."""
    steps: list[int | None] = [None]
    branches: list[str | None] = [None]
    if "step" in parts and plan.steps is not None:
        wanted = range(plan.steps) if select.steps is None else positions(select.steps, plan.steps, "steps")
        here = plan.due_at(site.name)
        steps = [step for step in wanted if step in here]
    if "branch" in parts and plan.branches is not None:
        branches = [branch for branch in plan.branches if select.covers(branch)]
    return [(step, branch) for step in steps for branch in branches]


def _sizes(site: Site, select: Select, plan: Plan) -> dict[str, int]:
    """Sizes of what a capture keeps of a site of known shape, with as many rows as are announced (a dry run may have one)."""
    sizes = dict(zip(site.axes, site.shape or (), strict=True))
    if "b" in sizes and plan.seeds is not None:
        sizes["b"] = len(plan.seeds)
    elif "b" in sizes and select.rows is not None:
        sizes["b"] = max([sizes["b"], *(one + 1 for one in select.rows if isinstance(one, int))])
    if select.words is not None and plan.tokens_of is None:
        select = replace(select, words=None)        # whoever announces the words later keeps no more than all tokens
    shaped = torch.empty(list(sizes.values()), device="meta")
    return sizes | {axis: len(at) for axis, at in kept_positions(select, site, shaped, plan).items()}


def _word_table(plan: Plan, tokens: int) -> np.ndarray:
    """Which word of the prompt stands at each token, for each row; "" where none does."""
    table = np.full((len(plan.words or ()), tokens), "", dtype=object)
    for row, words in enumerate(plan.words or ()):
        for word in words:
            table[row, [token for token in plan.tokens_of(word, row) if token < tokens]] = word     # type: ignore[misc]  # told
    return table.astype(str)
