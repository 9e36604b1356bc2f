"""Checks of a pipeline by running it: what an edit may do, and what it may not.

Every check runs two rows for two steps and compares with the run without edits: the video, and a digest of every row at
every firing of every site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from wanlab.core import Identity, Replace, Site
from wanlab.core.firing import Key
from wanlab.pipelines.inputs import sides

from .finite import find_nonfinite
from .witness import Witness, differences, state_of

AXES = {"heads": "k", "frames": "f", "tokens": "n", "rows": "b"}
PROMPT = "a red circle moves left"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: `state` is "ok", "note" or "bad"."""

    state: str
    what: str
    seen: str


class Stop(Exception):
    """Raised on purpose in the middle of a run."""


@dataclass
class Run:
    """A run's video (b f c h w), the firings of all sites in order, and the sites that were recorded."""

    video: Tensor
    firings: dict[Key, tuple[bytes, ...]]
    record: Any = field(repr=False)


class Soundness:
    """The checks of one pipeline, in order; `checks` runs them."""

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.before = pipe, state_of(pipe)
        stages = tuple(f"{stage}." for node in pipe.nodes for stage in node.stages)
        self.sites = {site.name: site for site in pipe.sites() if site.shape is not None and site.name.startswith(stages)}
        self.image = torch.rand(3, *sides(pipe.config["size"]), generator=torch.Generator().manual_seed(0))

    def run(self, edits: Sequence[Any] = (), capture: Sequence[str] = ()) -> Run:
        """Two rows, two steps, from one picture and one prompt."""
        with Witness(self.pipe) as seen:
            out = self.pipe.generate(self.image, PROMPT, seed=[0, 1], steps=2, edits=list(edits), capture=list(capture))
        return Run(out.video, seen.firings, out.record)

    def checks(self, told: Callable[[str], None]) -> Iterator[Check]:
        """Run every check; `told` hears of each before it starts."""
        for what, check in self._all():
            told(what)
            yield _guarded(what, check)

    def _all(self) -> Iterator[tuple[str, Callable[[], tuple[str, str]]]]:
        yield "finite", self.finite
        yield "identity edits", self.identity
        for limit, axis in AXES.items():
            yield f"one {limit[:-1]}", lambda limit=limit, axis=axis: self.one(limit, self._middle(axis=axis))
        yield "one step", lambda: self.one("steps", self._middle(clock={"step"}))
        yield "one branch", lambda: self.one("branch", self._middle(clock={"step", "branch"}))
        yield "after exceptions", self.exceptions
        yield "nothing left behind", self.left

    # -- the checks: "ok", "note" or "bad", and what was seen --------------------------------------------------------------

    def finite(self) -> tuple[str, str]:
        """No NaN or infinity at any site of a plain run."""
        found = find_nonfinite(self.pipe, self.image, PROMPT, steps=2)
        return ("bad" if found else "ok"), str(found)

    def identity(self) -> tuple[str, str]:
        """An identity edit at every site changes no bit of any site, nor of the video."""
        edited = self.run([Identity(name) for name in self.sites])
        moved = _moved(self.plain.firings, edited.firings, self.plain.firings)
        if moved or not torch.equal(self.plain.video, edited.video):
            return "bad", f"the video differs by up to {_apart(self.plain, edited)}" + (f", first at {moved[0]}" if moved else "")
        return "ok", f"bit-identical video, and {len(edited.firings)} firings, with {len(self.sites)} sites edited"

    def one(self, limit: str, site: Site | None) -> tuple[str, str]:
        """An edit of one position changes that part alone, and nothing before it; another row is never touched."""
        if site is None:
            return "note", f"nothing to edit: no site of the loop has two {'branches' if limit == 'branch' else limit}"
        fired = [key for key in self.plain.firings if key.site == site.name]
        at: Any = fired[-1].branch if limit == "branch" else 1
        when = {"steps": lambda key: key.step == at, "branch": lambda key: key.branch == at}
        first = next(filter(when.get(limit), fired))
        edited = self.run([Replace(site.name, _shifted, **{limit: at})], [site.name])
        plain = self.run((), [site.name])
        fault = _course(plain, edited, first) or _part(site, limit, at, *(_entry(one, site, first) for one in (plain, edited)))
        if fault is None and limit == "rows":
            fault = _other_row(plain, edited, self.sites)
        if fault:
            return "bad", f"{site.name}[{limit}={at}]: {fault}"
        order = list(plain.firings)
        after = order[order.index(first) + 1:]
        return "ok", (f"{site.name}[{limit}={at}]: that part alone; {order.index(first)} firings before as they were, "
                      f"{len(_moved(plain.firings, edited.firings, after))} of {len(after)} after it moved")

    def exceptions(self) -> tuple[str, str]:
        """A run that breaks off at a site leaves the pipeline as it was."""
        before, names = state_of(self.pipe), list(dict.fromkeys(key.site for key in self.plain.firings))
        places = [names[0], names[len(names) // 2], names[-1]]
        for name in places:
            try:
                self.run([Replace(name, _stop)], [names[0]])
            except Stop:
                left = differences(before, state_of(self.pipe))
                if left:
                    return "bad", f"an exception at {name} leaves {', '.join(left[:3])}"
            else:
                return "bad", f"an exception at {name} was swallowed"
        return "ok", f"as before, after one at each of {', '.join(places)}"

    def left(self) -> tuple[str, str]:
        """Weights, buffers, hooks, taps and attributes are those from before the first run."""
        after = state_of(self.pipe)
        left = differences(self.before, after)
        if left:
            return "bad", f"not as before: {', '.join(left[:3])}" + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        weights = sum(name.startswith("weight") for name in after)
        buffers = sum(name.startswith("buffer") for name in after)
        modules = sum(name.startswith("hooks") for name in after)
        return "ok", f"{weights} weights, {buffers} buffers, the hooks, taps and attributes of {modules} modules are as they were"

    # -- what they share --------------------------------------------------------------------------------------------------

    @cached_property
    def plain(self) -> Run:
        """The run without edits."""
        return self.run()

    def _middle(self, axis: str | None = None, clock: frozenset[str] | set[str] = frozenset({"step"})) -> Site | None:
        """A site in the middle of the first step with two or more of an axis, and with these parts of the clock."""
        names = dict.fromkeys(key.site for key in self.plain.firings)
        sites = [self.sites[name] for name in names if name in self.sites and clock <= (self.sites[name].clock or set())]
        if "branch" in clock:
            sites = [one for one in sites if len({key.branch for key in self.plain.firings if key.site == one.name}) > 1]
        if axis is not None:
            sites = [one for one in sites if axis in one.axes and (axis == "b" or one.size(axis) > 1)]
        return sites[len(sites) // 2] if sites else None


def _guarded(what: str, check: Callable[[], tuple[str, str]]) -> Check:
    try:
        state, seen = check()
    except Exception as error:  # whatever it is, it is what the check has found
        state, seen = "bad", f"{type(error).__name__}: {error}"
    return Check(state, what, seen)


def _shifted(x: Tensor) -> Tensor:
    return x * 1.5 + 1


def _stop(x: Tensor) -> Tensor:
    raise Stop


def _entry(run: Run, site: Site, key: Key) -> Tensor:
    """What was recorded at the first call of a moment, without the axes of the clock."""
    tensor: Tensor = run.record[key.site, key.step, key.branch].tensor
    return tensor[(0,) * (tensor.ndim - len(site.axes))]


def _moved(plain: Any, edited: Any, keys: Any) -> list[Key]:
    return [key for key in keys if plain[key] != edited.get(key)]


def _apart(plain: Run, edited: Run) -> str:
    return f"{(plain.video - edited.video).abs().max():.3g}"


def _course(plain: Run, edited: Run, first: Key) -> str | None:
    """What is wrong with the order of firings, before `first` and after it."""
    order = list(plain.firings)
    if order != list(edited.firings):
        return "other sites fired than without it"
    at = order.index(first)
    if upstream := _moved(plain.firings, edited.firings, order[:at + 1]):
        return f"{len(upstream)} firings before it changed, first {upstream[0]}"
    if not _moved(plain.firings, edited.firings, order[at + 1:]) or torch.equal(plain.video, edited.video):
        return "nothing after it, or not the video, changed"
    return None


def _part(site: Site, limit: str, at: Any, plain: Tensor, edited: Tensor) -> str | None:
    """What is wrong with the part that changed at the site itself."""
    asked = torch.ones_like(plain, dtype=torch.bool)
    if limit in AXES:
        asked = torch.zeros_like(asked)
        asked.select(site.axes.index(AXES[limit]), at).fill_(True)
    outside, inside = int(((plain != edited) & ~asked).sum()), int(((plain == edited) & asked).sum())
    return f"{outside} values outside the part changed, {inside} inside did not" if outside or inside else None


def _other_row(plain: Run, edited: Run, sites: dict[str, Site]) -> str | None:
    moved = [key for key in plain.firings if sites[key.site].axes[0] == "b" and plain.firings[key][0] != edited.firings[key][0]]
    if moved:
        return f"row 0 changed at {moved[0]}"
    return None if torch.equal(plain.video[0], edited.video[0]) else "the video of row 0 changed"
