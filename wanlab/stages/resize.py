"""Upsample stage without a pixel shuffle: the large pixels come from enlarged features, or from an enlarged answer."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from wanlab.nn.residual import framewise
from wanlab.stages.upsample import Upsample


class ResizeConv(Upsample):
    """Features are repeated to the large size, and a convolution there makes the pixels (Odena et al. 2016): no checkerboard."""

    phases = 1

    def grow(self, x: Tensor) -> Tensor:
        return framewise(self.outlet, F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest"))


class Trilinear(Upsample):
    """The branch answers at the small size, and interpolation makes it large: nothing finer than a small pixel is made up."""

    phases = 1

    def grow(self, x: Tensor) -> Tensor:
        small = rearrange(framewise(self.outlet, x), "b f c h w -> b c f h w")
        large = F.interpolate(small, scale_factor=(1, 2, 2), mode="trilinear", align_corners=False)
        return rearrange(large, "b c f h w -> b f c h w")
