"""How alike the frames of a clip are: neighbours, all pairs, and by the time between them (drift)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .frames import FrameNetwork, embed, home
from .guard import Guarded, guarded
from .temporal import slope
from .video import check_video


def lag_curve(features: Tensor) -> Tensor:
    """Mean likeness (cosine) of frames that lie 0, 1, 2 ... f-1 apart.

    Args:
        features: `b f d` of unit length.

    Returns:
        `b f`, 1 at lag 0. The later values are means over few pairs: one at lag f-1.
    """
    frames = features.shape[1]
    like = features @ features.mT  # b f f
    return torch.stack([like.diagonal(lag, 1, 2).mean(-1) for lag in range(frames)], 1)


def first_frame_curve(features: Tensor) -> Tensor:
    """Likeness (cosine) of every frame to the first, `b f`, for features `b f d` of unit length."""
    return (features * features[:, :1]).sum(-1)


def frame_consistency(
    video: Tensor, network: FrameNetwork | None = None, pairs: Literal["all", "neighbours"] = "all"
) -> Guarded:
    """Mean likeness (cosine) of the frames of a clip.

    Args:
        video: `b f c h w` in [0, 1], f >= 2.
        network: usually CLIP; None = the shipped frame trunk.
        pairs: all pairs of different frames (LOVEU-TGVE), or neighbouring frames (as papers on editing have it).

    Returns:
        Score at most 1, which a still has and `Guarded` marks.
    """
    video = check_video(video, minimum_frames=2)
    features = embed(video, network or home(str(video.device)))
    if pairs == "neighbours":
        return guarded((features[:, 1:] * features[:, :-1]).sum(-1).mean(1).cpu(), video)
    if pairs != "all":
        raise ValueError(f"pairs must be all or neighbours, got {pairs!r}")
    frames = video.shape[1]
    total = (features @ features.mT).sum((1, 2)) - features.square().sum((1, 2))
    return guarded((total / (frames * (frames - 1))).cpu(), video)


def lag_drift(video: Tensor, network: FrameNetwork | None = None) -> Guarded:
    """Slope of the likeness over lags 0 to f/2 (each a mean over at least half the frames), per frame of lag.

    Args:
        video: `b f c h w` in [0, 1], f >= 3.
        network: frames -> features; None = the shipped frame trunk.

    Returns:
        Score at most about 0: nearer to 0 drifts less; a still has 0, which `Guarded` marks.
    """
    video = check_video(video, minimum_frames=3)
    curve = lag_curve(embed(video, network or home(str(video.device))))
    return guarded(slope(curve[:, : video.shape[1] // 2 + 1]).cpu(), video)
