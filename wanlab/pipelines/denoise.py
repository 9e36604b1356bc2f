"""One prediction of the cascade's generator: fusion, UNet, alignment, blend. Sampling and training share it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wanlab.diffusion.targets import clean
from wanlab.stages.align import Aligned
from wanlab.stages.fusion import Condition
from wanlab.stages.generator import Draft
from wanlab.stages.image import Image
from wanlab.stages.text import Text

# Standard deviations of the motion parameters (dx, dy, log_scale, angle, depth) in the procedural world: the generator
# diffuses motion in these units, so that video and motion carry noise of like size.
MOTION_STD = (0.15, 0.15, 0.35, 0.7, 1.0)

# A clean picture told from predicted noise is that prediction's error many times over where noise is high; the blend, which looks
# at it, is shown it cut here, as Ho et al. (2020) cut theirs at the colours. The training's error is of the uncut one.
REACH = 1.5


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
    target = getattr(stages["generator"].config, "predicts", "x0")
    condition = stages["fusion"](text, image, sigma)
    draft = stages["generator"](video, motion, image.frame, condition)
    draft = _painted(draft, target, video, sigma)
    motion = draft.motion if taught is None else torch.where(taught[:, None, None, None], draft.motion, draft.motion.detach())
    aligned = stages["align"](image, condition, draft, motion * motion_std(motion))
    shown = draft if target == "x0" else draft._replace(paint=draft.paint.clamp(-REACH, REACH))
    video = stages["generator"].blend(shown, aligned.frames, aligned.valid, video)
    return Prediction(video, draft.motion, draft, aligned, condition)


def _painted(draft: Draft, target: str, video: Tensor, sigma: Tensor) -> Draft:
    """The draft with a clean picture as its paint, whatever the UNet predicts of it."""
    if target == "x0":
        return draft
    level = sigma[:, None, None, None, None]
    return draft._replace(paint=clean(target, video, draft.paint, 1 - level, level))


def motion_std(like: Tensor) -> Tensor:
    """MOTION_STD as a tensor (5,) beside `like`."""
    return torch.tensor(MOTION_STD, device=like.device, dtype=like.dtype)
