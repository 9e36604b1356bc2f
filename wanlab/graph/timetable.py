"""Timetables: in which denoising steps the edits of a node act, so that runs which differ late can begin together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from wanlab.core import Edit, Site
from wanlab.core.clock import Plan, Tick

from .keys import digest


@dataclass(frozen=True)
class Timetable:
    """The edits of one node. `always` decide its run from the beginning: they act outside the loop (where it begins, or nobody
    knows where), or in no step at all, which is for the ledger to say. `at` are those that act in each step. An edit whose pattern
    reaches over sites in the loop and outside of it stands as two, narrowed to either.

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
        parts = [part for edit in edits for part in _parts(edit, list(sites(edit.where.at)))]
        mine = tuple(edit for edit, _ in parts)
        steps = [_steps(edit, found, levels, steps_of) for edit, found in parts]
        always = tuple(edit for edit, when in zip(mine, steps, strict=True) if not when)
        at = tuple(tuple(edit for edit, when in zip(mine, steps, strict=True) if step in when) for step in range(len(levels)))
        return cls(mine, always, at)

    @property
    def course(self) -> tuple[str, ...]:
        """For each step a digest of what acts in it: equal beginnings of two courses give equal states."""
        known: dict[tuple[Edit, ...], str] = {}
        for acting in self.at:
            if acting not in known:
                known[acting] = digest([replace(edit, steps=None, sigma=None).hash for edit in acting])
        return tuple(known[acting] for acting in self.at)

    def within(self, start: int, stop: int) -> tuple[Edit, ...]:
        """The edits that act in some of the steps `start` to `stop - 1`, in order; with `always` where the loop begins."""
        acting = {id(edit) for step in self.at[start:stop] for edit in step} | {id(edit) for edit in self.always if start == 0}
        return tuple(edit for edit in self.edits if id(edit) in acting)


def narrowed(edit: Edit, names: Sequence[str]) -> Edit:
    """The edit at these of its sites alone."""
    return replace(edit, at=names[0] if len(names) == 1 else f"{{{','.join(names)}}}")


def _parts(edit: Edit, sites: Sequence[Site]) -> list[tuple[Edit, Sequence[Site]]]:
    """An edit with its sites: as one, or one part outside the loop and one within, where it has sites in both."""
    outside, inside = ([site for site in sites if _looped(site) is part] for part in (False, True))
    if not outside or not inside:
        return [(edit, sites)]
    return [(narrowed(edit, [site.name for site in part]), part) for part in (outside, inside)]


def _looped(site: Site) -> bool:
    return "step" in (site.clock or ())


def _steps(edit: Edit, sites: Sequence[Site], levels: Sequence[float], steps_of: Callable[[str], range | None]) -> set[int]:
    """The steps in which an edit acts; none of one outside the loop."""
    if not all(map(_looped, sites)):
        return set()
    plan, select = Plan(steps=len(levels), steps_of=steps_of), replace(edit.where, branch=None)
    fire = {step for site in sites for step in plan.due_at(site.name)}
    return {step for step, sigma in enumerate(levels) if step in fire and select.acts(Tick(step, sigma), plan, sites[0].name)}
