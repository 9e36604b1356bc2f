"""Change over time without weights: flicker and how much moves. A still wins every consistency score, so the second
is always to be read beside the first; `guard` ties the two together. How much moves is ours, over the flow of Farneback 2003."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor

from .flow import Flow, farneback
from .video import check_video, resize

MOTION_SIZE = 64  # Farneback at this size costs 4 ms a pair; finer detail does not change a mean magnitude
TOP = 0.05  # share of the fastest pixels that VBench looks at


class Motion(NamedTuple):
    """How far pixels move from frame to frame, in frame widths, `b f-1`: mean over all, and over the fastest 5 %."""

    mean: Tensor
    fastest: Tensor


def flicker(video: Tensor) -> Tensor:
    """Mean absolute change between neighbouring frames, per sample: `b`, 0 for a still (VBench's, as an error).

    Args:
        video: `b f c h w` in [0, 1], f >= 2.
    """
    return flicker_curve(video).mean(1)


def flicker_curve(video: Tensor) -> Tensor:
    """`flicker` of every step from one frame to the next, `b f-1`."""
    video = check_video(video, minimum_frames=2)
    return torch.stack([(b - a).abs().mean((1, 2, 3)) for a, b in zip(video.unbind(1), video[:, 1:].unbind(1))], 1)


def motion_magnitude(video: Tensor, size: int = MOTION_SIZE) -> Tensor:
    """Mean length of the Farneback flow between neighbouring frames, in frame widths per frame.

    Args:
        video: `b f c h w` in [0, 1], f >= 2.
        size: the shorter side is resampled to this many pixels first, when it is longer.

    Returns:
        `b` on the CPU, 0 for a still.
    """
    return motion_curves(video, size).mean.mean(1)


def motion_curves(video: Tensor, size: int = MOTION_SIZE, flow: Flow = farneback) -> Motion:
    """The motion of every step from one frame to the next; arguments as `motion_magnitude`'s."""
    video = check_video(video, minimum_frames=2).cpu()
    height, width = video.shape[-2:]
    if min(height, width) > size:
        scale = size / min(height, width)
        video = resize(video, (round(height * scale), round(width * scale))).clamp(0, 1)
    now, after = (rearrange(v, "b f c h w -> (b f) c h w") for v in (video[:, :-1], video[:, 1:]))
    length = flow(now, after).square().sum(1).sqrt() / video.shape[-1]
    length[(now == after).flatten(1).all(1)] = 0  # of equal frames Farneback gives up to 0.0014, as much as a slow clip's
    return Motion(
        *(rearrange(part, "(b f) -> b f", b=len(video)) for part in (reduce(length, "n h w -> n", "mean"), fastest(length)))
    )


def fastest(length: Tensor) -> Tensor:
    """Mean of the largest 5 % (at least one pixel) of lengths `n h w`: `n`."""
    flat = rearrange(length, "n h w -> n (h w)")
    return flat.topk(max(1, int(TOP * flat.shape[1])), 1).values.mean(1)


def slope(curve: Tensor) -> Tensor:
    """Least-squares slope of `b n` over its last axis, per position: `b`; NaN where fewer than two values are finite."""
    n = curve.shape[1]
    at = torch.arange(n, dtype=torch.float64, device=curve.device).expand(curve.shape)
    known, values = curve.isfinite(), curve.double()
    count = known.sum(1, keepdim=True)
    values = torch.where(known, values, 0.0)
    mean_at, mean = ((known * part).sum(1, keepdim=True) / count for part in (at, values))
    centred = torch.where(known, at - mean_at, 0.0)
    result = (centred * (values - mean)).sum(1) / centred.square().sum(1)
    return torch.where(count[:, 0] >= 2, result, torch.nan).to(curve.dtype)
