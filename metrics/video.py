"""What every metric asks of a video before it trusts a number computed from it.

Axis letters: `b` sample, `f` frame, `c` channel, `h w` space. A video is `b f c h w`, floating, in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

SLACK = 1e-4  # rounding that a decoder or a resampling kernel may leave outside [0, 1]


def check_video(video: Tensor, name: str = "video", minimum_frames: int = 1) -> Tensor:
    """The video as float32, after checking that it is one.

    Args:
        video: `b f c h w` with c = 3, floating point, values in [0, 1].
        name: what to call it in an error.
        minimum_frames: fewest frames that the caller can use.

    Raises:
        TypeError: not a tensor, or not floating (uint8 frames must be divided by 255 first).
        ValueError: wrong shape, too few frames, NaN or infinite values, or values outside [0, 1].
    """
    if not isinstance(video, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(video).__name__}")
    if not video.is_floating_point():
        raise TypeError(f"{name} must be floating point in [0, 1], got {video.dtype}; divide 8-bit frames by 255")
    if video.ndim != 5 or video.shape[2] != 3:
        raise ValueError(f"{name} must be b f c h w with c = 3, got shape {tuple(video.shape)}")
    if 0 in video.shape:
        raise ValueError(f"{name} is empty: shape {tuple(video.shape)}")
    if video.shape[1] < minimum_frames:
        raise ValueError(f"{name} has {video.shape[1]} frame(s); this metric needs at least {minimum_frames}")
    low, high = (float(v) for v in torch.aminmax(video))
    if not (low == low and high == high) or abs(low) == float("inf") or abs(high) == float("inf"):
        rows = (~torch.isfinite(video)).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(f"{name} holds NaN or infinite values in sample(s) {rows[:8]}")
    if low < -SLACK or high > 1 + SLACK:
        raise ValueError(f"{name} must lie in [0, 1], got [{low:.4g}, {high:.4g}]")
    return video.float().clamp(0, 1)


def check_pair(video: Tensor, reference: Tensor, minimum_frames: int = 1) -> tuple[Tensor, Tensor]:
    """Both videos checked (see `check_video`), and of one shape.

    Raises:
        ValueError: the shapes differ; the message names both.
    """
    video = check_video(video, "video", minimum_frames)
    reference = check_video(reference, "reference", minimum_frames)
    if video.shape != reference.shape:
        raise ValueError(f"video {tuple(video.shape)} and reference {tuple(reference.shape)} differ in shape")
    return video, reference


def luma(video: Tensor) -> Tensor:
    """BT.601 luma of `... c h w`, as `... h w` in [0, 1] (the grey that OpenCV's RGB2GRAY computes)."""
    red, green, blue = video.unbind(-3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def resize(video: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Every frame resampled to `size` (h, w), bilinear and antialiased; `b f c h w` in and out."""
    height, width = (size, size) if isinstance(size, int) else size
    if tuple(video.shape[-2:]) == (height, width):
        return video
    frames = torch.nn.functional.interpolate(
        video.flatten(0, 1), (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return frames.unflatten(0, video.shape[:2])
