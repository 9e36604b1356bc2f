"""The two terms that an adversarially trained video system learns from, as numbers of any video.

    L_content = || VGG(x) - VGG(y) ||_2         L_GAN = -E[log D(x)]

Both are what a system may have been trained to please, so they say how far a training came, not how good a video is.
The formulas are the article's; that L_content is relative to the norm of the reference is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from .video import check_pair

Taps = Callable[[Tensor], Sequence[Tensor]]


def content_loss(video: Tensor, reference: Tensor, network: Taps) -> Tensor:
    """L_content of each sample: at each tap the distance in units of the reference's norm, mean over the taps.

    Args:
        video, reference: `b f c h w` in [0, 1].
        network: frames `n c h w` in [0, 1] -> activations, each `n ...`.

    Returns:
        `b`, 0 for equal clips. A sample's number does not depend on the others.
    """
    video, reference = check_pair(video, reference)
    frames = len(video[0])
    given, wanted = (network(rearrange(x, "b f c h w -> (b f) c h w")) for x in (video, reference))
    terms = [_per_sample(x - y, frames, 1e-12) / _per_sample(y, frames, 1e-6) for x, y in zip(given, wanted, strict=True)]
    return torch.stack(terms).mean(0)


def _per_sample(x: Tensor, frames: int, least: float) -> Tensor:
    """Root mean square of each sample: `(b f) ...` -> `b`."""
    return x.reshape(len(x) // frames, -1).square().mean(1).add(least).sqrt()


def gan_loss(realness: Tensor) -> Tensor:
    """L_GAN of each sample, -E[log D] with D the sigmoid of the logit (Goodfellow et al. 2014, non-saturating).

    Args:
        realness: logits `b f h w`, one for each patch of each frame; positive where it is taken for real.

    Returns:
        `b`; log 2 = 0.693 where the discriminator cannot tell, 0 where it is certain that all is real.
    """
    return functional.softplus(-realness).flatten(1).mean(1)


def realness(logits: Tensor) -> Tensor:
    """The discriminator's logit of each sample, the mean over patches and frames.

    Args:
        logits: `b f h w`, one for each patch of each frame; positive where it is taken for real.

    Returns:
        `b`.
    """
    return logits.flatten(1).mean(1)
