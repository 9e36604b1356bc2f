"""Motion smoothness (VBench): how well every second frame is foretold by its two neighbours.

VBench asks the AMT network for the frame in between. Any function `(a, b) -> middle` can be asked here; without one it
is the frame halfway along the flow, and the name of the number says so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from . import torchscript
from .flow import Flow, farneback, warp
from .guard import Guarded, guarded
from .video import check_video

HALFWAY = "farneback-halfway"  # what stands in the brackets of a number whose frames in between lie along the flow
Interpolator = Callable[[Tensor, Tensor], Tensor]  # `n c h w` in [0, 1] twice -> the frame in between, the same shape


def halfway(a: Tensor, b: Tensor, flow: Flow = farneback) -> Tensor:
    """The frame between a and b (n c h w), both carried halfway along the flow (Jiang et al. 2018, eq. 4 at t = 1/2), averaged."""
    quarter = (flow(a, b) - flow(b, a)).to(a) / 4
    return (warp(a, -quarter) + warp(b, quarter)) / 2


def compiled(given: str | Path, device: str | torch.device = "cpu") -> Interpolator:
    """A frame interpolation network, such as AMT-S, that was exported as TorchScript: `module(a, b) -> middle`.

    AMT's own code is needed to export it (its forward also takes the time, 0.5); it is not rebuilt here.

    Args:
        given: `PATH@SHA256`; the file is a program and is opened under its hash only.
        device: where it goes.

    Raises:
        WeightsError: no hash, no file, or a file with another hash.
    """
    module = torchscript.opened(given, "amt").to(device)
    return lambda a, b: module(a.to(device), b.to(device)).to(a)


def motion_smoothness(video: Tensor, interpolator: Interpolator | None = None) -> Guarded:
    """1 - mean difference of the odd frames to what their neighbours foretell, on 8-bit frames; 1 is perfectly smooth.

    Args:
        video: `b f c h w` in [0, 1], f >= 3; of an even number the last frame has no partner and is left out.
        interpolator: gives the frame in between; None = `halfway` along Farneback flow.
    """
    return guarded(1 - interpolation_curve(video, interpolator).mean(1), video)


@torch.no_grad()
def interpolation_curve(video: Tensor, interpolator: Interpolator | None = None) -> Tensor:
    """Mean absolute difference of frames 1, 3, 5 ... to the interpolated ones, `b (f-1)//2` in [0, 1].

    Raises:
        ValueError: the interpolator gives another shape or values that are not finite.
    """
    video = check_video(video, minimum_frames=3)
    between = interpolator or partial(halfway, flow=farneback)
    errors = []
    for t in range(1, video.shape[1] - 1, 2):
        middle = between(video[:, t - 1], video[:, t + 1])
        if middle.shape != video[:, t].shape or not torch.isfinite(middle).all():
            raise ValueError(f"the interpolator gave {tuple(middle.shape)}, NaN or infinity; wanted {tuple(video[:, t].shape)}")
        errors.append((eight_bit(middle) - eight_bit(video[:, t])).abs().mean((1, 2, 3)))
    return torch.stack(errors, 1)


def eight_bit(frames: Tensor) -> Tensor:
    """Values in [0, 1] rounded to those of 8-bit frames."""
    return (frames.clamp(0, 1) * 255).round() / 255
