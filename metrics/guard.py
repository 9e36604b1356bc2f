"""The freeze guard: a score that a still would win never comes without how much moves. It is ours."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .temporal import motion_curves

# Widths per frame of the fastest 5 % of the pixels below which a step counts as frozen. Half a pixel of a 512 wide frame:
# coding noise of a still stays below, a walking figure far above.
FROZEN = 1e-3


class Guarded(NamedTuple):
    """A consistency score with the motion that it was reached at; all `b`.

    score: as its paper defines it; motion: mean flow in frame widths per frame; frozen: share of steps in [0, 1] in
    which nothing moves.
    """

    score: Tensor
    motion: Tensor
    frozen: Tensor

    @property
    def still(self) -> Tensor:
        """`b` bool: nothing moves in any step, so the score says nothing."""
        return self.frozen == 1

    @property
    def moving(self) -> Tensor:
        """The score, NaN for stills: what may be averaged and compared."""
        return torch.where(self.still.to(self.score.device), torch.nan, self.score)


def guarded(score: Tensor, video: Tensor) -> Guarded:
    """A score `b` of videos `b f c h w` in [0, 1] beside their motion (Farneback at 64 pixels).

    Raises:
        ValueError: another number of scores than of videos.
    """
    if score.shape != video.shape[:1]:
        raise ValueError(f"{len(video)} videos but scores of shape {tuple(score.shape)}")
    motion = motion_curves(video)
    return Guarded(score, motion.mean.mean(1), (motion.fastest < FROZEN).float().mean(1))
