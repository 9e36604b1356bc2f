"""From paired numbers to intervals, p-values and effect sizes.

- intervals of means: expanded percentile bootstrap (Hesterberg 2015, "What teachers should know about the bootstrap",
  The American Statistician 69), which widens the percentile interval as Student's t does and stays inside the range of
  the data. docs/statistics.md shows its coverage beside BCa's, which falls short where n is small;
- p-values of mean differences: sign-flip permutation, exact where 2^n is at most the number of resamples, else with the
  observed value counted in (Phipson & Smyth 2010), so that p is never 0;
- effect sizes: Cohen's dz with Hedges' exact small-sample factor (1981), and the matched-pairs rank-biserial
  correlation (Kerby 2014);
- correction: Holm (1979).

All columns of one length share the same resamples: equal data gives equal intervals, and a table is a few matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

NAN = float("nan")
COLUMNS_AT_ONCE = 32  # columns that are resampled in one matrix product: bounds the memory
SIGNIFICANT = 0.05  # a corrected p below this is called significant, everywhere


class Resampler:
    """Bootstrap weights and sign flips of a study, drawn once per number of units.

    Args:
        resamples: bootstrap resamples, and sign flips where they cannot be enumerated.
        confidence: of the intervals.
        seed: of the draws.
    """

    def __init__(self, resamples: int = 10_000, confidence: float = 0.95, seed: int = 0):
        self.resamples, self.confidence, self.seed = resamples, confidence, seed
        self._weights: dict[int, np.ndarray] = {}
        self._signs: dict[int, np.ndarray] = {}

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Interval of the mean of `values` (n,), all finite. NaN for fewer than two values."""
        return self.intervals([values])[0]

    def intervals(self, columns: Sequence[np.ndarray]) -> list[tuple[float, float]]:
        """`interval` of each of several columns, of any lengths."""
        found = [(NAN, NAN)] * len(columns)
        for n, places, block in _by_length(columns):
            if n < 2:
                continue
            centre = block.mean(0)
            means = _product(self._weights_of(n), block - centre) / n + centre  # resamples, columns
            tail = _expanded_tail(n, 1.0 - self.confidence)
            low, high = np.quantile(means, [tail, 1.0 - tail], axis=0)
            smallest, largest = block.min(0), block.max(0)  # rounding must not leave the range of the data
            for place, *bounds in zip(places, low.clip(smallest, largest), high.clip(smallest, largest)):
                found[place] = (float(bounds[0]), float(bounds[1]))
        return found

    def p_value(self, differences: np.ndarray) -> float:
        """Two-sided p of a mean difference of zero, of `differences` (n,), all finite. NaN for none."""
        return self.p_values([differences])[0]

    def p_values(self, columns: Sequence[np.ndarray]) -> list[float]:
        """`p_value` of each of several columns, of any lengths."""
        found = [NAN] * len(columns)
        for n, places, block in _by_length(columns):
            if n == 0:
                continue
            sums = np.abs(_product(self._signs_of(n), block))
            hits = (sums >= np.abs(block.sum(0)) * (1 - 1e-9)).sum(0)  # a tie is a tie, whatever the rounding
            extra = 0 if self.exact(n) else 1
            for place, count in zip(places, hits):
                found[place] = float((count + extra) / (len(sums) + extra))
        return found

    def exact(self, n: int) -> bool:
        """Whether all 2^n sign flips of n differences are enumerated."""
        return bool(2**n <= self.resamples)

    def smallest_p(self, n: int) -> float:
        """The smallest p that n differences can give."""
        return 2.0 ** (1 - n) if self.exact(n) else 1.0 / (self.resamples + 1)

    def _weights_of(self, n: int) -> np.ndarray:
        if n not in self._weights:
            rng = np.random.default_rng([self.seed, n, 0])
            draws = rng.multinomial(n, np.full(n, 1.0 / n), size=self.resamples)
            self._weights[n] = draws.astype(np.uint8)  # counts; one of 256 has no chance worth naming
        return self._weights[n]

    def _signs_of(self, n: int) -> np.ndarray:
        if n not in self._signs:
            if self.exact(n):
                bits = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.int8)
            else:
                bits = np.random.default_rng([self.seed, n, 1]).integers(0, 2, size=(self.resamples, n), dtype=np.int8)
            self._signs[n] = 2 * bits - 1
        return self._signs[n]


def _product(small: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Small whole numbers (resamples, n) times (n, columns) in double precision, without a large copy of the former."""
    return np.concatenate([part.astype(np.float64) @ block for part in np.array_split(small, 16)])


def _by_length(columns: Sequence[np.ndarray]) -> Iterator[tuple[int, list[int], np.ndarray]]:
    """Columns of equal length side by side, some at a time: length, their places, (n, columns)."""
    groups: dict[int, list[int]] = {}
    for place, column in enumerate(columns):
        groups.setdefault(len(column), []).append(place)
    for n, group in groups.items():
        for start in range(0, len(group), COLUMNS_AT_ONCE):
            places = group[start : start + COLUMNS_AT_ONCE]
            yield n, places, np.stack([columns[place] for place in places], 1).astype(np.float64)


def _expanded_tail(n: int, alpha: float) -> float:
    """The tail area alpha'/2 = Phi(-sqrt(n / (n - 1)) t_{n-1, 1 - alpha/2}) of the expanded percentile interval."""
    from scipy.stats import norm, t

    return float(norm.cdf(-math.sqrt(n / (n - 1)) * t.ppf(1 - alpha / 2, n - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of a family; NaN stays NaN and does not count."""
    given = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(given), NAN)
    order = [i for i in np.argsort(given, kind="stable") if np.isfinite(given[i])]
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * given[i]))
        adjusted[i] = running
    return adjusted.tolist()


def cohens_dz(differences: np.ndarray) -> float:
    """Mean of paired differences (n,) in units of their standard deviation, times J = Gamma(v / 2) / (sqrt(v / 2)
    Gamma((v - 1) / 2)) with v = n - 1, which makes it unbiased. 0 where no difference is; NaN for n < 3 or where all
    differences are the same number."""
    n = len(differences)
    if n and not differences.any():
        return 0.0
    if n < 3 or np.ptp(differences) <= 1e-12 * np.abs(differences).max():
        return NAN
    v = n - 1
    factor = math.exp(math.lgamma(v / 2) - math.lgamma((v - 1) / 2)) / math.sqrt(v / 2)
    return float(factor * differences.mean() / differences.std(ddof=1))


def rank_biserial(differences: np.ndarray) -> float:
    """Share of the rank sum of paired differences (n,) that is positive, minus the share that is negative: -1 to 1, and
    1 where every sample rises. Zeros are left out (as Wilcoxon's test does); 0 where all are, NaN for no differences."""
    from scipy.stats import rankdata

    if not len(differences):
        return NAN
    moved = differences[differences != 0]
    if not len(moved):
        return 0.0
    ranks = rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())
