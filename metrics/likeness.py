"""How alike the frames of a clip are: neighbours, all pairs, to the first, to an image, and by the time between them (drift).

All from one embedding of the frames: `likeness(features)` has the scores, `frame_scores(video, network)` ties them to motion.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .frames import FrameNetwork, embed, home
from .guard import Guarded, guarded
from .temporal import slope
from .video import check_video

I2V = (0.4, 0.3, 0.3)  # VBench-I2V: greatest likeness to the image, mean and least likeness of neighbours


def neighbours(features: Tensor) -> Tensor:
    """Likeness (cosine) of each frame to the next, `b f-1`, for features `b f d` of unit length."""
    return (features[:, 1:] * features[:, :-1]).sum(-1)


def to_first(features: Tensor) -> Tensor:
    """Likeness of every frame to the first, `b f`, for features `b f d` of unit length."""
    return (features * features[:, :1]).sum(-1)


def all_pairs(features: Tensor) -> Tensor:
    """Mean likeness of all pairs of different frames, `b`, for features `b f d` of unit length (LOVEU-TGVE)."""
    frames = features.shape[1]
    total = (features @ features.mT).sum((1, 2)) - features.square().sum((1, 2))
    return total / (frames * (frames - 1))


def consistency_curve(features: Tensor) -> Tensor:
    """VBench: mean of the likeness to the frame before and to the first, negative ones as 0; `b f-1`."""
    return (neighbours(features).clamp_min(0) + to_first(features)[:, 1:].clamp_min(0)) / 2


def lag_curve(features: Tensor) -> Tensor:
    """Mean likeness of frames that lie 0, 1, 2 ... f-1 apart.

    Args:
        features: `b f d` of unit length.

    Returns:
        `b f`, 1 at lag 0. The later values are means over few pairs: one at lag f-1.
    """
    like = features @ features.mT  # b f f
    return torch.stack([like.diagonal(lag, 1, 2).mean(-1) for lag in range(features.shape[1])], 1)


def drift(features: Tensor) -> Tensor:
    """Slope of the likeness over lags 0 to f/2 (each a mean over at least half the frames), per frame of lag: `b`."""
    return slope(lag_curve(features)[:, : features.shape[1] // 2 + 1])


def image_curve(features: Tensor, asked: Tensor) -> Tensor:
    """Likeness of every frame to an image `b 1 d`, negative ones as 0: `b f`."""
    return (features * asked).sum(-1).clamp_min(0)


def i2v(features: Tensor, asked: Tensor) -> Tensor:
    """VBench-I2V: 0.4 greatest likeness to the image + 0.3 mean + 0.3 least likeness of neighbours, negative ones as 0: `b`."""
    like, steps = image_curve(features, asked), neighbours(features).clamp_min(0)
    terms = torch.stack([like.amax(1), steps.mean(1), steps.amin(1)], -1)
    return terms @ terms.new_tensor(I2V)


class FrameScores(NamedTuple):
    """What one embedding of a clip's frames says, each `b`, and beside it how much the clip moves.

    consistency: VBench's (subject on DINO, background on CLIP); all_pairs: TGVE's; neighbours: mean over neighbouring frames;
    drift: see `drift`, 0 where nothing drifts; i2v: VBench-I2V's, None without an image.
    """

    consistency: Guarded
    all_pairs: Guarded
    neighbours: Guarded
    drift: Guarded
    i2v: Guarded | None


def frame_scores(video: Tensor, network: FrameNetwork | None = None, image: Tensor | None = None) -> FrameScores:
    """All scores of likeness; every frame is embedded once and its motion estimated once.

    Args:
        video: `b f c h w` in [0, 1], f >= 2.
        network: `dino()`, `clip().frames` or any `FrameNetwork`; None = the shipped frame trunk.
        image: `b c h w` in [0, 1], of any size: what the videos were made from. VBench-I2V embeds it with `dino(crop=True)`.

    Raises:
        ValueError: another number of images than of videos, frames too small for the network, or not a video.
    """
    video = check_video(video, minimum_frames=2)
    network = network or home(str(video.device))
    features = embed(video, network).cpu()
    found = guarded(consistency_curve(features).mean(1), video)
    i2v_found = None
    if image is not None:
        image = check_video(image[:, None], "image")
        if len(image) != len(video):
            raise ValueError(f"{len(video)} videos but {len(image)} images")
        i2v_found = found._replace(score=i2v(features, embed(image, network).cpu()))
    return FrameScores(
        found,
        found._replace(score=all_pairs(features)),
        found._replace(score=neighbours(features).mean(1)),
        found._replace(score=drift(features)),
        i2v_found,
    )
