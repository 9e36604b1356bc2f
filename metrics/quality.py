"""Frame quality against a reference: PSNR, SSIM, MS-SSIM, sharpness; one value per sample, and curves over frames.

PSNR is the common definition without a paper, sharpness is ours, the others name theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange, reduce
from torch import Tensor

from .video import check_pair, check_video, luma

WINDOW = 11  # pixels, of ssim
BELL = [math.exp(-((k - WINDOW // 2) ** 2) / (2 * 1.5**2)) for k in range(WINDOW)]
WEIGHTS = [value / sum(BELL) for value in BELL]
LEAST_MS_SSIM = 176  # pixels: four halvings must leave a window and its border
CHUNK = 2**20  # pixels of frames of which the filtered copies (a dozen) are alive at once
CEILING_DB = 100.0  # an exact copy has infinite PSNR; a finite ceiling keeps means and intervals meaningful


def mean_square_to_db(error: Tensor) -> Tensor:
    """PSNR in dB for a mean squared error on [0, 1], at most 100."""
    return (-10 * torch.log10(error.clamp_min(1e-30))).clamp_max(CEILING_DB)


def psnr(video: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each sample, in dB, over all its frames, channels and pixels.

    Args:
        video: `b f c h w` in [0, 1].
        reference: the same shape.

    Returns:
        `b`, at most 100 (identical).
    """
    video, reference = check_pair(video, reference)
    return mean_square_to_db(reduce((video - reference).square(), "b f c h w -> b", "mean"))


def psnr_curve(video: Tensor, reference: Tensor) -> Tensor:
    """PSNR of every frame, `b f` in dB; see `psnr`, which is not the mean of these: it averages errors, not decibels."""
    video, reference = check_pair(video, reference)
    return mean_square_to_db(reduce((video - reference).square(), "b f c h w -> b f", "mean"))


def masked_psnr(video: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """PSNR where the mask is, in dB; NaN for a sample whose mask is empty.

    Args:
        video: `b f c h w` in [0, 1].
        reference: the same shape.
        mask: `b f h w`, weights in [0, 1].

    Raises:
        ValueError: a mask of another shape.
    """
    video, reference = check_pair(video, reference)
    if mask.shape != video[:, :, 0].shape:
        raise ValueError(f"mask must be b f h w = {tuple(video[:, :, 0].shape)}, got {tuple(mask.shape)}")
    error = reduce((video - reference).square(), "b f c h w -> b f h w", "mean")
    weight = mask.to(error)
    total = weight.sum((1, 2, 3))
    value = mean_square_to_db((error * weight).sum((1, 2, 3)) / total.clamp_min(1e-12))
    return torch.where(total > 0, value, torch.nan)


def ssim(video: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13: Gaussian window 11 x 11, sigma 1.5, K 0.01, 0.03), per sample.

    Mean over channels, frames and the pixels whose whole window lies inside the frame, as Wang et al. and scikit-image
    have it (torchmetrics 1.9 also averages the borders, mirrored).

    Args:
        video: `b f c h w` in [0, 1], frames of at least 11 x 11.
        reference: the same shape.

    Returns:
        `b`, at most 1 (identical).
    """
    return ssim_curve(video, reference).mean(1)


def ssim_curve(video: Tensor, reference: Tensor) -> Tensor:
    """`ssim` of every frame, `b f`.

    Raises:
        ValueError: frames below 11 x 11.
    """
    video, reference = check_pair(video, reference)
    if min(video.shape[-2:]) < WINDOW:
        raise ValueError(f"ssim needs frames of at least {WINDOW} x {WINDOW}, got {tuple(video.shape[-2:])}")
    return frame_by_frame(_similarity, video, reference)


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    mean_x, mean_y, xx, yy, xy = (windowed(part) for part in (x, y, x * x, y * y, x * y))
    across, square_x, square_y = mean_x * mean_y, mean_x.square(), mean_y.square()
    spread = (xx - square_x).clamp_min(0) + (yy - square_y).clamp_min(0)
    top = (2 * across + 0.01**2) * (2 * (xy - across) + 0.03**2)
    return (top / ((square_x + square_y + 0.01**2) * (spread + 0.03**2))).mean((1, 2, 3))


def frame_by_frame(score: Callable[..., Tensor], video: Tensor, reference: Tensor) -> Tensor:
    """`score(x, y) -> n` of frames `n c h w`, a few at a time: `b f` for videos `b f c h w`."""
    size = max(1, CHUNK // (video.shape[-2] * video.shape[-1]))
    frames = (rearrange(v, "b f c h w -> (b f) c h w").split(size) for v in (video, reference))
    values = torch.cat([score(x, y) for x, y in zip(*frames, strict=True)])
    return rearrange(values, "(b f) -> b f", b=len(video))


def ms_ssim(video: Tensor, reference: Tensor) -> Tensor:
    """Multi-scale structural similarity (Wang et al. 2003: five scales, exponents .0448 .2856 .3001 .2363 .1333).

    Through torchmetrics, whose negative terms count as 0 (`normalize="relu"`).

    Args:
        video: `b f c h w` in [0, 1], frames of at least 176 x 176.
        reference: the same shape.

    Returns:
        `b` in [0, 1], mean over frames; 1 is identical.
    """
    return ms_ssim_curve(video, reference).mean(1)


def ms_ssim_curve(video: Tensor, reference: Tensor) -> Tensor:
    """`ms_ssim` of every frame, `b f`.

    Raises:
        ValueError: frames below 176 x 176.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    video, reference = check_pair(video, reference)
    if min(video.shape[-2:]) < LEAST_MS_SSIM:
        raise ValueError(
            f"ms_ssim needs frames of at least {LEAST_MS_SSIM} x {LEAST_MS_SSIM}, got {tuple(video.shape[-2:])}; "
            "use ssim for smaller ones"
        )
    score = partial(multiscale_structural_similarity_index_measure, data_range=1.0, reduction="none")
    return frame_by_frame(lambda x, y: score(x, y).reshape(-1), video, reference)


def windowed(image: Tensor) -> Tensor:
    """Gaussian means over 11 x 11 windows, those fully inside: `... h w` -> `... h-10 w-10`.

    A sum of shifted views along each axis: of large frames faster than a convolution of one channel or banded matrices.
    """
    for axis in (-1, -2):
        inside = image.shape[axis] - WINDOW + 1
        mean = image.narrow(axis, 0, inside) * WEIGHTS[0]
        for k in range(1, WINDOW):
            mean.add_(image.narrow(axis, k, inside), alpha=WEIGHTS[k])
        image = mean
    return image


def gradient_energy(video: Tensor) -> Tensor:
    """Mean |grad luma|^2 (forward differences) of each sample: `b`, for `b f c h w`."""
    grey = luma(check_video(video))
    across = (grey[..., :, 1:] - grey[..., :, :-1]).square().mean((1, 2, 3))
    down = (grey[..., 1:, :] - grey[..., :-1, :]).square().mean((1, 2, 3))
    return across + down


def sharpness(video: Tensor, reference: Tensor) -> Tensor:
    """Gradient energy relative to the reference's: 1 as sharp as it, below 1 blurred, above 1 noisy or over-sharp.

    Args:
        video: `b f c h w` in [0, 1].
        reference: of any frame count and size equal to the video's; a constant reference gives NaN.
    """
    video, reference = check_pair(video, reference)
    truth = gradient_energy(reference)
    return torch.where(truth > 1e-10, gradient_energy(video) / truth.clamp_min(1e-10), torch.nan)
