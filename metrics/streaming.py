"""Metrics of single samples as torchmetrics classes: update batch by batch, reduce across processes, compute once.

torchmetrics takes seconds to import, so the one-shot functions live in files of their own that do not need it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class MeanOverSamples(Metric):
    """Mean over samples of any one-shot function that gives one value per sample.

    Args:
        score: for example `metrics.quality.psnr`; called with the arguments of `update`, returns `b`.

    A NaN (the score does not apply to that sample) is left out; `count` says how many remain. The sums are float64.
    """

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, score: Callable[..., Tensor]) -> None:
        super().__init__()
        self.score = score
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def set_dtype(self, dst_type: str | torch.dtype) -> MeanOverSamples:
        """Leaves the float64 sums as they are."""
        return self

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Adds the samples of one call of `score`."""
        values = self.score(*args, **kwargs).to(self.total)
        applies = ~values.isnan()
        self.total = self.total + values[applies].sum()
        self.count = self.count + applies.sum()

    def compute(self) -> Tensor:
        """The mean, a float64 scalar; NaN when the score applied to no sample."""
        return self.total / self.count if self.count > 0 else self.total.new_tensor(torch.nan)
