"""Metrics of single samples as torchmetrics classes: update batch by batch, reduce across processes, compute once.

torchmetrics takes seconds to import, so the one-shot functions live in files of their own that do not need it.
The classes are ours; scores name their own sources.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from .guard import Guarded

# what a mean inherits of its score: the functions of this package whose values have a better direction
BETTER = dict.fromkeys(
    "psnr ssim ms_ssim masked_psnr image_psnr image_ssim text_alignment clip_score motion_accuracy shape_accuracy colour_accuracy "
    "realness consistency i2v_subject motion_smoothness temporal_flickering".split(), True
) | dict.fromkeys(
    "lpips_distance tlp dists image_lpips flicker tof warp_error trajectory_error flow_error ghosting content_loss "
    "gan_loss".split(), False
)  # fmt: skip


def direction(score: Callable[..., Any]) -> bool | None:
    """Whether higher values of a score of this package are better; None: neither, or a function of others."""
    ours = str(getattr(score, "__module__", "")).startswith(f"{__package__}.")
    return BETTER.get(getattr(score, "__name__", "")) if ours else None


class MeanOverSamples(Metric):
    """Mean over samples of any one-shot function that gives one value per sample.

    Args:
        score: for example `metrics.quality.psnr`; called with the arguments of `update`, returns `b`.

    A NaN (the score does not apply to that sample) is left out; `count` says how many remain. The sums are float64.
    `higher_is_better` is the score's; None for functions of others.
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

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """The score's."""
        return direction(self.score)

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


class GuardedMean(Metric):
    """Mean of a score that a still would win, over the samples that move, and how much they do.

    Args:
        score: returns a `metrics.Guarded`, for example `metrics.consistency`; called with the arguments of `update`.

    Each sample counts once, however long it is and however samples are cut into batches and processes.
    """

    is_differentiable = False
    full_state_update = False
    sums: Tensor

    def __init__(self, score: Callable[..., Guarded]) -> None:
        super().__init__()
        self.score = score
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")  # score, motion, stills, n

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """The score's."""
        return direction(self.score)

    def set_dtype(self, dst_type: str | torch.dtype) -> GuardedMean:
        """Leaves the float64 sums as they are."""
        return self

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Adds the samples of one call of `score`."""
        found = self.score(*args, **kwargs)
        parts = (found.moving.nan_to_num(0), found.motion, found.still, torch.ones_like(found.motion))
        self.sums = self.sums + torch.stack([part.to(self.sums).sum() for part in parts])

    def compute(self) -> dict[str, Tensor]:
        """score: mean over the samples that move (NaN if none does); motion: mean over all, frame widths per frame; still:
        share that does not move; n: samples. Float64 scalars.

        Raises:
            ValueError: no sample.
        """
        score, motion, stills, n = self.sums
        if n == 0:
            raise ValueError("no sample was added")
        return {"score": score / (n - stills), "motion": motion / n, "still": stills / n, "n": n}
