"""Temporal coherence against a reference as TecoGAN measures it (Chu et al. 2020): tOF on flow (tLP stands in `perceptual`).

Its constants: two frames at either end are left out, and of every frame the middle box counts, whose sides are
multiples of 32 and leave at least 16 pixels.
"""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor

from .flow import Flow, farneback
from .video import check_pair

CUT = 2  # frames at either end
GRID, MARGIN = 32, 16  # pixels


def box(height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns that count.

    Raises:
        ValueError: a side below 48 pixels leaves nothing.
    """
    sides = [(n - MARGIN) // GRID * GRID for n in (height, width)]
    if min(sides) < GRID:
        raise ValueError(f"TecoGAN's box needs frames of at least 48 x 48, got {height} x {width}; use crop=False")
    starts = [(n - side) // 2 for n, side in zip((height, width), sides, strict=True)]
    return slice(starts[0], starts[0] + sides[0]), slice(starts[1], starts[1] + sides[1])


def inner(curve: Tensor, cut: int = CUT) -> Tensor:
    """Mean `b` of a curve over steps `b f-1` without those that touch the first or last `cut` frames.

    Raises:
        ValueError: the clip is too short to leave a step.
    """
    frames = curve.shape[1] + 1
    if frames < 2 * cut + 2:
        raise ValueError(f"{frames} frame(s): leaving out {cut} at either end needs at least {2 * cut + 2}; use cut=0")
    return curve[:, cut : curve.shape[1] - cut].mean(1)


def tof(video: Tensor, reference: Tensor, flow: Flow = farneback, cut: int = CUT, crop: bool = True) -> Tensor:
    """tOF: length of the difference between the flows of both clips, mean over pixels and steps, in pixels.

    Args:
        video: `b f c h w` in [0, 1], f >= 6.
        reference: the same shape.
        flow: the paper's is Farneback on 8-bit grey.
        cut: frames left out at either end.
        crop: only the paper's middle box counts (frames of at least 48 x 48).

    Returns:
        `b`, 0 for the same motion. A still has the reference's own motion as its error.
    """
    return inner(tof_curve(video, reference, flow, crop), cut)


def tof_curve(video: Tensor, reference: Tensor, flow: Flow = farneback, crop: bool = True) -> Tensor:
    """`tof` of every step from one frame to the next, the ends included, `b f-1`."""
    video, reference = check_pair(video, reference, minimum_frames=2)
    rows, columns = box(*video.shape[-2:]) if crop else (slice(None), slice(None))
    steps = []
    for t in range(video.shape[1] - 1):
        found, true = (flow(clip[:, t], clip[:, t + 1])[..., rows, columns] for clip in (video, reference))
        steps.append(reduce((found - true).square().sum(1).sqrt(), "b h w -> b", "mean"))
    return rearrange(torch.stack(steps), "f b -> b f")
