"""Align stage: inside the denoising loop, carries the first frame into every other frame. Three variants, and
`wanlab.stages.deformable` has a fourth.

`flow_warp` cuts the first frame into layers and moves them by the predicted motion (nn/layers.py); `temporal_attention`
lets the patches of each frame look up patches of the first frame; `none` leaves all to the UNet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.nn.attention import Attention
from wanlab.nn.embed import sinusoid
from wanlab.nn.layers import compose
from wanlab.stages.fusion import Condition
from wanlab.stages.generator import Draft
from wanlab.stages.image import Image


@dataclass(frozen=True)
class Config:
    """Sizes of an align stage; all variants take the same, and read of it what they need."""

    size: int = 32
    patch: int = 4
    features: int = 48        # of the generator's finest grid
    context: int = 64
    width: int = 24
    heads: int = 4


class Aligned(NamedTuple):
    """What an align stage gives."""

    frames: Tensor     # b f 3 h w     the first frame, carried into every frame
    valid: Tensor      # b f 1 h w     1 where it was carried over, 0 where the UNet is to paint
    masks: Tensor      # b m h w       the layers that were moved, sums to 1
    scope: Tensor      # b f           1 where later stages guide themselves by the moved first frame, 0 by the unmoved


SITES = {"out": "b f c h w", "valid": "b f c h w", "scope": "b f"}


def still(image: Image, frames: int) -> Aligned:
    """No alignment: the first frame in every place, valid in the first frame alone; one background layer."""
    b, _, h, w = image.frame.shape
    first = (torch.arange(frames, device=image.frame.device) == 0).to(image.frame.dtype)
    scope = first * image.present[:, None]
    valid = repeat(scope, "b f -> b f 1 h w", h=h, w=w)
    return Aligned(repeat(image.frame, "b c h w -> b f c h w", f=frames), valid, image.frame.new_zeros(b, 0, h, w), scope)


class Align(Hookable):
    """Common end of the variants: the sites, and what stands in when alignment is removed."""

    SITES = SITES

    def _emit(self, aligned: Aligned, image: Image) -> Aligned:
        without = still(image, aligned.frames.shape[1])
        return Aligned(
            self.site("out", aligned.frames, identity=without.frames),
            self.site("valid", aligned.valid, identity=without.valid),
            aligned.masks,
            self.site("scope", aligned.scope, identity=without.scope),
        )


class FlowWarp(Align):
    """Segments the first frame into the slots' layers and moves them by the slots' motion.

    Sites of the segmentation: `pixels`, what is added to them (`ground` from the fused tokens, `mixed` from around), `query`
    of each slot, `logits`, `masks`. Of the motion: `motion`, and `flow` and `owner`, which can only be recorded.
    """

    SITES = {**SITES, "pixels": "b c h w", "ground": "b c h w", "mixed": "b c h w", "query": "b m c", "logits": "b m h w",
             "masks": "b m h w", "motion": "b f m d", "flow": "b f c h w", "owner": "b f m h w"}

    DERIVED = ("flow", "owner")

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.width
        self.pixels = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=2, dilation=2), nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.ground = nn.Linear(config.context, width)
        self.mix = nn.Sequential(nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.query = nn.Linear(config.context, width)
        self.scale = width ** -0.5

    def segment(self, image: Image, condition: Condition) -> Tensor:
        """Logits (b m h w) of which slot owns each pixel of the first frame."""
        pixels = self.site("pixels", self.pixels(image.frame))
        ground = rearrange(self.ground(condition.grounded), "b (h w) c -> b c h w", h=math.isqrt(condition.grounded.shape[1]))
        ground = F.interpolate(ground, pixels.shape[-2:], mode="bilinear", align_corners=False)
        pixels = pixels + self.site("ground", ground, identity=lambda: torch.zeros_like(ground))
        mixed = self.mix(pixels)
        pixels = pixels + self.site("mixed", mixed, identity=lambda: torch.zeros_like(mixed))
        query = self.site("query", self.query(condition.slots))
        return self.site("logits", self.scale * torch.einsum("bmc,bchw->bmhw", query, pixels))

    def forward(self, image: Image, condition: Condition, draft: Draft, motion: Tensor) -> Aligned:
        """motion b f m 5 in the units of `nn.layers`."""
        masks = self.site("masks", torch.softmax(self.segment(image, condition), 1))
        composite = compose(image.frame, masks, self.site("motion", motion))
        self.site("flow", composite.flow)
        self.site("owner", composite.owner)
        scope = repeat(image.present, "b -> b f", f=motion.shape[1])
        # What an object hid in the first frame is filled from around it: the UNet would paint the object's ghost there.
        valid = composite.inside * image.present[:, None, None, None, None]
        return self._emit(Aligned(composite.aligned, valid, masks, scope), image)


class AttentionAlign(Align):
    """Every patch of every frame attends to the patches of the first frame and takes over their pixels, softly.

    Site of its own: `trust`, how far each patch is to be taken over.
    """

    SITES = {**SITES, "trust": "b f h w"}

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embed = nn.Conv2d(3, width, config.patch, config.patch)
        self.query = nn.Linear(config.features, width)
        self.attn = Attention(width, config.heads, "b n c", inner=config.heads * 3 * config.patch ** 2)
        self.attn.o = nn.Linear(config.heads * 3 * config.patch ** 2, 3 * config.patch ** 2)
        self.trust = nn.Linear(config.features, 1)

    def forward(self, image: Image, condition: Condition, draft: Draft, motion: Tensor) -> Aligned:
        """Frames b f 3 h w of the patches of the first; motion (b f m 5) and condition are not looked at."""
        f = draft.features.shape[1]
        keys = self.embed(image.frame)
        h = keys.shape[-2]
        keys = rearrange(keys, "b c h w -> b (h w) c")
        keys = keys + sinusoid(torch.arange(keys.shape[1], device=keys.device), keys.shape[-1], 100.0)
        queries = self.query(rearrange(draft.features, "b f c h w -> b (f h w) c"))
        patches = self.attn(queries, keys)
        p = self.config.patch
        frames = rearrange(patches, "b (f h w) (c p q) -> b f c (h p) (w q)", f=f, h=h, p=p, q=p)
        first = (torch.arange(f, device=frames.device) == 0).to(frames.dtype)[:, None, None, None]
        frames = first * image.frame[:, None] + (1 - first) * frames
        trust = torch.sigmoid(self.trust(rearrange(draft.features, "b f c h w -> b f h w c")))
        trust = self.site("trust", rearrange(trust, "b f h w 1 -> b f h w"))
        valid = repeat(trust, "b f h w -> b f 1 (h p) (w q)", p=p, q=p) * image.present[:, None, None, None, None]
        without = still(image, f)                                       # later stages get no warped reference: there is no motion
        return self._emit(without._replace(frames=frames, valid=first * without.valid + (1 - first) * valid), image)


class NoAlign(Align):
    """Leaves every frame to the UNet."""

    def __init__(self, config: Config) -> None:
        super().__init__()

    def forward(self, image: Image, condition: Condition, draft: Draft, motion: Tensor) -> Aligned:
        """The first frame b 3 h w in every frame, none of it valid after frame 0; of motion (b f m 5) only f counts."""
        return self._emit(still(image, motion.shape[1]), image)
