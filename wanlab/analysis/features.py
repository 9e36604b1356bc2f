"""Features: what passes a site over many samples, as rows of numbers with the place of each; streamed, in bounded memory.

    requests = (pipe.request(clips.first, clips.captions, seeds) for clips, seeds in batches)        # made when they are run
    for block in features.stream(pipe, requests, "generator.mid.resid_post", steps=[0, 4], rows=64):
        block.values, block.places                                      # row width; sample, step, branch, frame, h, w, ...
    means = features.gather(features.pooled(pipe, requests, "generator.*.resid_post", frames=True))

No activation is kept: of each firing `stream` draws some rows at random and `pooled` takes means, while the run goes on. Nodes and
denoising steps after the last one that is asked for do not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wanlab.analysis.layout import NAMES
from wanlab.core import GIB, Edit, Entry, Grid, Record, Select, Site, trace
from wanlab.core.index import positions
from wanlab.graph import Timetable, edits_by_node

if TYPE_CHECKING:
    from pandas import DataFrame

WIDTH = "cd"                    # axes that are features, the first that there is
PLACED = {**{axis: NAMES[axis] for axis in "fhwnkm"}, "j": NAMES["n"]}         # tokens of the text are tokens
COLUMNS = ("sample", *dict.fromkeys(PLACED.values()))


class FeatureError(ValueError):
    """A site that has no features of the kind that is asked for."""


@dataclass(frozen=True)
class Features:
    """Rows of one site at one moment (None outside of steps or branches).

    values   row width, float32
    places   for each row the sample (counted over all requests, from 0), frame, h, w, token, head, slot; -1 where there is none.
             h and w are those of the site's own grid; tokens that stand on none (words, registers) have a token alone
    """

    site: str
    step: int | None
    branch: str | None
    values: Tensor
    places: Mapping[str, np.ndarray]

    @property
    def key(self) -> tuple[str, int | None, str | None]:
        """Site, step, branch."""
        return self.site, self.step, self.branch

    @property
    def table(self) -> DataFrame:
        """The places with step and branch, one line for each row."""
        import pandas

        return pandas.DataFrame({"site": self.site, "step": self.step, "branch": self.branch, **self.places})

    def __len__(self) -> int:
        return len(self.values)


def stream(pipe: Any, requests: Iterable[Any], at: str, *, rows: int = 64, seed: int = 0, steps: Any = None,
           branch: str | None = "cond", edits: Iterable[Edit] = (), budget: int | None = 2 * GIB) -> Iterator[Features]:
    """Rows of some sites, drawn at random from all frames, tokens and heads: of each request a block for each site, step, branch.

    requests   any iterable; one is run at a time
    at         sites, as a selection: "generator.mid.resid_post", "generator.*.resid_post[tokens=:16]" (without registers)
    rows       of each sample at each site, step and branch; all, where there are fewer
    seed       of the draws, which depend on it, on the sample's number, step and branch alone, not on how samples share requests
    steps      of the denoising loop, by default all, as selections have them; branch: None for all
    edits      under which the requests run: what is still told where something is removed

    Holds rows x width float32 for each sample of a request, site, step and branch; over the budget raises BudgetError before
    the run. FeatureError for a site without features, or that does not run; StatisticError where NaN passes.
    """
    return _blocks(pipe, requests, at, steps, branch, edits, budget,
                   lambda site, first: f"sample(k={rows},per=b,seed={seed}" + (f",first={first}" if first else "") + ")")


def pooled(pipe: Any, requests: Iterable[Any], at: str, *, frames: bool = False, steps: Any = None, branch: str | None = "cond",
           edits: Iterable[Edit] = (), budget: int | None = 2 * GIB) -> Iterator[Features]:
    """Means over all tokens of a site, one row for each sample, or with `frames` one for each frame of each sample.

    Heads and slots stand side by side in the width. Arguments, blocks and errors as of `stream`; FeatureError too for `frames`
    at a site that has none.
    """
    kept = "bfkm" if frames else "bkm"
    for site in pipe.sites(Select.of(at).at) if frames else ():
        if "f" not in site.axes:
            raise FeatureError(f"{site.name} has axes '{' '.join(site.axes)}' and no frames to keep apart: leave frames=True out")
    return _blocks(pipe, requests, at, steps, branch, edits, budget,
                   lambda site, first: f"mean(per={'|'.join(axis for axis in site.axes if axis in kept + WIDTH)})")


def gather(blocks: Iterable[Features]) -> list[Features]:
    """The blocks of each site, step and branch as one, in the order in which they come first."""
    found: dict[tuple[str, int | None, str | None], list[Features]] = {}
    for block in blocks:
        found.setdefault(block.key, []).append(block)
    return [replace(same[0], values=torch.cat([one.values for one in same]),
                    places={name: np.concatenate([one.places[name] for one in same]) for name in same[0].places})
            for same in found.values()]


def _blocks(pipe: Any, requests: Iterable[Any], at: str, steps: Any, branch: str | None, edits: Iterable[Edit], budget: int | None,
            keep: Callable[[Site, int], str]) -> Iterator[Features]:
    where = Select.of(at)
    wanted = [(site, replace(where, at=site.name,
                             steps=steps if steps is not None and "step" in (site.clock or ()) else where.steps,
                             branch=branch if branch is not None and "branch" in (site.clock or ()) else where.branch))
              for site in _featured(pipe, where)]
    first, by_node = 0, edits_by_node(pipe, list(edits))
    for request in requests:
        captures = [f"{select} -> {keep(site, first)}"[:-1] + ",by=step|branch)" for site, select in wanted]
        when = where if steps is None else replace(where, steps=steps)
        record = _run(pipe, request, [site for site, _ in wanted], captures, when, by_node, budget)
        for key in record.firings:
            yield _features(pipe, record, key, first, len(request))
        first += len(request)


def _featured(pipe: Any, where: Select) -> list[Site]:
    """The selected sites that have features; of a glob those alone. Raises where none has."""
    sites = list(pipe.sites(where.at))
    found = [site for site in sites if set(WIDTH) & set(site.axes) and "b" in site.axes and not site.derived]
    if not found:
        raise FeatureError(f"{sites[0].name} has axes '{' '.join(sites[0].axes)}' and no features (axis c or d)")
    return found


def _run(pipe: Any, request: Any, sites: Sequence[Site], captures: Sequence[str], where: Select,
         by_node: Mapping[str, Sequence[Edit]], budget: int | None) -> Record:
    """What a request gives at some sites under edits; what follows them is not run."""
    nodes = list(pipe.nodes)
    places = [next((i for i, node in enumerate(nodes) if any(site.name.startswith(f"{stage}.") for stage in node.stages)), None)
              for site in sites]
    for site, place in zip(sites, places, strict=True):
        if place is None:
            raise FeatureError(f"{site.name} does not run when {pipe.config['name']} generates")
    last = max(place for place in places if place is not None)
    until = None
    if nodes[last].steps and pipe.levels(request) is not None and where.steps is not None:
        until = max(positions(where.steps, request.steps, "steps")) + 1
    acting, mine = [edit for node in nodes[:last] for edit in by_node[node.name]], by_node[nodes[last].name]
    table = Timetable.of(mine, pipe.sites, pipe.levels(request))
    acting += mine if until is None else table.within(0, until)
    inputs: dict[str, Any] = {}
    with torch.no_grad(), trace(pipe, acting, captures, budget=budget, sites=pipe.sites()) as t:        # what is kept is edited
        for node in nodes[:last + 1]:
            part = {"until": until} if node is nodes[last] and until not in (None, request.steps) else {}
            inputs[node.name] = pipe.run_node(node.name, inputs, request, **part)
    return t.record


def _features(pipe: Any, record: Record, key: Any, first: int, rows: int) -> Features:
    """A streamed statistic as rows."""
    entry = record.entry(key)
    if "rank" in entry.axes:
        lead = (rows, entry.sizes["rank"])
        at = {axis: np.broadcast_to(label.values, lead).ravel() for axis, label in entry.labels.items()}
        values = entry.tensor.flatten(0, 1)
    else:
        axes = sorted(set(entry.axes) & set("bf"))
        values = entry.tensor.movedim([entry.axes.index(axis) for axis in axes], list(range(len(axes)))).flatten(len(axes))
        lead = tuple(entry.sizes[axis] for axis in axes)
        at = {axis: _held(entry, axis)[index.ravel()] for axis, index in zip(axes, np.indices(lead), strict=True)}
        values = values.flatten(0, len(axes) - 1)
    at["b"] = np.repeat(np.arange(rows), len(values) // rows) + first
    return Features(entry.site, key.step, key.branch, values, _placed(at, pipe.grid_of(entry.site), len(values)))


def _held(entry: Entry, axis: str) -> np.ndarray:
    """The model's positions along an axis."""
    return np.asarray(entry.coords.get(axis, range(entry.sizes[axis])))


def _placed(at: Mapping[str, np.ndarray], grid: Grid | None, rows: int) -> dict[str, np.ndarray]:
    """Places by their names; a token's frame, h and w from the grid on which it stands."""
    found = {name: np.full(rows, -1) for name in COLUMNS}
    found["sample"] = at["b"]
    for axis, name in PLACED.items():
        if axis in at:
            found[name] = np.asarray(at[axis])
    if grid is not None and "n" in at:
        token = found["token"] - grid.start
        stands = (token >= 0) & (token < grid.size)
        frame, place = np.divmod(token, grid.height * grid.width)
        h, w = np.divmod(place, grid.width)
        told = {"h": h, "w": w} | ({} if "f" in at or grid.of == "image" else {"frame": frame})
        for name, value in told.items():
            found[name] = np.where(stands, value, found[name])
    return found
