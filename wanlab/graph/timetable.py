"""Timetables: in which denoising steps the edits of a node act, so that runs which differ late can begin together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from wanlab.core import Edit, Site
from wanlab.core.clock import Plan, Tick

from .keys import digest


@dataclass(frozen=True)
class Timetable:
    """The edits of one node. `always` decide its run from the beginning: they act outside the loop (then their site stands before
    it, or nobody knows where), or in no step at all, which is for the ledger to say. `at` are those that act in each step.

    Of a node without steps, or one whose loop cannot pause, all edits are `always` and `at` is empty.
    """

    edits: tuple[Edit, ...]
    always: tuple[Edit, ...]
    at: tuple[tuple[Edit, ...], ...] = ()

    @classmethod
    def of(cls, edits: Sequence[Edit], sites: Callable[[str], Iterable[Site]], levels: Sequence[float] | None,
           steps_of: Callable[[str], range | None] = lambda site: None) -> Timetable:
        """The timetable of `edits`; `sites` finds those of a pattern, with their clocks; `levels`: sigma at each step, or None;
        `steps_of`: the steps in which a site fires, None for all."""
        if levels is None:
            return cls(tuple(edits), tuple(edits))
        steps = [_steps(edit, sites(edit.where.at), levels, steps_of) for edit in edits]
        always = tuple(edit for edit, when in zip(edits, steps, strict=True) if not when)
        at = tuple(tuple(edit for edit, when in zip(edits, steps, strict=True) if step in when) for step in range(len(levels)))
        return cls(tuple(edits), always, at)

    @property
    def course(self) -> tuple[str, ...]:
        """For each step a digest of what acts in it: equal beginnings of two courses give equal states."""
        known: dict[tuple[Edit, ...], str] = {}
        for acting in self.at:
            if acting not in known:
                known[acting] = digest([replace(edit, steps=None, sigma=None).hash for edit in acting])
        return tuple(known[acting] for acting in self.at)

    def within(self, start: int, stop: int) -> tuple[Edit, ...]:
        """The edits that act in some of the steps `start` to `stop - 1`, in order."""
        if start == 0 and stop >= len(self.at):
            return self.edits
        acting = {id(edit) for step in self.at[start:stop] for edit in step}
        return tuple(edit for edit in self.edits if id(edit) in acting)


def _steps(edit: Edit, sites: Iterable[Site], levels: Sequence[float], steps_of: Callable[[str], range | None]) -> set[int]:
    """The steps in which an edit acts; none where one of its sites lies outside the loop."""
    sites = list(sites)
    if any("step" not in (site.clock or ()) for site in sites):
        return set()
    plan, select = Plan(steps=len(levels), steps_of=steps_of), replace(edit.where, branch=None)
    fire = {step for site in sites for step in plan.due_at(site.name)}
    return {step for step, sigma in enumerate(levels) if step in fire and select.acts(Tick(step, sigma), plan, sites[0].name)}
