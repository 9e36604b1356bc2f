"""How two sets of features cover each other, by balls around every sample that reach its k-th nearest neighbour.

Precision and recall (Kynkaanniemi et al. 2019): the share of generated samples within a ball of a real one, and of real samples
within a ball of a generated one. Density and coverage (Naeem et al. 2020), which an outlier among the real ones cannot inflate:
how many real balls a generated sample lies in, over k; and the share of real balls that hold a generated sample.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .rows import check_sets

NEIGHBOURS = 5
CHUNK = 2**24  # distances that are held at once
TIE = 1e-9  # of a squared radius: what lies on the rim is outside, whatever rounding says
SPOT = 1e-12  # of the mean squared norm: closer samples are at one spot, and inside each other's balls of no extent


class Manifold(NamedTuple):
    """Float64 scalars; precision, recall and coverage in [0, 1], density from 0 with 1 for equal sets."""

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def manifold_metrics(real: Tensor, fake: Tensor, neighbours: int = NEIGHBOURS) -> Manifold:
    """Precision, recall, density and coverage of generated features against real ones. THE REAL ONES COME FIRST, unlike in
    `psnr(video, reference)` and all that compares video by video: the other way round precision and recall change places.

    Args:
        real: features (n, d), n > neighbours.
        fake: features (m, d), m > neighbours.
        neighbours: k, the sample itself not counted.

    All four fall with n and m alone as balls shrink: compare at equal sizes. Cost n m d; memory does not grow with n m.

    Raises:
        ValueError: what `check_sets` refuses; not more than `neighbours` samples in a set.
    """
    real, fake = check_sets(real, fake)
    if neighbours < 1 or min(len(real), len(fake)) <= neighbours:
        raise ValueError(
            f"{neighbours} nearest neighbours need at least {max(neighbours, 1) + 1} samples in each set, "
            f"got {len(real)} and {len(fake)}"
        )
    centre = real.mean(0)
    real, fake = real - centre, fake - centre
    spot = (SPOT * torch.cat([real, fake]).square().sum(1).mean()).clamp_min(torch.finfo(torch.float64).tiny)
    balls_real = torch.maximum(radii(real, neighbours) * (1 - TIE), spot)
    balls_fake = torch.maximum(radii(fake, neighbours) * (1 - TIE), spot)
    lies_in = torch.zeros(len(fake), dtype=torch.float64, device=real.device)  # real balls around each generated sample
    recalled = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    covered = recalled.clone()
    step = max(1, CHUNK // len(fake))
    for start in range(0, len(real), step):
        here = slice(start, start + step)
        apart = squared_distances(real[here], fake)
        inside = apart < balls_real[here, None]
        lies_in += inside.sum(0)
        covered[here] = inside.any(1)
        recalled[here] = (apart < balls_fake).any(1)
    shares = ((lies_in > 0).double().mean(), recalled.double().mean(), lies_in.mean() / neighbours, covered.double().mean())
    return Manifold(*shares)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 (n, m) of rows that are centred near zero."""
    return a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T


def radii(rows: Tensor, neighbours: int) -> Tensor:
    """The squared distance (n) of each row to its k-th nearest other row."""
    parts = []
    step = max(1, CHUNK // len(rows))
    for start in range(0, len(rows), step):
        apart = squared_distances(rows[start : start + step], rows)
        own = torch.arange(len(apart), device=rows.device)
        apart[own, start + own] = torch.inf
        parts.append(apart.kthvalue(neighbours, 1).values)
    return torch.cat(parts)
