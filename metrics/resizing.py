"""How frames reach the size that a network wants: kernel and shape, each reproduced as the field's programs have it.

At 480 or 720 lines the kernel is of first order: on smooth images with noise, 720 -> 224 with and without antialiasing
differ by 7 grey levels of 255 in the mean, and TensorFlow 1's bilinear kernel from torch's by 18.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Kernel = Literal["bilinear", "antialias", "bicubic", "tf1"]
Shape = Literal["squash", "crop"]


@dataclass(frozen=True)
class Resize:
    """One resampling of frames.

    kernel   "bilinear": torch's, half-pixel centres, no antialiasing; "antialias": the same with antialiasing;
             "bicubic": torch's, with antialiasing; "tf1": TensorFlow 1's `resize_bilinear`, no half-pixel centres
    shape    "squash": to size, whatever the aspect; "crop": the shorter side to size, the longer to the next whole
             pixel above its share, then the centre square
    size     (h, w) of the result; a crop's is square
    inner    of the result, the centre of this (h, w) is kept, its margins rounded as torchvision rounds them
    """

    kernel: Kernel
    shape: Shape
    size: tuple[int, int]
    inner: tuple[int, int] | None = None

    def __call__(self, frames: Tensor) -> Tensor:
        """`n c h w` at any size -> `n c *size`, or `n c *inner`; values are those of the kernel, unclipped."""
        resized = self._resized(frames)
        if self.inner is None:
            return resized
        top, left = (round((old - new) / 2) for old, new in zip(self.size, self.inner, strict=True))
        return resized[..., top : top + self.inner[0], left : left + self.inner[1]]

    def _resized(self, frames: Tensor) -> Tensor:
        if self.shape == "squash":
            return resample(frames, self.size, self.kernel)
        side, (height, width) = self.size[0], frames.shape[-2:]
        scale = side / min(height, width)
        if height < width:
            target = (side, math.ceil(width * scale))
        else:
            target = (math.ceil(height * scale), side)
        return centre(resample(frames, target, self.kernel), self.size)


def resample(frames: Tensor, size: tuple[int, int], kernel: Kernel) -> Tensor:
    """`n c h w` -> `n c *size` with one kernel; frames that have the size already are returned as they are."""
    if tuple(frames.shape[-2:]) == size:
        return frames
    if kernel == "tf1":
        return _tf1(_tf1(frames, size[0], -2), size[1], -1)
    mode = "bicubic" if kernel == "bicubic" else "bilinear"
    return functional.interpolate(frames, size, mode=mode, align_corners=False, antialias=kernel != "bilinear")


def centre(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """The central part of `... h w`; where the margins are odd, the smaller one is above and to the left.

    Raises:
        ValueError: the frames are smaller than the part.
    """
    (height, width), (rows, columns) = frames.shape[-2:], size
    if height < rows or width < columns:
        raise ValueError(f"frames of {height} x {width} hold no centre of {rows} x {columns}")
    top, left = (height - rows) // 2, (width - columns) // 2
    return frames[..., top : top + rows, left : left + columns]


def _tf1(frames: Tensor, length: int, axis: int) -> Tensor:
    """One axis by TensorFlow 1's kernel: output i looks at i * in / out, between its floor and the next pixel."""
    old = frames.shape[axis]
    at = torch.arange(length, dtype=torch.float32, device=frames.device) * (old / length)
    low = at.floor().long().clamp_max(old - 1)
    high = (low + 1).clamp_max(old - 1)
    share = (at - low).to(frames)
    shape = [1] * frames.ndim
    shape[axis] = length
    first, second = frames.index_select(axis, low), frames.index_select(axis, high)
    return first + (second - first) * share.view(shape)
