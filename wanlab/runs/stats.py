"""From per-sample rows to the table of results.

Comparisons are paired by (image, prompt, seed) against the baseline cell. The unit is the (image, prompt): differences
are averaged over its seeds first, because two seeds of one prompt are not independent.

- means: intervals, p-values and effect sizes of `wanlab.runs.inference`;
- set distances: block jackknife of `wanlab.measure`, whole units leaving together in both cells;
- where the baseline's own videos are the reference, what judges agreement with it has values alone: that a cell is farther
  from the baseline than the baseline is true by construction, and no finding;
- correction: Holm over the family that the study declares (default: all cells of one metric). Placebo cells test no
  claim: they are a family of their own.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from wanlab.plots.effect import kind_of

from .inference import NAN, SIGNIFICANT, Resampler, cohens_dz, holm, rank_biserial

COLUMNS = ("cell", "metric", "value", "ci_low", "ci_high", "delta", "delta_low", "delta_high", "p_adjusted", "n", "better")


@dataclass(frozen=True)
class Result:
    """One number of the table: a cell under a metric, by its full name and by its short one (`key`), which no other has.

    value with its interval, over n units; its paired difference `delta` to the baseline with its interval, over `pairs`
    units, p and Holm-corrected p; effect sizes of that difference (NaN for set distances); which direction is better; the
    differences of the placebo cells of this cell; whether it is a "mean" over samples or a "distance" between sets; the
    cell that this one is a placebo of; the family of comparisons that p was corrected in, in words; units that a distance needs;
    whether the value says how far the cell is from the baseline, which then has no difference and no p beside it.
    """

    cell: str
    metric: str
    key: str
    value: float
    ci_low: float
    ci_high: float
    delta: float = NAN
    delta_low: float = NAN
    delta_high: float = NAN
    p: float = NAN
    p_adjusted: float = NAN
    n: int = 0
    better: str = "none"
    pairs: int = 0
    dz: float = NAN
    rank_biserial: float = NAN
    placebos: tuple[float, ...] = ()
    statistic: str = "mean"
    placebo_of: str | None = None
    family: str = ""
    fewest: int = 0
    from_baseline: bool = False

    @property
    def change(self) -> tuple[float, float, float]:
        """What figures and placebos compare, with its interval: the difference, or how far the cell is from the baseline."""
        if self.from_baseline:
            return self.value, self.ci_low, self.ci_high
        return self.delta, self.delta_low, self.delta_high

    @property
    def significant(self) -> bool:
        """Whether the corrected paired test rejects at 5 %."""
        return self.p_adjusted < SIGNIFICANT

    @property
    def verdict(self) -> str:
        """better, worse, changed (no direction is better), same (no sample differs) or unclear (not significant)."""
        if self.delta == self.delta_low == self.delta_high == 0.0:
            return "same"
        return kind_of(self.delta, self.significant, self.better)

    @property
    def placebo_rank(self) -> int:
        """Place of this difference among those of its placebos by size: 1 where it is larger than all of them."""
        if self.from_baseline:  # the farther, the worse the agreement
            return 1 + sum((other <= self.value) if self.better == "higher" else (other >= self.value) for other in self.placebos)
        return 1 + sum(abs(other) >= abs(self.delta) for other in self.placebos)


@dataclass(frozen=True)
class Scores:
    """What one cell measured: values (metric -> one number per row), features (name -> rows x d), and the rows' unit
    index and seed."""

    index: np.ndarray
    seed: np.ndarray
    values: Mapping[str, np.ndarray]
    features: Mapping[str, torch.Tensor]


def by_unit(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means over the seeds of each unit, in the order of `np.unique(index)`; NaN where no seed has a value."""
    units, place = np.unique(index, return_inverse=True)
    good = np.isfinite(values)
    count = np.bincount(place, weights=good, minlength=len(units))
    total = np.bincount(place, weights=np.where(good, values, 0.0), minlength=len(units))
    return np.where(count > 0, total / np.maximum(count, 1), NAN)


def judges_agreement(measure: Any) -> bool:
    """Whether a measure says how well a video agrees with its reference: it needs one, and has a better direction. (Without
    one it is a ratio or a signed difference, as sharpness, and whether that differs from the baseline's is a question.)"""
    return "reference" in measure.needs and measure.higher_is_better is not None


def analyse(
    cells: Mapping[str, Scores],
    baseline: str,
    measures: Sequence[Any],
    resampler: Resampler,
    family: str | Mapping[str, str] = "metric",
    placebos: Mapping[str, str] | None = None,
    against_baseline: bool = False,
) -> list[Result]:
    """The results of all cells and metrics, cell by cell.

    Args:
        cells: what each cell measured; a difference rests on the rows that cell and baseline share.
        baseline: the cell that deltas refer to (its own deltas are NaN; all are where it is absent).
        measures: objects with name, key, kind ("sample" or "set"), needs, higher_is_better and, for sets, distance, interval,
            difference and fewest_units (see wanlab.measure).
        resampler: shared resamples.
        family: "metric" (Holm over the cells of one metric), "study" (over everything), or cell -> the name of its family (over
            the cells of a family under one metric).
        placebos: placebo cell -> the cell that it is a placebo of.
        against_baseline: the reference is the baseline's own videos.
    """
    placebos = placebos or {}
    partners = [cells.get(baseline) if name != baseline else None for name in cells]
    rows: list[Result] = []
    for measure in measures:
        apart = against_baseline and judges_agreement(measure)
        others = [None] * len(cells) if apart else partners
        better = {True: "higher", False: "lower", None: "none"}[measure.higher_is_better]
        if measure.kind == "set":
            found = [_set_result(cell, other, measure, resampler.confidence) for cell, other in zip(cells.values(), others)]
        else:
            found = _mean_results(list(cells.values()), others, measure, resampler)
        told = {"better": better, "from_baseline": apart}
        rows += [replace(result, cell=name, placebo_of=placebos.get(name), **told) for name, result in zip(cells, found)]
    corrected = _with_placebos(_corrected([replace(row, family=_family(row, family)) for row in rows]))
    order = {name: place for place, name in enumerate(cells)}
    return sorted(corrected, key=lambda result: order[result.cell])  # stable: metrics stay in their order


def _family(row: Result, family: str | Mapping[str, str]) -> str:
    """The family of a comparison, in words."""
    if isinstance(family, str):
        return row.key if family == "metric" else "this study"
    return f"{family[row.cell]} under {row.key}" if row.cell in family else ""


def _corrected(rows: Sequence[Result]) -> list[Result]:
    families: dict[tuple[str, bool], list[int]] = {}
    for place, row in enumerate(rows):
        families.setdefault((row.family, row.placebo_of is not None), []).append(place)
    adjusted = [NAN] * len(rows)
    for places in families.values():
        for place, p in zip(places, holm([rows[place].p for place in places])):
            adjusted[place] = p
    return [replace(row, p_adjusted=p) for row, p in zip(rows, adjusted)]


def _with_placebos(rows: Sequence[Result]) -> list[Result]:
    deltas: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.placebo_of and math.isfinite(row.change[0]):
            deltas.setdefault((row.placebo_of, row.metric), []).append(row.change[0])
    return [replace(row, placebos=tuple(deltas.get((row.cell, row.metric), ()))) for row in rows]


def _mean_results(cells: Sequence[Scores], against: Sequence[Scores | None], measure: Any, resampler: Resampler) -> list[Result]:
    """The means of all cells under one metric."""
    units = [by_unit(cell.index, cell.values[measure.name]) for cell in cells]
    units = [values[np.isfinite(values)] for values in units]
    differences = [_differences(cell, other, measure.name) for cell, other in zip(cells, against)]
    intervals, spans = resampler.intervals(units), resampler.intervals(differences)
    results = []
    for values, interval, moved, span, p in zip(units, intervals, differences, spans, resampler.p_values(differences)):
        result = Result("", measure.name, measure.key, float(values.mean()) if len(values) else NAN, *interval, n=len(values))
        if len(moved):
            result = replace(
                result,
                delta=float(moved.mean()),
                delta_low=span[0],
                delta_high=span[1],
                p=p,
                pairs=len(moved),
                dz=cohens_dz(moved),
                rank_biserial=rank_biserial(moved),
            )
        results.append(result)
    return results


def _differences(cell: Scores, against: Scores | None, metric: str) -> np.ndarray:
    """Paired differences per unit, seeds averaged, where both cells have a value; none without a baseline."""
    if against is None:
        return np.empty(0)
    mine, theirs = shared_rows(cell, against)
    moved: np.ndarray = by_unit(cell.index[mine], cell.values[metric][mine] - against.values[metric][theirs])
    known: np.ndarray = moved[np.isfinite(moved)]
    return known


def shared_rows(cell: Scores, other: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two cells that hold the same (unit, seed)."""
    if np.array_equal(cell.index, other.index) and np.array_equal(cell.seed, other.seed):
        return np.arange(len(cell.index)), np.arange(len(cell.index))
    place = {key: row for row, key in enumerate(zip(other.index.tolist(), other.seed.tolist()))}
    keys = zip(cell.index.tolist(), cell.seed.tolist())
    pairs = [(row, place[key]) for row, key in enumerate(keys) if key in place]
    mine, theirs = np.array(pairs, dtype=int).reshape(-1, 2).T
    return mine, theirs


def _set_result(cell: Scores, against: Scores | None, measure: Any, confidence: float) -> Result:
    """A distance between sets; rows with a feature that is not finite are left out on all sides."""
    mine, reference = (cell.features.get(f"{measure.key}.{which}") for which in ("video", "reference"))
    none = Result("", measure.name, measure.key, NAN, NAN, NAN, statistic="distance", fewest=measure.fewest_units)
    if mine is None or reference is None:
        return none
    units, good = torch.as_tensor(cell.index), _finite(mine) & _finite(reference)
    n = len(units[good].unique())
    if n < none.fewest:
        return replace(none, n=n)
    low, high = measure.interval(mine[good], reference[good], confidence, units[good])
    result = replace(none, value=float(measure.distance(mine[good], reference[good])), ci_low=low, ci_high=high, n=n)
    other = against.features.get(f"{measure.key}.video") if against is not None else None
    if other is None or against is None:
        return result
    rows, theirs = (torch.as_tensor(part) for part in shared_rows(cell, against))
    both = good[rows] & _finite(other[theirs])
    rows, theirs = rows[both], theirs[both]
    pairs = len(units[rows].unique())
    if pairs < none.fewest:
        return result
    delta, low, high, p = measure.difference(mine[rows], other[theirs], reference[rows], confidence, units[rows])
    return replace(result, delta=float(delta), delta_low=float(low), delta_high=float(high), p=float(p), pairs=pairs)


def _finite(features: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(features).all(-1)


def to_csv(results: Sequence[Result]) -> str:
    """results.csv: the columns of `COLUMNS`, empty where a number does not apply."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        writer.writerow([_cell(getattr(result, column)) for column in COLUMNS])
    return stream.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.8g}" if math.isfinite(value) else ""
    return str(value)
