"""What guides super-resolution: the first frame at the size of a level, moved by the layered motion, in whole or in part."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from wanlab.nn.layers import WHOLE, Window, scene, view


class Guide:
    """denoised: motion, masks and scope of the denoising loop; image: reference and presence of the first frame; side: in pixels.

    Removing alignment (scope 0) leaves the frame where it stood; a variant that has no layers to move gives frame 0 alone.
    """

    def __init__(self, denoised: Mapping[str, Tensor], image: Mapping[str, Tensor], side: int) -> None:
        self.first = F.interpolate(image["reference"], (side, side), mode="area")
        self.scope, self.present = denoised["scope"][..., None, None, None], image["present"][:, None, None, None, None]
        self.scene = None
        if denoised["masks"].shape[1]:
            masks = F.interpolate(denoised["masks"], (side, side), mode="bilinear", align_corners=False)
            self.scene = scene(self.first, masks, denoised["motion"])

    def part(self, window: Window = WHOLE) -> tuple[Tensor, Tensor]:
        """The moved frame (b f 3 h w) and where it was seen (b f 1 h w), of the part of the video in `window`."""
        frames, rows, columns = window
        first, scope = self.first[:, None, :, rows, columns], self.scope[:, frames]
        if self.scene is None:
            known = (scope > 0).to(first.dtype) * self.present
            return first * known, torch.ones_like(first[:, :, :1]) * known
        moved = view(self.scene, window)
        reference = torch.where(scope > 0, moved.aligned, first)
        valid = torch.where(scope > 0, moved.valid, torch.ones_like(moved.valid))
        return reference * self.present, valid * self.present
