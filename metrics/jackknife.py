"""Intervals for set distances by deleting blocks of samples.

A naive bootstrap of a Frechet distance excludes the estimate itself: drawing with replacement adds the bias of a
smaller set. Deleting one block of samples at a time and scaling the spread (Kuensch 1989 for blocks; Efron and Stein
1981 for the inequality that makes it conservative) does not. What is covered is E[FD_n] at this n, not FD at infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .frechet import frechet_distance
from .leaveout import Kept, frechet_replicates

BLOCKS = 16
STILL = 1e-12  # of a distance: a standard error below it is rounding, not a spread

Distance = Callable[[Tensor, Tensor], Tensor]


class Difference(NamedTuple):
    """A difference of two distances with its interval (NaN where no block changes it) and two-sided p-value, never 0."""

    delta: float
    low: float
    high: float
    p: float


def blocks_of(n: int, blocks: int = BLOCKS, units: Tensor | None = None) -> list[Tensor]:
    """For each block the indices that remain without it; blocks interleave, so that order in a file does not matter.

    Args:
        n: rows.
        blocks: at most this many blocks, never more than there are units.
        units: for each row the unit it belongs to (n,); rows of one unit (one scene under several seeds) are not
            independent, so they leave together. None: each row is a unit.

    Raises:
        ValueError: fewer than 4 units: a spread over 3 replicates says nothing.
    """
    rank = torch.arange(n) if units is None else torch.unique(units, return_inverse=True)[1]
    count = int(rank.max()) + 1 if n else 0
    if count < 4:
        raise ValueError(f"a jackknife interval needs at least 4 samples, got {count}")
    index, blocks = torch.arange(n), min(blocks, count)
    return [index[rank % blocks != k] for k in range(blocks)]


def standard_error(replicates: Tensor) -> Tensor:
    """Delete-one-block standard error of a statistic from its g leave-out values (g,)."""
    g = len(replicates)
    return ((g - 1) / g * (replicates - replicates.mean()).square().sum()).sqrt()


def replicates(distance: Distance, x: Tensor, y: Tensor, kept_x: Sequence[Kept], kept_y: Sequence[Kept]) -> Tensor:
    """distance(x[k], y[l]) for each pair of choices, float64 (g); None keeps all rows."""
    plain, options = (distance.func, distance.keywords) if isinstance(distance, partial) else (distance, {})
    if plain is frechet_distance:
        return frechet_replicates(x, y, kept_x, kept_y, **options)
    pairs = zip(kept_x, kept_y, strict=True)
    return torch.stack([distance(x if k is None else x[k], y if l is None else y[l]) for k, l in pairs]).double()


def jackknife_interval(
    x: Tensor,
    y: Tensor,
    distance: Distance,
    paired: bool | None = None,
    blocks: int = BLOCKS,
    confidence: float = 0.95,
    units: Tensor | None = None,
) -> tuple[float, float]:
    """Interval of distance(x, y), by Student's t with blocks - 1 degrees of freedom; NaN where leaving out any block changes
    nothing (a share that is at its bound): such sets say nothing about the spread, unless they are one set.

    Args:
        x: features (n, d).
        y: features (m, d).
        distance: of two feature matrices, a scalar.
        paired: row i of x and of y belong together (one scene) and leave together; None = when n equals m.
        blocks: at most this many blocks per side.
        confidence: of the interval.
        units: of paired rows, which unit each belongs to (see `blocks_of`).

    Raises:
        ValueError: paired sets of different n.
    """
    paired = len(x) == len(y) if paired is None else paired
    estimate = distance(x, y)
    if paired:
        if len(x) != len(y):
            raise ValueError(f"paired sets must have equal n, got {len(x)} and {len(y)}")
        kept = blocks_of(len(x), blocks, units)
        error = standard_error(replicates(distance, x, y, kept, kept))
        freedom = len(kept) - 1
    else:
        kept_x, kept_y = blocks_of(len(x), blocks), blocks_of(len(y), blocks)
        all_x, all_y = [None] * len(kept_x), [None] * len(kept_y)
        values = replicates(distance, x, y, [*kept_x, *all_y], [*all_x, *kept_y])
        error = torch.hypot(standard_error(values[: len(kept_x)]), standard_error(values[len(kept_x) :]))
        freedom = min(len(kept_x), len(kept_y)) - 1
    if _is_still(error, estimate) and not torch.equal(x, y):
        return math.nan, math.nan
    half = float(error) * student_quantile((1 + confidence) / 2, freedom)
    return max(float(estimate) - half, 0.0), float(estimate) + half


def jackknife_difference(
    a: Tensor,
    b: Tensor,
    reference: Tensor,
    distance: Distance,
    blocks: int = BLOCKS,
    confidence: float = 0.95,
    units: Tensor | None = None,
) -> Difference:
    """distance(a, reference) - distance(b, reference) for two cells on the same samples.

    Row i of a and b is the same sample, and leaves both together; where the reference has as many rows, its row i
    leaves too. The shared part of the noise (and of the bias) cancels. `confidence` and `units` as above. A difference that no
    block changes has no interval; its p is 2^(1 - blocks), the smallest that sign flips of as many could give.

    Raises:
        ValueError: a and b differ in shape.
    """
    if a.shape != b.shape:
        raise ValueError(f"paired cells must hold the same samples, got {tuple(a.shape)} and {tuple(b.shape)}")
    kept = blocks_of(len(a), blocks, units)
    if torch.equal(a, b):
        return Difference(0.0, 0.0, 0.0, 1.0)
    delta = float(distance(a, reference) - distance(b, reference))
    rest = kept if len(reference) == len(a) else [None] * len(kept)
    values = replicates(distance, a, reference, kept, rest) - replicates(distance, b, reference, kept, rest)
    error, freedom = float(standard_error(values)), len(kept) - 1
    if _is_still(error, delta):
        return Difference(delta, math.nan, math.nan, 2.0 ** (1 - len(kept)) if delta else 1.0)
    half = error * student_quantile((1 + confidence) / 2, freedom)
    return Difference(delta, delta - half, delta + half, 2 * student_tail(abs(delta) / error, freedom))


def _is_still(error: Tensor | float, estimate: Tensor | float) -> bool:
    """Whether leave-out values do not vary at all."""
    return float(error) <= STILL * abs(float(estimate))


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def student_tail(t: float, freedom: int) -> float:
    """P(T > t) for t >= 0."""
    from scipy.special import stdtr

    return float(stdtr(freedom, -t))
