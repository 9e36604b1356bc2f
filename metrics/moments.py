"""Streaming mean and covariance in float64, mergeable across processes.

The state of one distribution is one flat vector `[n, shift (d), sum (d), outer (d * d)]`, where sum and outer are
taken of `x - shift` and shift is the mean of the first batch. Raw moments in float32 lose every digit once the mean
is a thousand standard deviations from zero; float64 with a shift keeps 1e-14 there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def empty(width: int) -> Tensor:
    """The state before any sample: zeros of length 1 + 2 d + d * d, float64."""
    return torch.zeros(1 + 2 * width + width * width, dtype=torch.float64)


def unpack(state: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """n (scalar), shift (d), sum (d), outer (d, d): views into the state."""
    n, shift, total, outer = state.split([1, width, width, width * width])
    return n[0], shift, total, outer.view(width, width)


def pack(n: Tensor, shift: Tensor, total: Tensor, outer: Tensor) -> Tensor:
    """The inverse of `unpack`."""
    return torch.cat([n.reshape(1), shift, total, outer.reshape(-1)])


def add(state: Tensor, features: Tensor) -> Tensor:
    """The state after the rows of `features` (n, d)."""
    x = features.to(state.device, torch.float64)
    n, shift, total, outer = unpack(state, x.shape[1])
    if n == 0:
        shift = x.mean(0)
    x = x - shift
    return pack(n + len(x), shift, total + x.sum(0), outer + x.T @ x)


def merge(states: Tensor) -> Tensor:
    """One state for the union of samples; `states` is (k, 1 + 2 d + d * d), one row per process.

    Every part is moved to the shift of the first part that holds samples:
    sum' = sum + n e and outer' = outer + e sum^T + sum e^T + n e e^T, with e = shift - shift'.
    """
    width = int(round((states.shape[1]) ** 0.5)) - 1
    held = [state for state in states if state[0] > 0]
    if not held:
        return states[0].clone()
    n, shift, total, outer = (part.clone() for part in unpack(held[0], width))
    for state in held[1:]:
        n_k, shift_k, total_k, outer_k = unpack(state, width)
        e = shift_k - shift
        cross = torch.outer(e, total_k)
        n = n + n_k
        total = total + total_k + n_k * e
        outer = outer + outer_k + cross + cross.T + n_k * torch.outer(e, e)
    return pack(n, shift, total, outer)


def mean_and_covariance(state: Tensor, width: int, ddof: int = 1) -> tuple[Tensor, Tensor]:
    """Mean (d) and covariance (d, d) with divisor n - ddof.

    Raises:
        ValueError: fewer than ddof + 1 samples.
    """
    n, shift, total, outer = unpack(state, width)
    if n <= ddof:
        raise ValueError(f"a covariance with divisor n - {ddof} needs at least {ddof + 1} samples, got {int(n)}")
    mean = total / n
    return shift + mean, (outer - n * torch.outer(mean, mean)) / (n - ddof)
