"""Streaming moments of a set of features in float64, mergeable across processes.

The state is one flat vector `[n, fourth, shift (d), sum (d), outer (d d)]`: sum and outer product are taken of
`x - shift`, shift is the mean of the first batch, and fourth is the sum of |x|^4. Raw moments in float32 lose every digit
once the mean is a thousand standard deviations from zero; float64 with a shift keeps 1e-14 there. Its size does not
depend on n, and the state of a union follows exactly from the states of its parts, whatever their shifts. The layout is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .rows import check_rows


class Moments:
    """Count, mean and second moments of the rows seen so far.

    Args:
        flat: the state; without one, that of no samples (its width becomes known with the first rows).
    """

    def __init__(self, flat: Tensor | None = None) -> None:
        self.flat = torch.zeros(2, dtype=torch.float64) if flat is None else flat

    @classmethod
    def of(cls, features: Tensor, shift: Tensor | None = None) -> Moments:
        """The moments of the rows of `features` (n, d), summed about `shift` (d), or else about their mean."""
        if shift is None:
            return cls().add(features)
        sums = torch.zeros(len(shift) * (len(shift) + 1), dtype=torch.float64, device=shift.device)
        return cls(torch.cat([sums.new_zeros(2), shift, sums])).add(features)

    @classmethod
    def from_statistics(cls, mean: Tensor, covariance: Tensor, n: int, ddof: int = 1) -> Moments:
        """From a published mean (d) and covariance (d, d) with divisor n - ddof; the fourth moment stays unknown (NaN)."""
        mean, covariance = mean.double(), covariance.double()
        head = torch.tensor([n, torch.nan], dtype=torch.float64, device=mean.device)
        return cls(torch.cat([head, mean, torch.zeros_like(mean), covariance.flatten() * (n - ddof)]))

    @property
    def width(self) -> int:
        """d; 0 before the first rows."""
        return round((self.flat.numel() - 1) ** 0.5) - 1

    @property
    def n(self) -> int:
        """How many rows."""
        return int(self.flat[0])

    @property
    def fourth(self) -> Tensor:
        """Sum of |x|^4 over the rows, a scalar."""
        return self.flat[1]

    @property
    def shift(self) -> Tensor:
        """What was subtracted before summing (d)."""
        return self.flat[2 : 2 + self.width]

    @property
    def sum(self) -> Tensor:
        """Sum of x - shift (d)."""
        return self.flat[2 + self.width : 2 + 2 * self.width]

    @property
    def outer(self) -> Tensor:
        """Sum of (x - shift)(x - shift)^T (d, d)."""
        return self.flat[2 + 2 * self.width :].view(self.width, self.width)

    @property
    def mean(self) -> Tensor:
        """Mean of the rows (d)."""
        return self.shift + self.sum / self.n

    def covariance(self, ddof: int = 1) -> Tensor:
        """Covariance (d, d) with divisor n - ddof.

        Raises:
            ValueError: fewer than ddof + 1 rows.
        """
        if self.n <= ddof:
            raise ValueError(f"a covariance with divisor n - {ddof} needs at least {ddof + 1} samples, got {self.n}")
        offset = self.sum / self.n
        return (self.outer - self.n * torch.outer(offset, offset)) / (self.n - ddof)

    def add(self, features: Tensor) -> Moments:
        """These moments with the rows of `features` (b, d) added in place.

        Raises:
            ValueError: not a matrix, NaN or infinite values, another width than before.
        """
        x = check_rows(features, "features", minimum=0).to(self.flat.device, torch.float64)
        if len(x) == 0:
            return self
        if self.width == 0:
            self.flat = self.flat.new_zeros(2 + 2 * x.shape[1] + x.shape[1] ** 2)
            self.shift.copy_(x.mean(0))
        if x.shape[1] != self.width:
            raise ValueError(f"expected features (b, {self.width}), got shape {tuple(features.shape)}")
        self.flat[0] += len(x)
        self.flat[1] += x.square().sum(1).square().sum()
        x = x - self.shift
        self.sum.add_(x.sum(0))
        self.outer.addmm_(x.T, x)
        return self

    def moved(self, shift: Tensor) -> Moments:
        """The same rows, summed about another shift.

        sum' = sum + n e and outer' = outer + e sum^T + sum e^T + n e e^T, with e = shift - shift'.
        """
        e = self.shift - shift
        cross = torch.outer(e, self.sum)
        outer = self.outer + cross + cross.T + self.n * torch.outer(e, e)
        return Moments(torch.cat([self.flat[:2], shift, self.sum + self.n * e, outer.flatten()]))

    def without(self, part: Moments) -> Moments:
        """The moments of the rows that are not in `part`, which must be a part of these."""
        return merged([self, part], signs=[1, -1])


def merged(parts: Sequence[Moments], signs: Sequence[int] | None = None) -> Moments:
    """The moments of the union of disjoint parts, at the shift of the first part that holds rows; parts may be empty.

    Raises:
        ValueError: parts of different widths.
    """
    weighed = [(part, sign) for part, sign in zip(parts, signs or [1] * len(parts), strict=True) if part.n]
    if len({part.width for part, _ in weighed}) > 1:
        raise ValueError(f"parts of different widths cannot be merged: {[part.width for part, _ in weighed]} features")
    if not weighed:
        return Moments(parts[0].flat.clone()) if parts else Moments()
    first = weighed[0][0]
    total = first.flat.clone()
    for part, sign in weighed[1:]:
        flat = part.flat.to(total.device) if torch.equal(part.shift, first.shift) else part.moved(first.shift).flat
        total[:2] += sign * flat[:2]
        total[2 + first.width :] += sign * flat[2 + first.width :]
    return Moments(total)
