"""One prediction of the cascade's generator: fusion, UNet, alignment, blend. Sampling and training share it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wanlab.stages.align import Aligned
from wanlab.stages.fusion import Condition
from wanlab.stages.generator import Draft
from wanlab.stages.image import Image
from wanlab.stages.text import Text

# Standard deviations of the motion parameters (dx, dy, log_scale, angle, depth) in the procedural world: the generator
# diffuses motion in these units, so that video and motion carry noise of like size.
MOTION_STD = (0.15, 0.15, 0.35, 0.7, 1.0)


class Prediction(NamedTuple):
    """The clean video and motion that the generator predicts, and what it made on the way."""

    video: Tensor      # b f 3 h w     in [-1, 1]
    motion: Tensor     # b f m 5       in standard deviations
    draft: Draft
    aligned: Aligned
    condition: Condition


def predict(stages: Mapping[str, Any], video: Tensor, motion: Tensor, text: Text, image: Image, sigma: Tensor,
            taught: Tensor | None = None) -> Prediction:
    """Predict clean (video, motion) from noisy ones at noise level `sigma` (b): x_sigma = (1 - sigma) x0 + sigma noise.

    taught: of training, rows (b) in which the picture's error is to teach the motion; everywhere, unless told otherwise.
    """
    condition = stages["fusion"](text, image, sigma)
    draft = stages["generator"](video, motion, image.frame, condition)
    motion = draft.motion if taught is None else torch.where(taught[:, None, None, None], draft.motion, draft.motion.detach())
    aligned = stages["align"](image, condition, draft, motion * motion_std(motion))
    clean = stages["generator"].blend(draft, aligned.frames, aligned.valid, video)
    return Prediction(clean, draft.motion, draft, aligned, condition)


def motion_std(like: Tensor) -> Tensor:
    """MOTION_STD as a tensor (5,) beside `like`."""
    return torch.tensor(MOTION_STD, device=like.device, dtype=like.dtype)
