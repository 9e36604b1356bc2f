"""From per-sample rows to results: intervals, paired differences and corrected p-values.

The unit is the (image, prompt): its seeds are averaged first, because two seeds of one prompt are not independent.
All comparisons are paired by unit against the baseline cell.

- means: expanded percentile bootstrap (Hesterberg 2015, "What teachers should know about the bootstrap"), which widens
  the percentile interval as Student's t does and stays inside the range of the metric;
- p-values of means: sign-flip permutation of the paired differences, exact where 2^n is small;
- set distances: block jackknife of `wanlab.measure`, with the same blocks in both cells;
- correction: Holm over the family that the study declares (default: all cells of one metric).

All cells share the same resamples, so that equal data gives equal intervals, and the whole table is a few matrix products.
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

COLUMNS = ("cell", "metric", "value", "ci_low", "ci_high", "delta", "delta_low", "delta_high", "p_adjusted", "n", "better")
SMALL_N = 12  # below this many units an interval is a rough guide only: the report says so
EXACT_N = 13  # up to this many units all sign flips are enumerated
NAN = float("nan")


@dataclass(frozen=True)
class Result:
    """One number of the table: a cell under a metric, with its 95 % interval, its paired difference to the baseline,
    that difference's interval, the corrected p-value, the units it rests on, and which direction is better."""

    cell: str
    metric: str
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

    @property
    def key(self) -> str:
        """The metric's name without its protocol."""
        return self.metric.split("[")[0]

    @property
    def significant(self) -> bool:
        """Whether the corrected paired test rejects at 5 %."""
        return self.p_adjusted < 0.05


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


class Resampler:
    """Shared resamples for one study: bootstrap weights and sign flips, drawn once per number of units."""

    def __init__(self, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0):
        self.resamples, self.confidence, self.seed = resamples, confidence, seed
        self._weights: dict[int, np.ndarray] = {}
        self._signs: dict[int, np.ndarray] = {}

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Expanded percentile interval of the mean of `values` (n,). NaN for fewer than two values."""
        n = len(values)
        if n < 2:
            return NAN, NAN
        if np.ptp(values) == 0.0:
            return float(values[0]), float(values[0])
        means = self._bootstrap_weights(n) @ (values - values.mean()) + values.mean()
        tail = _expanded_tail(n, 1.0 - self.confidence)
        low, high = np.quantile(means, [tail, 1.0 - tail]).clip(values.min(), values.max())  # rounding must not leave the range
        return float(low), float(high)

    def p_value(self, differences: np.ndarray) -> float:
        """Two-sided sign-flip permutation p of a mean difference of zero. NaN for no differences."""
        n = len(differences)
        if n == 0:
            return NAN
        if not differences.any():
            return 1.0
        flipped = np.abs(self._sign_flips(n) @ differences)
        hits = int((flipped >= abs(differences.sum()) * (1 - 1e-9)).sum())
        if n <= EXACT_N:
            return hits / len(flipped)
        return (hits + 1) / (len(flipped) + 1)

    def _bootstrap_weights(self, n: int) -> np.ndarray:
        if n not in self._weights:
            rng = np.random.default_rng([self.seed, n, 0])
            self._weights[n] = rng.multinomial(n, np.full(n, 1.0 / n), size=self.resamples) / n
        return self._weights[n]

    def _sign_flips(self, n: int) -> np.ndarray:
        if n not in self._signs:
            if n <= EXACT_N:
                bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
            else:
                bits = np.random.default_rng([self.seed, n, 1]).integers(0, 2, size=(self.resamples, n))
            self._signs[n] = bits * 2.0 - 1.0
        return self._signs[n]


def _expanded_tail(n: int, alpha: float) -> float:
    """The tail area alpha'/2 = Phi(-sqrt(n / (n - 1)) t_{n-1, 1 - alpha/2}) of the expanded percentile interval."""
    from scipy.stats import norm, t

    return float(norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf(1 - alpha / 2, n - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) of a family; NaN stays NaN and does not count."""
    given = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(given), NAN)
    order = [i for i in np.argsort(given, kind="stable") if np.isfinite(given[i])]
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * given[i]))
        adjusted[i] = running
    return adjusted.tolist()


def analyse(
    cells: Mapping[str, Scores], baseline: str, measures: Sequence[Any], resampler: Resampler, family: str = "metric"
) -> list[Result]:
    """The results of all cells and metrics, cell by cell.

    Args:
        cells: what each cell measured; all on the same rows.
        baseline: the cell that deltas refer to (its own deltas are NaN; all are where it is absent).
        measures: objects with name, kind ("sample" or "set"), higher_is_better and, for sets, distance, interval and
            difference (see wanlab.measure).
        resampler: shared resamples.
        family: "metric" (Holm over the cells of one metric) or "study" (over everything).
    """
    table = {
        measure.name: [
            _result(name, cell, cells.get(baseline) if name != baseline else None, measure, resampler)
            for name, cell in cells.items()
        ]
        for measure in measures
    }
    families = list(table.values()) if family == "metric" else [[r for column in table.values() for r in column]]
    corrected: dict[tuple[str, str], Result] = {}
    for members in families:
        for member, p in zip(members, holm([m.p for m in members])):
            corrected[member.cell, member.metric] = replace(member, p_adjusted=p)
    return [corrected[cell, measure.name] for cell in cells for measure in measures]


def _result(name: str, cell: Scores, against: Scores | None, measure: Any, resampler: Resampler) -> Result:
    better = {True: "higher", False: "lower", None: "none"}[measure.higher_is_better]
    compute = _set_result if measure.kind == "set" else _mean_result
    return replace(compute(cell, against, measure, resampler), cell=name, better=better)


def _mean_result(cell: Scores, against: Scores | None, measure: Any, resampler: Resampler) -> Result:
    values = by_unit(cell.index, cell.values[measure.name])
    good = np.isfinite(values)
    value = float(values[good].mean()) if good.any() else NAN
    result = Result("", measure.name, value, *resampler.interval(values[good]), n=int(good.sum()))
    if against is None:
        return result
    differences = values - by_unit(against.index, against.values[measure.name])
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return result
    low, high = resampler.interval(differences)
    return replace(result, delta=float(differences.mean()), delta_low=low, delta_high=high, p=resampler.p_value(differences))


def _set_result(cell: Scores, against: Scores | None, measure: Any, resampler: Resampler) -> Result:
    order = np.lexsort((cell.index, cell.seed))  # seed by seed: blocks interleave over units
    mine, reference = (cell.features.get(f"{measure.key}.{which}") for which in ("video", "reference"))
    units = len(np.unique(cell.index))
    if mine is None or reference is None or not torch.isfinite(reference).all():
        return Result("", measure.name, NAN, NAN, NAN, n=0)
    mine, reference = mine[order], reference[order]
    if len(mine) < 4:  # no block can be left out
        return Result("", measure.name, NAN, NAN, NAN, n=units)
    low, high = measure.interval(mine, reference)
    result = Result("", measure.name, float(measure.distance(mine, reference)), low, high, n=units)
    other = against.features.get(f"{measure.key}.video") if against is not None else None
    if other is None:
        return result
    other = other[np.lexsort((against.index, against.seed))]
    if torch.equal(mine, other):
        return replace(result, delta=0.0, delta_low=0.0, delta_high=0.0, p=1.0)
    delta, low, high, p = measure.difference(mine, other, reference)
    return replace(result, delta=float(delta), delta_low=float(low), delta_high=float(high), p=float(p))


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
