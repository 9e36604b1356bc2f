"""VBench's weight-free and feature-based scores (Huang et al. 2024), one value per video, with its constants.

A data set's score is the mean over videos, each counting once. (VBench's own subject consistency averages frames in one
process and videos in several, so that its number depends on how many GPUs there are.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .flow import Flow, farneback
from .frames import FrameNetwork
from .guard import Guarded, guarded
from .likeness import frame_scores
from .smoothness import eight_bit
from .temporal import fastest, flicker_curve
from .video import check_video

# What VBench maps to 0 and 1 before it adds scores up.
RANGES = {
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975),
    "dynamic_degree": (0.0, 1.0),
}
RATE = 8.0  # frames per second at which dynamic degree looks
SPEED = 6.0 / 256  # of the shorter side: what the fastest 5 % must exceed for a step to count as moving


def normalised(name: str, value: Tensor | float) -> Tensor | float:
    """A score on VBench's common scale: (value - low) / (high - low); `b` or a number.

    Raises:
        KeyError: a score for which VBench has no range; the message lists those it has.
    """
    if name not in RANGES:
        raise KeyError(f"VBench has no range for {name!r}; it has {', '.join(RANGES)}")
    low, high = RANGES[name]
    return (value - low) / (high - low)


def consistency(video: Tensor, network: FrameNetwork | None = None) -> Guarded:
    """Subject consistency when the network is `dino()`, background consistency when it is `clip().frames`.

    One of the scores of `likeness.frame_scores`, which has the others for the same cost.

    Args:
        video: `b f c h w` in [0, 1], f >= 2.
        network: frames -> features; None = the shipped frame trunk.

    Returns:
        Score in [0, 1], 1 for a still, which `Guarded` marks.
    """
    return frame_scores(video, network).consistency


def temporal_flickering(video: Tensor) -> Guarded:
    """(255 - mean |I_t - I_{t+1}|) / 255 on 8-bit frames, `b f c h w` in [0, 1], f >= 2; 1 for a still.

    VBench looks only at videos that its static filter lets through, where nothing but flicker moves.
    """
    video = check_video(video, minimum_frames=2)
    return guarded(1 - flicker_curve(eight_bit(video)).mean(1).cpu(), video)


def step_speeds(video: Tensor, flow: Flow = farneback, fps: float = RATE) -> Tensor:
    """Flow of the fastest 5 % in each step at about 8 frames per second, in shares of the shorter side: `b n-1`.

    Args:
        video: `b f c h w` in [0, 1].
        flow: VBench's is RAFT trained on FlyingThings, 20 updates: `raft("raft_things", updates=20)`.
        fps: of the video; every round(fps / 8)-th frame is looked at.

    Raises:
        ValueError: fps is not positive, or fewer than two frames are left.
    """
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    video = check_video(video)[:, :: max(1, round(fps / RATE))]
    if video.shape[1] < 2:
        raise ValueError(f"dynamic degree needs at least 2 frames at {RATE:g} per second, got {video.shape[1]}")
    short = min(video.shape[-2:])
    pairs = zip(video.unbind(1), video[:, 1:].unbind(1))
    return torch.stack([fastest(flow(a, b).square().sum(1).sqrt()) / short for a, b in pairs], 1)


def dynamic_degree(video: Tensor, flow: Flow = farneback, fps: float = RATE) -> Tensor:
    """Whether a video moves: 1 where round(n / 4) of its n frames move fast enough, else 0; arguments as `step_speeds`'.

    At n = 2 VBench asks for no moving step at all and calls every video dynamic; here at least one step has to move.
    """
    speeds = step_speeds(video, flow, fps)
    wanted = max(1, round(4 * (speeds.shape[1] + 1) / 16))
    return ((speeds > SPEED).sum(1) >= wanted).float().cpu()


def i2v_subject(video: Tensor, image: Tensor, network: FrameNetwork | None = None) -> Guarded:
    """VBench-I2V: 0.4 greatest likeness to the image + 0.3 mean + 0.3 least likeness of neighbouring frames.

    Args:
        video: `b f c h w` in [0, 1], f >= 2.
        image: `b c h w` in [0, 1], of any size.
        network: VBench's is `dino(crop=True)`; None = the shipped frame trunk.
    """
    found = frame_scores(video, network, image).i2v
    assert found is not None
    return found
