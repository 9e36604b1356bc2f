"""Metrics as torchmetrics classes: update batch by batch, reduce across processes, compute once.

torchmetrics takes seconds to import, so the one-shot functions live in files of their own that do not need it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from . import moments
from .frechet import frechet_from_moments


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


class FrechetVideoDistance(Metric):
    """Streaming Frechet distance over the features of any network.

    Args:
        network: maps a video `b f c h w` in [0, 1] to features (b, d); None when features are given directly.
        width: d.
        ddof: divisor n - ddof of the covariances.

    `update(videos_or_features, real=True|False)`, then `compute()`. The state (n, shift, sum, outer product in float64)
    has a fixed size, is summed exactly over processes and by `merge_state`, and no `half()` or `set_dtype` reaches it.
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    real: Tensor
    fake: Tensor

    def __init__(self, network: Callable[[Tensor], Tensor] | None, width: int, ddof: int = 1) -> None:
        super().__init__()
        self.network, self.width, self.ddof = network, width, ddof
        for name in ("real", "fake"):
            self.add_state(name, moments.empty(width), dist_reduce_fx=moments.merge)

    def set_dtype(self, dst_type: str | torch.dtype) -> FrechetVideoDistance:
        """Leaves the float64 state as it is: in float32 the covariance of a shifted set has no correct digit."""
        return self

    def update(self, values: Tensor, real: bool) -> None:
        """Adds videos `b f c h w` (or features (b, d) without a network) to the real or the generated set."""
        features = values if self.network is None else self.network(values)
        if features.ndim != 2 or features.shape[1] != self.width:
            raise ValueError(f"expected features (b, {self.width}), got shape {tuple(features.shape)}")
        if not torch.isfinite(features).all():
            raise ValueError("features hold NaN or infinite values")
        name = "real" if real else "fake"
        setattr(self, name, moments.add(getattr(self, name), features))

    def compute(self) -> Tensor:
        """The distance, a float64 scalar.

        Raises:
            ValueError: fewer than two samples on a side.
        """
        real = moments.mean_and_covariance(self.real, self.width, self.ddof)
        fake = moments.mean_and_covariance(self.fake, self.width, self.ddof)
        return frechet_from_moments(*fake, *real)
