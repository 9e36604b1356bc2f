"""Lenses: what a run would show if it ended here; after each step, and after each block of a step.

    lens.predicted(pipe, request)                               # x0 as the sampler predicts it: step row frame channel h w
    seen = lens.blocks(pipe, request, "generator.**.resid_post", steps=[0, 4, 7])
    seen.x0                                                     # step layer row frame channel h w
    lens.blocks(..., tuned=lens.tune(pipe, requests, "generator.**.resid_post"))

The block lens sends the residual stream after a block through the model's own head: the blocks that follow are bypassed in that
step, each by the identity that it states (logit lens: nostalgebraist 2020). A tuned lens goes through an affine map to the last
block's stream instead (Belrose et al. 2023, arXiv 2303.08112; here by least squares on the stream, where they minimise divergence
at the output).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from xarray import DataArray

from wanlab.analysis.cells import generate
from wanlab.analysis.layout import NAMES
from wanlab.core import GIB, Bypass, Edit, Entry, Patch, Record, trace
from wanlab.core.firing import Key
from wanlab.core.nearest import suggestion
from wanlab.graph import Timetable, edits_by_node

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class LensError(ValueError):
    """Sites, steps or requests that no lens can look through."""


def predicted(pipe: Any, request: Any, *, part: str = "video", branch: str | None = None, edits: Sequence[Edit] = (),
              budget: int | None = 2 * GIB) -> DataArray:
    """x0 as predicted at each step: of a branch, or guided (None); (step row frame channel h w), as the sampler's own latent."""
    site = f"sampler.{part}.guided_x0" if branch is None else f"sampler.{part}.x0@branch={branch}"
    record = generate(pipe, request, edits=list(edits), capture=[site], budget=budget).record
    keys = record.firings
    return _array(torch.stack([record.entry(key).tensor for key in keys]), record.entry(keys[0]).axes, "step",
                  {"step": [key.step for key in keys]})


def _array(values: Tensor, axes: Sequence[str], first: str, coords: dict[str, Any]) -> DataArray:
    return DataArray(values.numpy(), dims=(first, *(NAMES.get(axis, axis) for axis in axes)), coords=coords)


@dataclass(frozen=True)
class Seen:
    """x0 by step and layer; the last layer's is what the model itself predicts."""

    x0: DataArray

    @property
    def distance(self) -> DataArray:
        """Root mean square difference of each layer's x0 to the model's own, over that one's standard deviation: step layer row."""
        axes = [name for name in self.x0.dims if name not in ("step", "layer", "row")]
        own = self.x0.isel(layer=-1)
        return ((self.x0 - own) ** 2).mean(axes) ** 0.5 / own.std(axes)

    def figure(self, row: int = 0, frame: int = -1, scale: tuple[float, float] = (-1, 1), width: float = 5.5) -> Figure:
        """One frame at every layer (down) and step (right); `scale`: the values that are black and white."""
        from wanlab.plots.lens import filmstrip

        shown = self.x0.isel(row=row, frame=frame, channel=slice(3)).transpose("layer", "step", "h", "w", "channel")
        pictures = ((shown.values - scale[0]) / (scale[1] - scale[0])).clip(0, 1)
        names = [str(name).removesuffix(".resid_post") for name in shown.layer.values]
        return filmstrip(pictures, names, [f"step {step}" for step in shown.step.values], width)


def blocks(pipe: Any, request: Any, at: str, *, steps: Sequence[int] | None = None, part: str = "video", branch: str = "cond",
           tuned: Tuned | None = None, edits: Sequence[Edit] = ()) -> Seen:
    """x0 as predicted after each block.

    at       the residual streams at the ends of blocks, in the model's order: sites of the denoising loop that can be bypassed
    steps    at which to look, by default all; the run itself goes on unchanged
    branch   whose prediction: one branch of a step is half of it
    tuned    affine maps from `tune`

    Costs half a step for each layer and step that is looked at, and one run. Raises LensError where a loop cannot pause or a block
    states no identity, and for steps that the request has not, or twice.
    """
    wanted = _steps(request, steps)
    names, by_node = [site.name for site in pipe.sites(at)], edits_by_node(pipe, edits)
    loop = _Loop(pipe, request, _looped(pipe, request, names, tuned), by_node, branch, f"sampler.{part}.x0")
    found = []
    for step in range(max(wanted) + 1):
        if step in wanted:
            found.append(torch.stack([loop.look(step, view) for view in _views(loop, step, names, tuned)]))
        loop.go_on(step)
    axes = pipe.sites(loop.site)[0].axes
    return Seen(_array(torch.stack(found), ("layer", *axes), "step", {"step": wanted, "layer": names}))


class _Loop:
    """A denoising loop that stands before a step, from where single steps are tried out."""

    def __init__(self, pipe: Any, request: Any, node: str, by_node: Mapping[str, Sequence[Edit]], branch: str, site: str) -> None:
        self.pipe, self.request, self.node, self.branch, self.site = pipe, request, node, branch, site
        self.inputs: dict[str, dict[str, Tensor]] = {}
        for one in pipe.nodes:
            if one.name == node:
                break
            self.inputs[one.name] = pipe.run_node(one.name, self.inputs, request, by_node[one.name])
        self.table = Timetable.of(by_node[node], pipe.sites, pipe.levels(request))
        self.state: dict[str, Tensor] | None = None

    def look(self, step: int, edits: Sequence[Edit], at: str | None = None) -> Any:
        """The x0 of a step under further edits, or a record of other sites; the loop stays where it is."""
        site = f"{at or self.site}@steps={step},branch={self.branch}"
        stop = {} if at else {"stop_after": site}       # the other branch need not run
        with trace(self.pipe, capture=site, **stop) as t:
            self._run(step, edits)
        return t.record if at else t.record.entry(t.record.firings[0]).tensor

    def go_on(self, step: int) -> None:
        """Make a step."""
        if step + 1 < self.request.steps:
            self.state = self._run(step, ())

    def _run(self, step: int, edits: Sequence[Edit]) -> dict[str, Tensor]:
        until = step + 1 if step + 1 < self.request.steps else None
        return self.pipe.run_node(self.node, self.inputs, self.request, [*self.table.within(step, step + 1), *edits],
                                  before=self.state, until=until)


def _steps(request: Any, steps: Sequence[int] | None) -> list[int]:
    """The steps at which to look, in order."""
    every = list(range(request.steps))
    wanted = every if steps is None else list(steps)
    if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(every):
        raise LensError(f"steps={wanted}: name one or more of 0 to {every[-1]}, each once")
    return sorted(wanted)


def _looped(pipe: Any, request: Any, names: Sequence[str], tuned: Tuned | None) -> str:
    """The node of the denoising loop. Raises where it cannot be looked into in this way."""
    node = next((node for node in pipe.nodes if node.steps), None)
    if node is None or pipe.levels(request) is None:
        raise LensError(f"{pipe.config['name']} has no denoising loop that can pause: its steps cannot be tried out one by one")
    for name in names:
        site = pipe.sites(name)[0]
        if "step" not in (site.clock or ()):
            raise LensError(f"{name} fires outside the denoising loop")
        if tuned is None and site.bypass is False:
            able = [one.name for one in pipe.sites() if one.bypass and "step" in (one.clock or ())]
            raise LensError(f"{name} cannot be bypassed: its module states no identity{suggestion(name, able)}")
        if tuned is not None and name not in tuned.maps:
            raise LensError(f"no map was fitted for {name}{suggestion(name, list(tuned.maps))}")
    return node.name


def _views(loop: _Loop, step: int, names: Sequence[str], tuned: Tuned | None) -> Iterator[list[Edit]]:
    """For each layer the edits of one step that let its stream alone reach the head."""
    told = f"steps={step},branch={loop.branch}"
    if tuned is None:
        for place in range(len(names)):
            yield [Bypass(f"{later}@{told}") for later in names[place + 1:]]
        return
    record = loop.look(step, (), at=f"{{{','.join(names)}}}" if len(names) > 1 else names[0])
    for name in names[:-1]:
        made = Record()
        made.add(Key(names[-1], step, loop.branch), tuned.through(name, record[name, step, loop.branch]))
        yield [Patch(f"{names[-1]}@{told}", record=made)]
    yield []


@dataclass(frozen=True)
class Tuned:
    """For each layer an affine map of its channels to those of the last (channels + 1, channels of the last), and which of its
    tokens stands where a token of the last does. `error`: mean squared error over the variance, on what it was fitted to."""

    maps: Mapping[str, Tensor]
    places: Mapping[str, Tensor | None]
    last: str
    error: Mapping[str, float]

    def through(self, name: str, entry: Entry) -> Entry:
        """A layer's stream as one of the last layer's."""
        x = _moved(entry.tensor, entry.axes, self.places[name])
        y = x @ self.maps[name][:-1] + self.maps[name][-1]
        return Entry(y.movedim(-1, entry.axes.index("c")).float(), entry.axes, self.last)


def tune(pipe: Any, requests: Sequence[Any], at: str, *, branch: str = "cond", ridge: float = 1e-4,
         budget: int | None = 4 * GIB) -> Tuned:
    """Fit the affine maps on all tokens, rows and steps of some requests: ridge regression to the last of the sites `at`.

    Of layers on a coarser grid each token stands for those that it covers. ridge: over the mean variance of the channels. Raises
    LensError without requests.
    """
    names = [site.name for site in pipe.sites(at)]
    last = names[-1]
    places = {name: _places(pipe, name, last) for name in names}
    sums: dict[str, list[Tensor]] = {}
    for request in requests:
        record = generate(pipe, request, capture=[f"{name}@branch={branch}" for name in names], budget=budget).record
        for key in record.find(last):
            target = record.entry(key)
            y = target.tensor.movedim(target.axes.index("c"), -1).flatten(0, -2).double()
            for name in names:
                entry = record[name, key.step, branch]
                x = _moved(entry.tensor, entry.axes, places[name]).flatten(0, -2).double()
                x = torch.cat([x, x.new_ones(len(x), 1)], 1)
                new = [x.T @ x, x.T @ y, y.square().sum(0), y.sum(0), torch.tensor(float(len(y)))]
                sums[name] = new if name not in sums else [old + one for old, one in zip(sums[name], new, strict=True)]
    if not sums:
        raise LensError("there are no requests to fit maps to: give one or more")
    maps, errors = _fitted(sums, ridge)
    return Tuned(maps, places, last, errors)


def _fitted(sums: Mapping[str, Sequence[Tensor]], ridge: float) -> tuple[dict[str, Tensor], dict[str, float]]:
    maps, errors = {}, {}
    for name, (xx, xy, yy, y, n) in sums.items():
        penalty = ridge * xx.diagonal()[:-1].mean() * torch.eye(len(xx), dtype=xx.dtype)
        penalty[-1, -1] = 0
        found = torch.linalg.solve(xx + penalty, xy)
        left = yy - 2 * (found * xy).sum(0) + (found * (xx @ found)).sum(0)
        maps[name], errors[name] = found.float(), float(left.sum() / (yy - y.square() / n).sum())
    return maps, errors


def _places(pipe: Any, name: str, last: str) -> Tensor | None:
    """For each token of the last layer the token of a layer that stands there; None where both have the same places."""
    here, there = pipe.sites(name)[0], pipe.sites(last)[0]
    sizes = [[site.size(axis) for axis in site.axes if axis not in "bc"] for site in (here, there)]
    if sizes[0] == sizes[1]:
        return None
    coarse, fine = pipe.grid_of(name), pipe.grid_of(last)
    if "n" not in here.axes or coarse is None or fine is None or coarse.frames != fine.frames:
        raise LensError(f"the tokens of {name} ({here}) and of {last} ({there}) stand on no common grid")
    counts = [site.size("n") - grid.size for site, grid in ((here, coarse), (there, fine))]     # registers
    if counts[0] != counts[1]:
        raise LensError(f"{name} has {counts[0]} tokens that stand nowhere, {last} {counts[1]}")
    index = torch.empty(there.size("n"), dtype=torch.long)
    on = torch.arange(coarse.start, coarse.start + coarse.size).reshape(coarse.sides)
    for axis, (small, large) in enumerate(zip(coarse.sides, fine.sides, strict=True)):
        on = on.index_select(axis, torch.arange(large) * small // large)
    index[fine.start:fine.start + fine.size] = on.flatten()
    others = [[i for i in range(site.size("n")) if not grid.start <= i < grid.start + grid.size]
              for site, grid in ((here, coarse), (there, fine))]
    index[others[1]] = torch.tensor(others[0], dtype=torch.long)
    return index


def _moved(x: Tensor, axes: Sequence[str], places: Tensor | None) -> Tensor:
    """Channels last, tokens where those of the last layer stand."""
    if places is not None:
        x = x.index_select(axes.index("n"), places)
    return x.movedim(axes.index("c"), -1)
