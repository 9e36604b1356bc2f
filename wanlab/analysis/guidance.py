"""The guidance ledger: what guidance adds, cond - uncond, as a stream with sites of its own, and one branch put into the other.

    found = guidance.ledger(pipe, request, ["generator.*.resid_post", "sampler.video.velocity"])
    found.numbers                                       # size, share, cosine, turn: site step row
    found.direction("generator.mid.resid_post")         # step channel: unit vectors, as `Steer` takes them
    guidance.crossed(pipe, request, "generator.*.resid_post", {"left": metric}, windows=4)

Guided sampling follows v = v_uncond + w (v_cond - v_uncond) (Ho & Salimans 2022, arXiv 2207.12598). The difference exists at every
site that fires in both branches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import xarray
from torch import Tensor
from xarray import DataArray, Dataset

from wanlab.analysis.cells import BASE, Cell, Metric, beside, generate, run
from wanlab.analysis.contrast import ContrastError, kept
from wanlab.analysis.patching import places
from wanlab.core import GIB, Edit, Patch, Record
from wanlab.core.nearest import suggestion

if TYPE_CHECKING:
    from pandas import DataFrame

BRANCHES = ("cond", "uncond")


def ledger(pipe: Any, request: Any, at: str | Sequence[str], *, edits: Iterable[Edit] = (),
           budget: int | None = 4 * GIB) -> Guidance:
    """Run a request and keep both branches of some sites. Raises ContrastError where there is one branch alone."""
    names = _sites(pipe, request, at)
    return Guidance(generate(pipe, request, edits=list(edits), capture=names, budget=budget).record, tuple(names))


def _sites(pipe: Any, request: Any, at: str | Sequence[str]) -> list[str]:
    """The sites that fire in both branches of this request."""
    if not set(BRANCHES) <= set(pipe.branches(request)):
        raise ContrastError(f"guidance {request.guidance:g} runs the branch {', '.join(pipe.branches(request))} alone: there is no "
                            "difference of branches; ask for another guidance")
    found = [site for glob in ([at] if isinstance(at, str) else at) for site in pipe.sites(glob)]
    outside = [site.name for site in found if not {"step", "branch"} <= (site.clock or set())]
    if outside:
        raise ContrastError(f"{outside[0]} does not fire in each branch of each step, so there is no difference of branches")
    return [site.name for site in found]


@dataclass(frozen=True)
class Guidance:
    """Both branches of some sites in one run."""

    record: Record
    sites: tuple[str, ...]

    def difference(self, site: str, step: int) -> tuple[Tensor, Tensor, tuple[str, ...]]:
        """cond - uncond and cond at a step, rows first, with the axes."""
        if site not in self.sites:
            raise ContrastError(f"{site!r} was not kept{suggestion(site, self.sites)}")
        cond, uncond = (self.record[site, step, branch] for branch in BRANCHES)
        return cond.tensor.double() - uncond.tensor.double(), cond.tensor.double(), cond.axes

    @property
    def numbers(self) -> Dataset:
        """By site, step and row:

        size     root mean square of cond - uncond
        share    its norm over that of cond
        cosine   with cond: whether guidance stretches what is there or adds something else
        turn     with the difference of the step before (NaN at the first): whether it keeps pushing the same way
        """
        steps = range(self.record.steps or 0)
        return xarray.concat([self._numbers(site, steps) for site in self.sites], "site").assign_coords(site=list(self.sites))

    def _numbers(self, site: str, steps: Iterable[int]) -> Dataset:
        found: dict[str, list[Tensor]] = {"size": [], "share": [], "cosine": [], "turn": []}
        before: Tensor | None = None
        for step in steps:
            push, cond, _ = (one.flatten(1) if isinstance(one, Tensor) else one for one in self.difference(site, step))
            found["size"].append(push.square().mean(1).sqrt())
            found["share"].append(push.norm(dim=1) / cond.norm(dim=1))
            found["cosine"].append(torch.cosine_similarity(push, cond, dim=1))
            found["turn"].append(push.new_full((len(push),), torch.nan) if before is None
                                 else torch.cosine_similarity(push, before, dim=1))
            before = push
        return Dataset({name: DataArray(torch.stack(column).numpy(), dims=("step", "row")) for name, column in found.items()}
                       ).assign_coords(step=list(steps))

    def direction(self, site: str) -> DataArray:
        """The mean of cond - uncond over rows and places, at each step, of length 1: (step channel); `length` holds what it had."""
        means = []
        for step in range(self.record.steps or 0):
            push, _, axes = self.difference(site, step)
            if not {"c", "d"} & set(axes):
                raise ContrastError(f"{site} has axes '{' '.join(axes)}' and no channels, so no direction")
            at = axes.index("c" if "c" in axes else "d")
            means.append(push.movedim(at, -1).flatten(0, -2).mean(0))
        whole = torch.stack(means)
        length = whole.norm(dim=1)
        return DataArray((whole / length[:, None]).numpy(), dims=("step", "channel"), coords={"length": ("step", length.numpy())})


def crossed(pipe: Any, request: Any, at: str | Sequence[str], metrics: Mapping[str, Metric], *, into: str = "uncond",
            windows: int | Sequence[str] = 1, each: Sequence[str] = (), budget: int | None = 4 * GIB, **how: Any) -> DataFrame:
    """What changes where one branch gets the values of the other at a place; `windows`, `each` as in `patching.places`.

    into="uncond": guidance adds nothing that comes from the place; into="cond": the prompt says nothing there. The values are those
    of the plain run: in a window of several steps they are what the branch had there, not what it would have come to. Columns as of
    `cells.run`, and base (the plain run's number) and change.
    """
    if into not in BRANCHES:
        raise ContrastError(f"no branch {into!r}{suggestion(into, BRANCHES)}")
    names = _sites(pipe, request, at)
    [other] = set(BRANCHES) - {into}
    record = generate(pipe, request, capture=[f"{name}@branch={other}" for name in names], budget=budget).record
    source = kept(moved(record, into), None)
    cells = [Cell(BASE)] + [
        Cell(place.name, tuple(Patch(str(select), record=source) for select in place.selects), place.axes)
        for place in places(pipe, request, names, windows, each, branch=into)]
    table = run(pipe, request, cells, metrics, **how)
    table = beside(table[table.cell != BASE], base=table[table.cell == BASE])
    return table.assign(change=table.value - table.base).reset_index(drop=True)


def moved(record: Record, branch: str) -> Record:
    """A record with all its values in another branch."""
    found = Record(record.budget)
    found.steps, found.branches, found.sigmas = record.steps, (branch,), dict(record.sigmas)
    for key in record.firings:
        found.add(key._replace(branch=branch), record.entry(key))
    return found
