"""Classical optical flow without weights, through OpenCV: Farneback (2003) and DIS (Kroeger et al. 2016).

On one thread and so bit-deterministic. A `Flow` is any function of two batches of frames; `raft` has the learned one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .video import luma

# `n c h w` in [0, 1] twice -> `n 2 h w` in pixels, x right, y down: first(x) = second(x + flow(x))
Flow = Callable[[Tensor, Tensor], Tensor]

# the parameters of TecoGAN's metrics.py: pyramid scale, levels, window, iterations, polynomial n and sigma, flags
FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)
LEAST_DIS = 24  # pixels: below it the coarsest level of its pyramid is smaller than a patch


@contextmanager
def one_thread() -> Iterator[None]:
    """OpenCV on one thread within, on as many as before afterwards."""
    import cv2

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def farneback(first: Tensor, second: Tensor) -> Tensor:
    """Flow from `first` to `second` in pixels: `first(x) = second(x + flow(x))`.

    Args:
        first: `n c h w` in [0, 1].
        second: the same shape.

    Returns:
        `n 2 h w` float32 on the CPU: x right, y down.
    """
    import cv2

    made: Any = None  # cv2 makes the field, which its types do not know
    return _pair_by_pair(lambda x, y: cv2.calcOpticalFlowFarneback(x, y, made, *FARNEBACK), first, second)


def dis(first: Tensor, second: Tensor) -> Tensor:
    """Dense inverse search, preset "medium"; arguments and result as `farneback`'s, frames of at least 24 x 24.

    Raises:
        ValueError: smaller frames.
    """
    import cv2

    if min(first.shape[-2:]) < LEAST_DIS:
        raise ValueError(f"dis needs frames of at least {LEAST_DIS} x {LEAST_DIS}, got {tuple(first.shape[-2:])}")
    search: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return _pair_by_pair(lambda x, y: search.calc(x, y, None), first, second)


METHODS: dict[str, Flow] = {"farneback": farneback, "dis": dis}


def _pair_by_pair(estimate: Callable[[np.ndarray, np.ndarray], np.ndarray], first: Tensor, second: Tensor) -> Tensor:
    a, b = (grey8(frames) for frames in (first, second))
    with one_thread():
        fields = [estimate(x, y) for x, y in zip(a, b, strict=True)]
    return torch.from_numpy(np.stack(fields)).permute(0, 3, 1, 2).contiguous()


def grey8(frames: Tensor) -> np.ndarray:
    """8-bit luma (n, h, w) of `n c h w` in [0, 1]."""
    return (luma(frames) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def warp(frames: Tensor, flow: Tensor) -> Tensor:
    """`frames` sampled at x + flow(x), bilinear, the border repeated outside.

    Args:
        frames: `n c h w`.
        flow: `n 2 h w` in pixels.
    """
    height, width = frames.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, dtype=flow.dtype, device=flow.device),
        torch.arange(width, dtype=flow.dtype, device=flow.device),
        indexing="ij",
    )
    across, down = (x + flow[:, 0]) * 2 / max(width - 1, 1) - 1, (y + flow[:, 1]) * 2 / max(height - 1, 1) - 1
    grid = torch.stack([across, down], -1)
    return torch.nn.functional.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=True)


def occluded(forward: Tensor, backward: Tensor) -> Tensor:
    """Where frame t has no partner in frame t+1 (Ruder et al. 2016, constants as used by Lai et al. 2018).

    Args:
        forward: flow t -> t+1, `n 2 h w` in pixels.
        backward: flow t+1 -> t.

    Returns:
        `n h w` bool: forward and backward flow disagree, or the flow has a boundary there.
    """
    back = warp(backward, forward)
    there, here = back.square().sum(1), forward.square().sum(1)
    apart = (back + forward).square().sum(1) > 0.01 * (there + here) + 0.5
    across = torch.nn.functional.pad(forward[..., :, 1:] - forward[..., :, :-1], (0, 1))
    down = torch.nn.functional.pad(forward[..., 1:, :] - forward[..., :-1, :], (0, 0, 0, 1))
    edge = (across.square() + down.square()).sum(1) > 0.01 * here + 0.002
    return apart | edge
