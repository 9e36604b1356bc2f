"""Bootstrap over clips: intervals of whatever is a function of weighted clips (Efron & Tibshirani 1993, percentile intervals)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Score = Callable[[np.ndarray], np.ndarray]      # weights (draws, clips) -> one number for each draw


def resampled(clips: int, draws: int = 2000, seed: int = 0) -> np.ndarray:
    """How often each clip is in each resample: (draws, clips), each line adding up to `clips`."""
    return np.random.default_rng(seed).multinomial(clips, np.full(clips, 1 / clips), draws).astype(float)


def interval(score: Score, clips: int, draws: int = 2000, seed: int = 0, share: float = 0.95) -> tuple[float, float, float]:
    """The score of all clips, and the ends of its percentile interval over resampled clips; NaN ends for fewer than two, and where
    there is no score."""
    value = float(score(np.ones((1, clips)))[0])
    if clips < 2 or not np.isfinite(value):
        return value, np.nan, np.nan
    low, high = np.nanquantile(score(resampled(clips, draws, seed)), [(1 - share) / 2, (1 + share) / 2])
    return value, float(low), float(high)


def mean_of(values: np.ndarray) -> Score:
    """The mean of one number for each clip."""
    return lambda weights: weights @ values / weights.sum(1)


def slope(change: np.ndarray, gap: np.ndarray) -> Score:
    """Of changes on gaps, sum of change * gap over sum of gap^2 (clips): what part of the gaps the changes close. Rows whose gaps
    have opposite signs do not cancel, as they would in a ratio of sums. NaN where there are no gaps."""
    over, under = change * gap, gap**2

    def score(weights: np.ndarray) -> np.ndarray:
        whole = weights @ under
        return weights @ over / np.where(whole > 0, whole, np.nan)

    return score


def explained(truth: np.ndarray, found: np.ndarray) -> Score:
    """R2 of numbers (clips, outputs): each output about its own mean, so that what all clips share (the frame) earns nothing."""
    left, square = ((truth - found) ** 2).sum(1), (truth**2).sum(1)

    def score(weights: np.ndarray) -> np.ndarray:
        whole = weights @ square - ((weights @ truth) ** 2).sum(1) / weights.sum(1)
        return 1 - weights @ left / np.where(whole > 0, whole, np.nan)

    return score
