"""Examples for the super-resolution cascade: true clips, degraded as the diffusion base degrades them.

What the cascade meets is a base video that is slightly soft and noisy, layers that are a little off, and masks that
were found at 32x32. All that is imitated here, at random strength, so that the cascade learns how far to trust which.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from wanlab.data.clip import Clips
from wanlab.nn.layers import compose
from wanlab.training import machine

BASE = 32  # the side of the tiny preset's base video, and of the masks that its align stage finds
SHAKE = (0.003, 0.003, 0.008, 0.01, 0.0)  # standard deviation of errors in dx, dy, log_scale, angle, depth


class Source(Protocol):
    """A pool of clips, or anything that gives clips by row."""

    def __len__(self) -> int: ...

    def batch(self, indices: list[int]) -> Clips:
        """These rows, stacked."""


@dataclass(frozen=True)
class Example:
    """One batch for one level; all but valid in [-1, 1].

    video b f 3 h w, reference b f 3 2h 2w, valid b f 1 2h 2w, target b f 3 2h 2w.
    """

    video: Tensor
    reference: Tensor
    valid: Tensor
    target: Tensor

    def map(self, change) -> Example:  # type: ignore[no-untyped-def]
        """The same change for all four."""
        return Example(*(change(x) for x in (self.video, self.reference, self.valid, self.target)))


@dataclass(frozen=True)
class Truth:
    """A window of frames of true clips: video b f 3 H W, first b 3 H W (frame 0) and its masks b m H W, motion b f m 5.

    Of real clips masks and motion are not known (None): the first frame then guides frame 0 alone.

    opening     whether the window starts at frame 0
    base        the side of the base video
    """

    video: Tensor
    first: Tensor
    masks: Tensor | None
    motion: Tensor | None
    opening: bool
    base: int = BASE


def window(clips: Clips, start: int, frames: int, base: int = BASE) -> Truth:
    """`frames` consecutive frames from `start` on; `base`: the side of the base video."""
    inside = slice(start, start + frames)
    known = clips.motion is not None
    masks, motion = (clips.first_masks, clips.motion[:, inside]) if known else (None, None)  # type: ignore[index]
    return Truth(clips.video[:, inside], clips.first, masks, motion, start == 0, base)


def reduce(video: Tensor, size: int) -> Tensor:
    """Area average of ... h w to size x size."""
    factor = video.shape[-1] // size
    if factor == 1:
        return video
    lead = video.shape[:-3]
    return F.avg_pool2d(video.reshape(-1, *video.shape[-3:]), factor).reshape(*lead, video.shape[-3], size, size)


def through_base(masks: Tensor | None, size: int, power: float = 1.0, base: int = BASE) -> Tensor | None:
    """Masks b m H W as they come out of the align stage: averaged to `base`, sharpened or softened, enlarged to `size`
    bilinearly; None stays None.
    """
    if masks is None:
        return None
    small = reduce(masks, base).clamp(min=1e-4) ** power
    large = F.interpolate(small / small.sum(1, keepdim=True), (size, size), mode="bilinear", align_corners=False)
    return large / large.sum(1, keepdim=True)


def carried(truth: Truth, masks: Tensor | None, motion: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
    """The first frame at `size` in every frame of the window, and what of it is valid: b f 3 size size, b f 1 size
    size.
    """
    frame = reduce(truth.first, size)
    if masks is None or motion is None:
        valid = frame.new_zeros(len(frame), truth.video.shape[1], 1, size, size)
        valid[:, 0] = float(truth.opening)
        return torch.where(valid > 0, frame[:, None], 0.5), valid
    if truth.opening:
        composite = compose(frame, masks, motion)
        return composite.aligned, composite.valid
    composite = compose(frame, masks, torch.cat([torch.zeros_like(motion[:, :1]), motion], 1))
    return composite.aligned[:, 1:], composite.valid[:, 1:]


def clean(truth: Truth, size: int) -> Example:
    """The undegraded example whose target is size x size: only the masks have gone through the base."""
    masks = through_base(truth.masks, size, base=truth.base)
    reference, valid = carried(truth, masks, truth.motion, size)
    return _ranged(Example(reduce(truth.video, size // 2), reference, valid, reduce(truth.video, size)))


def degrade(truth: Truth, size: int, generator: torch.Generator, below: Iterable[nn.Module] = ()) -> Example:
    """A degraded example whose target is size x size. `below`: the trained levels that make its input, one after the other, from
    a video that is so many times half as large.
    """
    below = list(below)
    example = _input(truth, size >> len(below), generator)
    for level in below:
        upper = _input(truth, 2 * example.target.shape[-1], generator, like=example)
        example = replace(upper, video=enlarged(level, example))
    return example


@torch.no_grad()
def enlarged(level: nn.Module, example: Example) -> Tensor:
    """What a trained level makes of an example, on the present machine; on the CPU: b f 3 2h 2w."""
    device = machine.present().device
    return level(*(x.to(device) for x in (example.video, example.reference, example.valid))).cpu()


def _input(truth: Truth, size: int, generator: torch.Generator, like: Example | None = None) -> Example:
    """Degraded input; `like` an example of the same clips at half the size whose dropped references are dropped here
    too.
    """
    chance = torch.rand(8, generator=generator).tolist()
    power = 1.0 if chance[0] < 0.4 else 0.6 + 1.6 * chance[1]
    fine = chance[2] < 0.2 and truth.masks is not None
    masks = reduce(truth.masks, size) if fine else through_base(truth.masks, size, power, truth.base)
    motion = None if truth.motion is None else shake(truth.motion, truth.opening, generator)
    reference, valid = carried(truth, masks, motion, size)
    small = size // 2
    video = reduce(truth.video, small)
    if chance[3] < 0.5 and like is None and motion is not None:
        # What the base itself can do: the first frame, warped at its own size.
        warped, _ = carried(truth, through_base(truth.masks, small, power, truth.base), truth.motion, small)
        video = video + chance[4] * (warped - video)
    video = soften(video, generator)
    noise = 0.06 * chance[5] * repeat(torch.rand(len(video), generator=generator), "b -> b 1 1 1 1")
    video = video + noise * torch.randn(video.shape, generator=generator)
    example = _ranged(Example(video, reference, valid, reduce(truth.video, size)))
    return _drop(example, truth.opening, generator) if like is None else _dropped_like(example, like)


def shake(motion: Tensor, opening: bool, generator: torch.Generator) -> Tensor:
    """Motion b f m 5 with errors: one offset per clip and layer, and smaller ones per frame; none in frame 0."""
    b, f, m, _ = motion.shape
    strength = torch.rand(b, 1, 1, 1, generator=generator).square()
    error = torch.randn(b, 1, m, 5, generator=generator) + 0.5 * torch.randn(b, f, m, 5, generator=generator)
    error = strength * error * torch.tensor(SHAKE)
    if opening:
        error[:, 0] = 0
    return motion + error


def soften(video: Tensor, generator: torch.Generator) -> Tensor:
    """Blend each clip with its 3x3 binomial blur by a random share; half of the clips stay as they are."""
    share = (2 * torch.rand(len(video), generator=generator) - 1).clamp(min=0)
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = repeat(torch.outer(line, line), "h w -> c 1 h w", c=3)
    frames = F.pad(rearrange(video, "b f c h w -> (b f) c h w"), (1, 1, 1, 1), mode="replicate")
    blurred = rearrange(F.conv2d(frames, kernel, groups=3), "(b f) c h w -> b f c h w", b=len(video))
    return torch.lerp(video, blurred, rearrange(share, "b -> b 1 1 1 1"))


def _drop(example: Example, opening: bool, generator: torch.Generator) -> Example:
    """In a tenth of the clips there is no image, in another tenth it is known in frame 0 alone: grey there, and
    nothing valid.
    """
    chance = rearrange(torch.rand(len(example.video), generator=generator), "b -> b 1 1 1 1")
    later = torch.ones(1, example.video.shape[1], 1, 1, 1, dtype=torch.bool)
    later[:, 0] = not opening
    unknown = (chance < 0.1) | ((chance < 0.2) & later)
    return replace(
        example, valid=example.valid.masked_fill(unknown, 0), reference=example.reference.masked_fill(unknown, 0)
    )


def _dropped_like(example: Example, like: Example) -> Example:
    """Drop the references, frame by frame, that are dropped in `like`."""
    unknown = like.reference.abs().amax((2, 3, 4), keepdim=True) == 0
    return replace(
        example, valid=example.valid.masked_fill(unknown, 0), reference=example.reference.masked_fill(unknown, 0)
    )


def _ranged(example: Example) -> Example:
    """Pictures from [0, 1] to [-1, 1]."""
    up = [2 * x - 1 for x in (example.video, example.reference, example.target)]
    return Example(up[0], up[1], example.valid, up[2])


def crop(example: Example, side: int, generator: torch.Generator) -> Example:
    """The same random square of each, `side` pixels of the small video; the whole where it is no larger."""
    h, w = example.video.shape[-2:]
    if side >= min(h, w):
        return example
    top, left = (int(torch.randint(0, n - side + 1, (), generator=generator)) for n in (h, w))

    def cut(x: Tensor) -> Tensor:
        factor = x.shape[-1] // w
        return x[..., factor * top : factor * (top + side), factor * left : factor * (left + side)]

    return example.map(cut)
