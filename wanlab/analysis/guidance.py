"""The guidance ledger: what guidance adds, cond - uncond, as a stream with sites of its own, and one branch put into the other.

    found = guidance.ledger(pipe, request, ["generator.*.resid_post", "sampler.video.velocity"])
    found.numbers                                       # size, share, cosine, turn: site step row
    found.direction("generator.mid.resid_post")         # step channel: unit vectors, as `Steer` takes them
    guidance.crossed(pipe, request, "generator.*.resid_post", {"left": metric}, windows=4)

Guided sampling follows v = v_uncond + w (v_cond - v_uncond) (Ho & Salimans 2022, arXiv 2207.12598). The difference exists at every
site that fires in both branches; it is added up as it goes by, and no step of it is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import xarray
from torch import Tensor
from xarray import DataArray, Dataset

from wanlab.analysis.cells import BASE, Cell, Metric, beside, generate, run
from wanlab.analysis.contrast import ContrastError, kept
from wanlab.analysis.patching import places
from wanlab.core import GIB, BudgetError, Edit, Patch, Record, Select, Site
from wanlab.core.edit import Event
from wanlab.core.nearest import suggestion

if TYPE_CHECKING:
    from pandas import DataFrame

BRANCHES = ("cond", "uncond")
HELD = 8            # bytes for each number of a site: one branch of a step as float32, and the difference of the step before
PART = 2**20        # numbers that are added up at a time, as float64


def ledger(pipe: Any, request: Any, at: str | Sequence[str], *, edits: Iterable[Edit] = (),
           budget: int | None = 4 * GIB) -> Guidance:
    """Run a request and follow the difference of its branches at some sites.

    Nothing is kept but sums, one branch of a step until the other fires, and the difference of the step before: 8 bytes for each
    number of a site, whatever the number of steps. Raises BudgetError where those exceed the budget, ContrastError where there is
    one branch alone, or a site fires several times in a branch.
    """
    pushes = {site.name: _Push(site) for site in _sites(pipe, request, at)}
    _check({name: prod(push.site.shape[1:]) * len(request) for name, push in pushes.items() if push.site.shape}, budget)
    generate(pipe, request, edits=[*edits, *(_Heard(name, push=push, budget=budget) for name, push in pushes.items())])
    numbers = xarray.concat([push.numbers for push in pushes.values()], "site").assign_coords(site=list(pushes))
    return Guidance(numbers, {name: push.means for name, push in pushes.items()})


def _sites(pipe: Any, request: Any, at: str | Sequence[str]) -> list[Site]:
    """The sites that fire in both branches of this request."""
    if not set(BRANCHES) <= set(pipe.branches(request)):
        raise ContrastError(f"guidance {request.guidance:g} runs the branch {', '.join(pipe.branches(request))} alone: there is no "
                            "difference of branches; ask for another guidance")
    found = [site for glob in ([at] if isinstance(at, str) else at) for site in pipe.sites(glob)]
    outside = [site.name for site in found if not {"step", "branch"} <= (site.clock or set())]
    if outside:
        raise ContrastError(f"{outside[0]} does not fire in each branch of each step, so there is no difference of branches")
    return list({site.name: site for site in found}.values())


def _check(numbers: Mapping[str, int], budget: int | None) -> None:
    """Refuse what would be held of all sites at once."""
    need = HELD * sum(numbers.values())
    if budget is not None and need > budget:
        raise BudgetError(f"the differences of {len(numbers)} sites hold {need / GIB:.3g} GiB at a time, the budget is "
                          f"{budget / GIB:.3g} GiB: name fewer sites, or raise budget=")


@dataclass(frozen=True)
class _Heard(Edit):
    """Lets what passes a site pass as it is, and has a push take note of it."""

    inert: ClassVar[bool] = True
    push: _Push = field(kw_only=True)
    budget: int | None = field(kw_only=True)

    def change(self, x: Tensor, event: Event) -> Tensor:
        if event.tick.branch in BRANCHES and event.tick.step is not None:
            if self.push.site.shape is None:
                _check({self.push.site.name: x.numel()}, self.budget)
            self.push.hear(x.detach(), event.tick.step, event.tick.branch)
        return x


class _Push:
    """cond - uncond at one site as it goes by. Held between firings: `_waiting`, what the branch that came first had, and
    `_before`, the difference of the last step."""

    def __init__(self, site: Site) -> None:
        if site.axes[:1] != ("b",):
            raise ContrastError(f"{site.name} has axes '{' '.join(site.axes)}': a ledger is by row, which has to come first")
        self.site, self.axis = site, next((site.axes.index(axis) for axis in "cd" if axis in site.axes), None)
        self._waiting: tuple[int, str, Tensor] | None = None
        self._before: Tensor | None = None
        self._rows: dict[int, list[Tensor]] = {}
        self._means: dict[int, Tensor] = {}

    def hear(self, x: Tensor, step: int, branch: str) -> None:
        """Take in what one branch of a step has."""
        if self._waiting is None:
            self._waiting = step, branch, self._laid_out(x).to("cpu", copy=True)
            return
        at, other, held = self._waiting
        if (at, other) == (step, branch) or at != step:
            raise ContrastError(f"{self.site.name} does not fire once in each branch of step {at}: there is no one difference")
        self._waiting = None
        mine = self._laid_out(x)
        self._take(step, *((mine, held) if branch == BRANCHES[0] else (held, mine)))

    def _laid_out(self, x: Tensor) -> Tensor:
        """Rows, places, channels; where a device has no float64, on the CPU."""
        x = x.cpu() if x.device.type == "mps" else x
        return x.flatten(1)[..., None] if self.axis is None else x.movedim(self.axis, -1).flatten(1, -2)

    def _take(self, step: int, cond: Tensor, uncond: Tensor) -> None:
        """Add up a step: the products of push, cond and the push before with each other, and the mean push."""
        device = cond.device if cond.device.type != "cpu" else uncond.device
        rows, count, width = cond.shape
        before = torch.full(cond.shape, torch.nan) if self._before is None else self._before
        products = torch.zeros(rows, 3, 3, dtype=torch.float64, device=device)
        total = torch.zeros(width, dtype=torch.float64, device=device)
        many = max(1, PART // width)
        for row in range(rows):
            for start in range(0, count, many):
                part = row, slice(start, start + many)
                here, there, last = (one[part].to(device).double() for one in (cond, uncond, before))
                push = here - there
                three = torch.stack([push, here, last]).flatten(1)
                products[row] += three @ three.T
                total += push.sum(0)
                before[part] = push.float().cpu()
        size, length, was = products.cpu().diagonal(dim1=1, dim2=2).unbind(1)
        along, turned = products.cpu()[:, 0, 1:].unbind(1)
        self._rows[step] = [(size / (count * width)).sqrt(), (size / length).sqrt(), _cosine(along, size, length),
                            _cosine(turned, size, was)]
        self._means[step], self._before = total.cpu() / (rows * count), before

    @property
    def numbers(self) -> Dataset:
        """By step and row."""
        steps = sorted(self._rows)
        return Dataset({name: DataArray(torch.stack([self._rows[step][i] for step in steps]).numpy(), dims=("step", "row"))
                        for i, name in enumerate(("size", "share", "cosine", "turn"))}).assign_coords(step=steps)

    @property
    def means(self) -> DataArray | None:
        """The mean over rows and places: step channel. None where the site has no channels."""
        steps = sorted(self._means)
        return None if self.axis is None else DataArray(
            torch.stack([self._means[step] for step in steps]).numpy(), dims=("step", "channel"), coords={"step": steps})


def _cosine(product: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Of two vectors by their product and their squared lengths; 0 where one of them is 0."""
    return product / (one * other).sqrt().clamp(min=torch.finfo(torch.float64).tiny)


@dataclass(frozen=True)
class Guidance:
    """The difference of the branches at some sites in one run. numbers, by site, step and row:

    size     root mean square of cond - uncond
    share    its norm over that of cond
    cosine   with cond: whether guidance stretches what is there or adds something else
    turn     with the difference of the step before (NaN at the first): whether it keeps pushing the same way

    means: for each site with channels the mean over rows and places (step channel).
    """

    numbers: Dataset
    means: Mapping[str, DataArray | None]

    def direction(self, site: str) -> DataArray:
        """The mean of cond - uncond over rows and places, at each step, of length 1: (step channel); `length` holds what it had.

        ContrastError for a site that was not followed, or has no channels.
        """
        if site not in self.means:
            raise ContrastError(f"{site!r} was not followed{suggestion(site, list(self.means))}")
        mean = self.means[site]
        if mean is None:
            raise ContrastError(f"{site} has no channels, so no direction")
        length = (mean**2).sum("channel") ** 0.5
        return (mean / length).assign_coords(length=length)


def crossed(pipe: Any, request: Any, at: str | Sequence[str], metrics: Mapping[str, Metric], *, into: str = "uncond",
            windows: int | Sequence[str] = 1, each: Sequence[str] = (), budget: int | None = 4 * GIB, **how: Any) -> DataFrame:
    """What changes where one branch gets the values of the other at a place; `windows`, `each` as in `patching.places`.

    into="uncond": guidance adds nothing that comes from the place; into="cond": the prompt says nothing there. The values are those
    of the plain run: in a window of several steps they are what the branch had there, not what it would have come to. One branch of
    the sites is held in the steps of the windows: BudgetError where that is over the budget (ask for a window at a time). Columns
    as of `cells.run`, and base (the plain run's number) and change. ContrastError for another `into`.
    """
    if into not in BRANCHES:
        raise ContrastError(f"no branch {into!r}{suggestion(into, BRANCHES)}")
    names = [site.name for site in _sites(pipe, request, at)]
    [other] = set(BRANCHES) - {into}
    laid_out = places(pipe, request, names, windows, each, branch=into)
    wanted = [str(Select(one.at, steps=one.steps, branch=other)) for place in laid_out for one in place.selects]
    source = kept(moved(generate(pipe, request, capture=list(dict.fromkeys(wanted)), budget=budget).record, into), None)
    cells = [Cell(BASE)] + [Cell(place.name, tuple(Patch(str(select), record=source) for select in place.selects), place.axes)
                            for place in laid_out]
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
