"""Change over time without weights: flicker and how much moves. A still wins every consistency score, so the second
is always to be read beside the first."""

from __future__ import annotations

from einops import rearrange, reduce
from torch import Tensor

from .flow import farneback
from .video import check_video, resize

MOTION_SIZE = 64  # Farneback at this size costs 4 ms a pair; finer detail does not change a mean magnitude


def flicker(video: Tensor) -> Tensor:
    """Mean absolute change between neighbouring frames, per sample: `b`, 0 for a still (VBench's, as an error).

    Args:
        video: `b f c h w` in [0, 1], f >= 2.
    """
    video = check_video(video, minimum_frames=2)
    return reduce((video[:, 1:] - video[:, :-1]).abs(), "b f c h w -> b", "mean")


def motion_magnitude(video: Tensor, size: int = MOTION_SIZE) -> Tensor:
    """Mean length of the Farneback flow between neighbouring frames, in frame widths per frame.

    Args:
        video: `b f c h w` in [0, 1], f >= 2.
        size: the shorter side is resampled to this many pixels first, when it is longer.

    Returns:
        `b` on the CPU, 0 for a still.
    """
    video = check_video(video, minimum_frames=2).cpu()
    height, width = video.shape[-2:]
    if min(height, width) > size:
        scale = size / min(height, width)
        video = resize(video, (round(height * scale), round(width * scale))).clamp(0, 1)
    now, after = (rearrange(v, "b f c h w -> (b f) c h w") for v in (video[:, :-1], video[:, 1:]))
    length = farneback(now, after).square().sum(1).sqrt() / video.shape[-1]
    return reduce(length, "(b f) h w -> b", "mean", b=len(video))
