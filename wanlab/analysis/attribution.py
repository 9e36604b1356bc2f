"""Attribution patching: what ablating or patching each head, frame and step would do, from one forward and one backward pass.

    found = attribution.attribute(pipe, request, "generator.**.temporal.attn.z", readouts.displacement("red", "left"), steps="4:")
    found.effects                       # site step branch row head frame
    found.figure()                      # with its rank correlation with a random sample of true ablations

At every place stands a gate g = 1 between the value x and what it would be replaced by, r: x_g = r + g (x - r). To first order
replacing it changes the metric by -dm/dg = dm/dx (r - x), summed over what has one gate (Nanda 2023, "Attribution patching";
Syed et al. 2023, arXiv 2310.10348). With `points` > 1 the gradient is the mean over gates between 1 and 0, those of one site
together while all others rest at 1: integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365; for patching Hanna et al.
2024, arXiv 2403.17806). The gates of a site then add up to what replacing all of it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray

from wanlab.analysis.cells import BASE, Cell, Metric, MetricError, Seen, beside, generate, run, values
from wanlab.analysis.contrast import kept
from wanlab.analysis.layout import NAMES
from wanlab.core import GIB, Edit, Patch, Record, Scale, Select, Site, Zero, trace
from wanlab.core.firing import Key
from wanlab.core.index import positions
from wanlab.core.nearest import suggestion
from wanlab.core.select import AXIS_OF
from wanlab.core.source import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from xarray import DataArray

WHOLE = -1          # the coordinate of a site along an axis that it does not have
GATED = {axis: keyword for keyword, axis in AXIS_OF.items() if axis != "b"}       # along which an edit can replace one place
LIMITS = {NAMES[axis]: keyword for axis, keyword in GATED.items()}


def attribute(pipe: Any, request: Any, at: str | Sequence[str], metric: Metric, *, steps: Any = None, per: str = "k f",
              towards: Record | Source | None = None, points: int = 1, edits: Sequence[Edit] = (), checkpoint: bool = False,
              budget: int | None = 4 * GIB) -> Attributed:
    """The estimated change of a metric for each gate.

    at        globs of sites; one gate for each row, step, branch and position along the axes `per` that the site has: letters of
              k f n j m c d g
    metric    of the video (`Seen`), differentiable, one number for each row
    steps     of the denoising loop: gates stand in these alone, and what comes before is not differentiated
    towards   a record of what the values would be replaced by (another run's); None: zeros
    points    of the integral over gates; 1: the gradient at the run itself
    edits     in force throughout
    checkpoint, budget   as in `generate`

    One forward pass, and one backward pass from the video to the first step of the window, whatever the number of gates; with
    points as many for each site and point.
    Raises MetricError for a metric that is not differentiable, or whose value or gradient is not finite; ValueError for another
    letter in `per` and for fewer points than one.
    """
    if not isinstance(points, int) or points < 1:
        raise ValueError(f"points={points}: a whole number of points of the integral, 1 or more")
    for axis in per.split():
        if axis not in GATED:
            raise ValueError(f"per={per!r}: no gates along {axis!r}{suggestion(NAMES.get(axis, axis), LIMITS)}; there are "
                             f"{', '.join(f'{one} ({NAMES[one]})' for one in GATED)}")
    asked = Asked(pipe, request, tuple([at] if isinstance(at, str) else at), steps, tuple(per.split()),
                  kept(towards, None) if isinstance(towards, Record) else towards, tuple(edits), metric)
    if points == 1:
        found = _gradients(asked, asked.sites, 0.0, checkpoint, budget)
    else:
        shares = [(i + 0.5) / points for i in range(points)]
        every = [[_gradients(asked, [site], share, checkpoint, budget)[0] for share in shares] for site in asked.sites]
        found = [sum(parts[1:], parts[0]) / points for parts in every]
    names = [site.name for site, _ in asked.sites]
    joined = xarray.concat(found, "site", join="outer", coords="minimal", compat="override")
    return Attributed(asked, joined.assign_coords(site=names))


@dataclass(frozen=True)
class Asked:
    """What was asked: sites within the window, and what replaces them."""

    pipe: Any
    request: Any
    at: tuple[str, ...]
    steps: Any
    per: tuple[str, ...]
    towards: Source | None
    edits: tuple[Edit, ...]
    metric: Metric

    @cached_property
    def sites(self) -> list[tuple[Site, Select]]:
        """Each site with its selection."""
        found = {}
        for glob in self.at:
            select = Select.of(glob)
            for site in self.pipe.sites(select.at):
                timed = "step" in (site.clock or ())
                if not site.derived:
                    found[site.name] = site, replace(select, at=site.name, **({"steps": self.steps} if timed else {}))
        return list(found.values())

    @property
    def divided(self) -> list[str]:
        """The axes of the gates that some site has."""
        return [NAMES[axis] for axis in self.per if any(axis in site.axes for site, _ in self.sites)]

    @property
    def stretch(self) -> str:
        """From the first place of a gate to the video."""
        nodes = self.pipe.nodes
        first = min(i for i, node in enumerate(nodes) for site, _ in self.sites if _runs(node, site))
        if not nodes[first].steps:
            later = [node.name for node in nodes[first:]]
            return later[0] if len(later) == 1 else f"{{{','.join(later)}}}"
        whole = range(self.request.steps) if self.steps is None else positions(
            Select("**", steps=self.steps).steps or (), self.request.steps, "steps")
        return f"**@steps={min(whole)}:"

    def replaced(self, select: Select, share: float = 1.0) -> Edit:
        """The edit that goes `share` of the way to what replaces a place."""
        if self.towards is not None:
            return Patch(str(select), record=self.towards, share=share)
        return Zero(str(select)) if share == 1 else Scale(str(select), 1 - share)


def _runs(node: Any, site: Site) -> bool:
    return any(site.name.startswith(f"{stage}.") for stage in node.stages)


def _gradients(asked: Asked, sites: Sequence[tuple[Site, Select]], share: float, checkpoint: bool, budget: int | None
               ) -> list[DataArray]:
    """The estimates for some sites from the gradient where their gates stand at 1 - share."""
    moved = [asked.replaced(select, share) for _, select in sites] if share else []
    captures = [told for _, select in sites for told in (f"{select}", f"{select} -> grad")]
    with trace(asked.pipe, edits=[*asked.edits, *moved], capture=captures, budget=budget) as t:
        out = generate(asked.pipe, asked.request, grad=asked.stretch, checkpoint=checkpoint)
        total(asked.metric, Seen({"video": out.video}, out.request)).backward()
    return [_gates(asked, site, t.record, share) for site, _ in sites]


def total(metric: Metric, seen: Seen) -> torch.Tensor:
    """The sum of a metric over rows, a scalar to differentiate: rows do not depend on each other. MetricError where it is none."""
    with torch.enable_grad():
        given = metric(seen)
    if not isinstance(given, torch.Tensor) or not given.requires_grad:
        raise MetricError("the metric is not differentiable: its value has no gradient towards the video (no detach, no numpy, no "
                          "argmax; `analysis.readouts` has some that are)")
    values("the metric", lambda _: given, seen, "the run that is differentiated")
    return given.sum()


def _gates(asked: Asked, site: Site, record: Record, share: float) -> DataArray:
    """dm/dx (r - x) of one site, summed over what shares a gate."""
    moments: dict[tuple[int, str], np.ndarray] = {}
    axes = [axis for axis in site.axes if axis == "b" or axis in asked.per]
    for key in record.find(f"{site.name} -> grad"):
        entry = record.entry(key)
        value = record.entry(next(one for one in record.find(site.name) if one[1:3] == key[1:3])).tensor.double()
        there = torch.zeros_like(value)
        if asked.towards is not None:
            held = next(one for one in asked.towards.record.find(site.name) if one[1:3] == key[1:3])
            there = asked.towards.record.entry(held).tensor.double().expand_as(value)
        change = entry.tensor.double() * (there - value) / (1 - share)
        if not bool(change.isfinite().all()):
            raise MetricError(f"the metric's gradient{_told(key)} is not finite: it has no slope there (the root or the logarithm "
                              "of 0, a division by 0), or the site's values are not finite")
        others = [i for i, axis in enumerate(site.axes) if axis not in axes]
        summed = change.sum(others) if others else change
        moments[WHOLE if key.step is None else key.step, key.branch or ""] = summed.cpu().numpy()
    steps, branches = (sorted({one[i] for one in moments}) for i in (0, 1))
    whole = np.stack([np.stack([moments[step, branch] for branch in branches]) for step in steps])
    names = [NAMES[axis] for axis in axes]
    coords: dict[str, Any] = {"step": steps, "branch": branches} | {        # the model's positions, where the site is limited
        NAMES[axis]: list(entry.coords.get(axis, range(size))) for axis, size in zip(axes, whole.shape[2:], strict=True)}
    array = xarray.DataArray(whole, dims=("step", "branch", *names), coords=coords)
    missing = {name: [WHOLE] for name in asked.divided if name not in names}
    return array.expand_dims(missing).transpose("step", "branch", "row", *asked.divided)


def _told(key: Key) -> str:
    where = f" at {key.site.removesuffix(' -> grad')}"
    return where + (f", step {key.step}" if key.step is not None else "") + (f", branch {key.branch}," if key.branch else "")


@dataclass(frozen=True)
class Attributed:
    """effects: site, step, branch ("" where there is none), row, and the axes of the gates. A site without steps, or without
    such an axis, stands at WHOLE; NaN: there is no such gate."""

    asked: Asked
    effects: DataArray

    @property
    def table(self) -> DataFrame:
        """One line for each gate and row, the sum over branches: site, step, row, head, frame, ..., estimate."""
        summed = self.effects.sum("branch", skipna=True, min_count=1)
        return summed.rename("estimate").to_dataframe().dropna(subset=["estimate"]).reset_index()

    def check(self, n: int = 32, seed: int = 0, **how: Any) -> Check:
        """True replacements of a random sample of n gates (all rows at once), beside their estimates; `how` as in `cells.run`."""
        axes = [name for name in self.effects.dims if name not in ("row", "branch")]
        table = self.table
        known = table[axes].drop_duplicates()
        gates = known.sample(min(n, len(known)), random_state=seed)
        selects = {site.name: select for site, select in self.asked.sites}
        cells = [Cell(BASE, self.asked.edits)]
        for gate in gates.to_dict("records"):
            limits = {LIMITS[name]: int(gate[name]) for name in axes if name in LIMITS and gate[name] != WHOLE}
            limits |= {} if gate["step"] == WHOLE else {"steps": int(gate["step"])}
            edit = self.asked.replaced(replace(selects[gate["site"]], **limits))
            cells.append(Cell(str(edit.where), (*self.asked.edits, edit), {name: gate[name] for name in axes}))
        made = run(self.asked.pipe, self.asked.request, cells, {"metric": self.asked.metric}, **how)
        true = beside(made[made.cell != BASE], base=made[made.cell == BASE]).assign(true=lambda one: one.value - one.base)
        return Check(true[[*axes, "row", "true"]].merge(table, on=[*axes, "row"]))

    def figure(self, check: Check | None = None, *, across: str = "step", width: float = 5.5) -> Figure:
        """Estimates as tiles, the mean over rows and the sum over branches: sites and heads down, `across` to the right; below it
        how they agree with true replacements (`check`, by default of 32 gates)."""
        from wanlab.plots.tiles import tiles

        check = check or self.check()
        summed = self.effects.sum("branch", skipna=True, min_count=1).mean("row")
        summed = summed.sum([name for name in summed.dims if name not in ("site", "head", across)], skipna=True, min_count=1)
        down = [name for name in ("site", "head") if name in summed.dims]
        flat = summed.stack(down=down).transpose("down", across).dropna("down", how="all")
        names = [" · ".join(str(part) for part in one if part != WHOLE) for one in flat["down"].values]
        return tiles({"estimated change": flat.values}, names, [str(one) for one in flat[across].values], "change", across=across,
                     note=check.told, width=width)


@dataclass(frozen=True)
class Check:
    """table: gates and rows with `true` and `estimate`."""

    table: DataFrame

    @property
    def spearman(self) -> float:
        """Rank correlation of estimates and true changes, over gates (mean over rows).

        MetricError for fewer than three gates, or equal effects.
        """
        from scipy.stats import spearmanr

        axes = [name for name in self.table.columns if name not in ("row", "true", "estimate")]
        means = self.table.groupby(axes, dropna=False)[["true", "estimate"]].mean()
        if len(means) < 3 or means.true.nunique() < 2 or means.estimate.nunique() < 2:
            raise MetricError("a rank correlation needs at least three gates whose effects differ")
        return float(spearmanr(means.true, means.estimate).statistic)

    @property
    def told(self) -> str:
        """In words, for a figure."""
        gates = len(self.table) // max(self.table.row.nunique(), 1)
        return f"Spearman {self.spearman:.2f} with {gates} true replacements drawn at random, {self.table.row.nunique()} samples"
