"""Align stage by deformable convolution (Dai et al. 2017; modulated, Zhu et al. 2019), as video restoration aligns frames
(EDVR, Wang et al. 2019): every pixel of every frame says where in the first frame its 3x3 samples lie.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from wanlab.nn.residual import framewise
from wanlab.stages.align import Align, Aligned, Config, still
from wanlab.stages.fusion import Condition
from wanlab.stages.generator import Draft
from wanlab.stages.image import Image

TAPS = 9  # of the deformable kernel, in raster order


class Sampling(NamedTuple):
    """Where the first frame is sampled for each pixel, and how far that is to be believed."""

    offset: Tensor     # b f d h w     of each tap from its place in the kernel, in pixels: dy, dx of the first, ...
    weight: Tensor     # b f k h w     what each tap counts, 0 to 2
    trust: Tensor      # b f 1 h w     0: paint here .. 1: carry the first frame over


class DeformableAlign(Align):
    """Offsets from the generator's features, its painted draft and the first frame; one kernel for all.

    Sites of its own: `offset`, `weight`, `trust`, as in `Sampling` (d: dy and dx of every tap, k: taps).
    """

    SITES = {**Align.SITES, "offset": "b f d h w", "weight": "b f k h w", "trust": "b f c h w"}

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.patch = config.patch
        self.features = nn.Conv2d(config.features, width * config.patch ** 2, 1)
        self.net = nn.Sequential(
            nn.Conv2d(width + 6, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=2, dilation=2), nn.SiLU(),
            nn.Conv2d(width, 3 * TAPS + 1, 3, padding=1),
        )
        centre = torch.zeros(3, 3, 3, 3)
        centre[range(3), range(3), 1, 1] = 1
        self.kernel = nn.Parameter(centre)                  # starts as a look-up at the middle tap

    def sample(self, image: Image, draft: Draft) -> Sampling:
        """Where to look; offsets in tenths of the frame come out of the network, so that it need not be large."""
        f, side = draft.paint.shape[1], draft.paint.shape[-1]
        first = repeat(image.frame, "b c h w -> b f c h w", f=f)
        features = F.pixel_shuffle(framewise(self.features, draft.features), self.patch)
        seen = torch.cat([features, draft.paint, first], 2)
        offset, weight, trust = framewise(self.net, seen).split([2 * TAPS, TAPS, 1], 2)
        return Sampling(0.1 * side * offset, 2 * torch.sigmoid(weight), torch.sigmoid(trust))

    def forward(self, image: Image, condition: Condition, draft: Draft, motion: Tensor) -> Aligned:
        """Frames b f 3 h w sampled from the first where `sample` says; motion (b f m 5) is not looked at."""
        from torchvision.ops import deform_conv2d

        f = motion.shape[1]
        offset, weight, trust = self.sample(image, draft)
        offset, weight, trust = self.site("offset", offset), self.site("weight", weight), self.site("trust", trust)
        first = repeat(image.frame, "b c h w -> (b f) c h w", f=f)
        frames = deform_conv2d(first, offset.flatten(0, 1), self.kernel, padding=1, mask=weight.flatten(0, 1))
        frames = rearrange(frames, "(b f) c h w -> b f c h w", f=f)
        without = still(image, f)                           # later stages get no warped reference: no layers are moved
        start = (torch.arange(f, device=frames.device) == 0)[:, None, None, None]
        valid = torch.where(start, without.valid, trust * image.present[:, None, None, None, None])
        return self._emit(without._replace(frames=torch.where(start, without.frames, frames), valid=valid), image)
