"""What every set distance asks of features before it trusts a number computed from them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

SAMPLES_PER_FEATURE = 2.5  # below it the bias of a Frechet distance is no longer linear in 1/n


class SmallSampleWarning(UserWarning):
    """A number over fewer samples than it needs; the message names n."""


def check_rows(features: Tensor, name: str, minimum: int = 2) -> Tensor:
    """Features (n, d) as they are, n >= minimum.

    Raises:
        TypeError: no tensor. ValueError: not a matrix, too few rows, NaN or infinite values; the message says which rows.
    """
    if not isinstance(features, Tensor):
        raise TypeError(f"{name} must be a tensor of (n, d) features, got {type(features).__name__}: torch.as_tensor makes one")
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{name} must be (n, d) features, got shape {tuple(features.shape)}")
    if len(features) < minimum:
        raise ValueError(f"{name} holds {len(features)} sample{'s' * (len(features) != 1)}: needs at least {minimum}")
    if not torch.isfinite(features).all():
        wrong = (~torch.isfinite(features).all(1)).nonzero().flatten().tolist()
        shown = ", ".join(map(str, wrong[:5])) + (" ..." if len(wrong) > 5 else "")
        raise ValueError(f"{name} holds NaN or infinite features in {len(wrong)} of {len(features)} rows: {shown}")
    return features


def check_sets(x: Tensor, y: Tensor, minimum: int = 2) -> tuple[Tensor, Tensor]:
    """Two sets of features (n, d) and (m, d) as float64 on one device.

    Raises:
        ValueError: what `check_rows` refuses, or sets of different widths.
    """
    x, y = check_rows(x, "x", minimum), check_rows(y, "y", minimum)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} features per sample, y has {y.shape[1]}")
    return x.double(), y.to(x.device, torch.float64)


def warn_small(message: str) -> None:
    """A `SmallSampleWarning` at the caller of the caller."""
    warnings.warn(message, SmallSampleWarning, stacklevel=3)


def numbered(ids: Sequence[str | int] | Tensor) -> Tensor:
    """Sample ids (n,) as int64: integers as they are, words by 63 bits of their hash, the same in every process."""
    if isinstance(ids, Tensor):
        return ids.flatten().to("cpu", torch.int64)
    return torch.tensor([_number(sample) for sample in ids], dtype=torch.int64)


def _number(sample: str | int) -> int:
    if isinstance(sample, int):
        return sample
    return int.from_bytes(hashlib.blake2b(sample.encode(), digest_size=8).digest()) >> 1
