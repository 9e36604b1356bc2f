"""How close a video stays to the image that it was made from: at its first frame, and frame by frame from there.

The curves and their slope are ours.
"""

from __future__ import annotations

from typing import NamedTuple, cast

from torch import Tensor

from .lpips import Perceptual
from .perceptual import fitted, perceptual_curves
from .quality import psnr_curve, ssim_curve
from .temporal import slope
from .video import check_video


class Adherence(NamedTuple):
    """first `b`: of the first frame; slope `b`: least-squares change per frame; curve `b f`: of every frame.

    A subject that is asked to move leaves the image, so the slope is read beside that of the true clips or of another
    model on the same images; the first frame alone has a best value.
    """

    first: Tensor
    slope: Tensor
    curve: Tensor


def adherence(curve: Tensor) -> Adherence:
    """What a curve `b f` of likeness to the conditioning image says; the slope of a single frame is NaN."""
    return Adherence(curve[:, 0], slope(curve), curve)


def image_psnr(video: Tensor, image: Tensor) -> Adherence:
    """PSNR of the frames to the image, dB, at most 100.

    Args:
        video: `b f c h w` in [0, 1].
        image: `b c h w` in [0, 1], resampled to the video's size when it differs.
    """
    return adherence(psnr_curve(*_against(video, image)))


def image_ssim(video: Tensor, image: Tensor) -> Adherence:
    """SSIM of the frames to the image, at most 1; arguments as `image_psnr`'s, frames of at least 11 x 11."""
    return adherence(ssim_curve(*_against(video, image)))


def image_lpips(video: Tensor, image: Tensor, judge: Perceptual | None = None) -> Adherence:
    """LPIPS of the frames to the image, 0 is identical; arguments as `image_psnr`'s, frames of at least 32 x 32."""
    return adherence(cast("Tensor", perceptual_curves(video, image=image, steps=False, judge=judge).image))


def _against(video: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    video = check_video(video)
    return video, fitted(image, video)[:, None].expand_as(video)
