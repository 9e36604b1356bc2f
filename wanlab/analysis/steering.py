"""Steering: a direction added to the stream at some sites, in doses, and what that does to what it aims at and to everything else.

    left = steering.difference(pipe, [towards_left], [towards_right], "text.out[keys=4]")      # means of two sets of requests
    left = steering.of_probe(found.reader("fusion.said", "motion", 0), "left", "fusion.said", pipe=pipe)
    doses = steering.doses(pipe, request, left, {"left": readouts.displacement("red", "left"), "sharpness": readouts.sharpness()})
    doses.summary; doses.figure()

Difference of means: Turner et al. 2023 (2308.10248), Rimsky et al. 2024 (2312.06681). The edits are `Steer`, cells are data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wanlab.analysis import features
from wanlab.analysis.cells import Cell, Metric, beside, run
from wanlab.analysis.intervals import interval, mean_of
from wanlab.analysis.readers import Reader
from wanlab.core import Select, Steer
from wanlab.core.seeding import generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

STEERED, NONE = "steered", "0"


class SteeringError(ValueError):
    """A direction that cannot be added where it is to be added, or doses that say nothing."""


@dataclass(frozen=True)
class Direction:
    """A vector for each site and step where one is added (step None: in every step, or outside of them), at dose 1."""

    vectors: Mapping[tuple[str, int | None], Tensor]
    where: Select                   # what else limits it: branch, tokens, frames

    def edits(self, dose: float) -> tuple[Steer, ...]:
        """The edits that add so many times the direction."""
        return tuple(Steer(str(replace(self.where, at=site, steps=self.where.steps if step is None else step)),
                           direction=vector.tolist(), strength=dose) for (site, step), vector in self.vectors.items())

    def random(self, seed: int) -> Direction:
        """A placebo: at each place a random direction of the same length."""
        drawn = {}
        for (site, step), vector in self.vectors.items():
            noise = torch.randn(vector.shape, generator=generator("placebo direction", seed, site, step), dtype=vector.dtype)
            drawn[site, step] = noise * vector.norm() / noise.norm()
        return replace(self, vectors=drawn)

    @property
    def length(self) -> dict[tuple[str, int | None], float]:
        """The norm at each place."""
        return {key: float(vector.norm()) for key, vector in self.vectors.items()}


def difference(pipe: Any, towards: Iterable[Any], away: Iterable[Any], at: str, *, steps: Any = None, branch: str | None = "cond",
               budget: int | None = None) -> Direction:
    """Mean features of some requests less those of others, over samples and tokens, at each site and step of `at`.

    At dose 1 it is what takes one mean to the other. `at` may be limited, "generator.mid.resid_post[tokens=-3:]": means are taken,
    and the direction is added, there alone. Raises SteeringError where the two means are equal, or a site has heads or slots.
    """
    means = [_means(pipe, requests, at, steps, branch, budget) for requests in (towards, away)]
    vectors = {key: means[0][key] - means[1][key] for key in means[0]}
    for (site, _), vector in vectors.items():
        known = next(iter(pipe.sites(site)))
        if len(vector) != known.size("c" if "c" in known.axes else "d"):
            raise SteeringError(f"{site} has axes '{' '.join(known.axes)}': its features differ by head or slot, and one direction "
                                "is added to all; steer the stream that they are written to")
        if not vector.any():
            raise SteeringError(f"{site} has the same mean in both sets of requests: there is no direction from one to the other")
    return Direction(vectors, _where(pipe, vectors, at, branch))


def _means(pipe: Any, requests: Iterable[Any], at: str, steps: Any, branch: str | None, budget: int | None
           ) -> dict[tuple[str, int | None], Tensor]:
    blocks = features.gather(features.pooled(pipe, requests, at, steps=steps, branch=branch, budget=budget))
    if not blocks:
        raise SteeringError("no requests to take a mean of")
    return {(block.site, block.step): block.values.double().mean(0) for block in blocks}


def of_probe(reader: Reader, name: Any, at: str, *, pipe: Any, branch: str | None = "cond") -> Direction:
    """The weights of a linear probe for a class (over the mean of all classes), as long as the way from the mean of all classes to
    that of the class. `at` is the site of the probe as it was pooled, with `@steps=` where not all steps are meant. SteeringError
    for a probe that read other features than those of the site."""
    site = next(iter(pipe.sites(Select.of(at).at)))
    vector = torch.from_numpy(np.asarray(reader.towards(name))).double()
    if len(vector) != site.size("c" if "c" in site.axes else "d"):
        raise SteeringError(f"the probe reads {len(vector)} features, {site.name} has axes '{' '.join(site.axes)}' of "
                            f"{site.size('c' if 'c' in site.axes else 'd')}: train it on means of that site alone (frames=False)")
    vectors = {(site.name, None): vector}
    return Direction(vectors, _where(pipe, vectors, at, branch))


def _where(pipe: Any, vectors: Mapping[tuple[str, int | None], Tensor], at: str, branch: str | None) -> Select:
    where = Select.of(at)
    branches = all("branch" in (next(iter(pipe.sites(site))).clock or ()) for site, _ in vectors)
    return replace(where, branch=branch) if branch is not None and where.branch is None and branches else where


@dataclass(frozen=True)
class Doses:
    """table: for every row and metric the dose, `direction` ("steered", "random 0", ...), value, base (dose 0), change."""

    table: DataFrame

    @property
    def summary(self) -> DataFrame:
        """Change by metric, direction and dose over the rows, paired, with its 95 % bootstrap interval and n. Each random direction
        has lines of its own: their mean would cancel."""
        import pandas

        rows = []
        for (metric, direction, dose), part in self.table.groupby(["metric", "direction", "dose"], sort=False):
            changes = part.change.to_numpy()
            value, low, high = interval(mean_of(changes), len(changes))
            rows.append({"metric": metric, "direction": direction, "dose": dose, "change": value, "low": low, "high": high,
                         "n": len(changes)})
        return pandas.DataFrame(rows)

    def figure(self, metrics: Sequence[str] | None = None, note: str = "", width: float = 5.5) -> Figure:
        """A panel for each metric: change by dose, steered, and a grey line for each random direction."""
        from wanlab.plots.dose import doses

        names = list(self.table.metric.unique()) if metrics is None else list(metrics)
        summary = self.summary
        return doses({name: summary[summary.metric == name] for name in names}, note, width)


def cells(direction: Direction, doses: Sequence[float], placebos: int = 2, seed: int = 0) -> list[Cell]:
    """The runs of a dose-response curve as data: no edit, each dose, and each dose of some random directions of equal length.

    SteeringError for no dose but 0.
    """
    if not any(doses):
        raise SteeringError("doses other than 0 are needed: 0 is the run without an edit")
    found = [Cell(NONE, (), {"direction": STEERED, "dose": NONE})]
    named = {STEERED: direction, **{f"random {i}": direction.random(seed + i) for i in range(placebos)}}
    return found + [Cell(f"{name} {dose:+g}", one.edits(dose), {"direction": name, "dose": f"{dose:g}"})
                    for name, one in named.items() for dose in dict.fromkeys(doses) if dose]


def doses(pipe: Any, request: Any, direction: Direction, metrics: Mapping[str, Metric], *, doses: Sequence[float] = (-2, -1, 1, 2),
          placebos: int = 2, seed: int = 0, **how: Any) -> Doses:
    """Run a dose-response curve: the rows of a request under each dose, and under random directions (`cells.run` takes `how`)."""
    table = run(pipe, request, cells(direction, doses, placebos, seed), metrics, **how)
    table = beside(table, base=table[table.cell == NONE])
    return Doses(table.assign(dose=table.dose.astype(float), change=table.value - table.base))
