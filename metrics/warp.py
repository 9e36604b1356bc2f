"""Warping error (Lai et al. 2018, "Learning Blind Video Temporal Consistency"), flow from a stated source.

E(t) = sum m |warp(V_{t+1}; F_{t -> t+1}) - V_t|^2 / sum m, m = not occluded; mean over channels, then over t.
The flow's source is part of the name: from the reference clip it tells jitter; from the video itself the flow follows
the jitter and explains it away, which is another number.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, reduce
from torch import Tensor

from .flow import Flow, farneback, occluded, warp
from .video import check_video

CHUNK = 8  # pairs of frames of which the intermediate fields are alive at once


class FlowField(NamedTuple):
    """Motion of a clip: flow t -> t+1 `b f-1 2 h w` in pixels, and weights m `b f-1 h w` (1 = seen in both)."""

    flow: Tensor
    seen: Tensor


def estimate_flow(video: Tensor, flow: Flow = farneback) -> FlowField:
    """Flow and occlusion of a clip.

    Args:
        video: `b f c h w` in [0, 1], f >= 2.
        flow: estimates flow between two batches of frames: `farneback`, `dis` or a `raft`.

    Returns:
        Where `flow` leaves them: on the CPU for the classical ones.
    """
    video = check_video(video, minimum_frames=2)
    now, after = (rearrange(v, "b f c h w -> (b f) c h w") for v in (video[:, :-1], video[:, 1:]))
    fields, seen = [], []
    for a, b in zip(now.split(CHUNK), after.split(CHUNK), strict=True):
        forward, backward = flow(a, b), flow(b, a)
        fields.append(forward)
        seen.append(~occluded(forward, backward))
    return FlowField(
        rearrange(torch.cat(fields), "(b f) c h w -> b f c h w", b=len(video)),
        rearrange(torch.cat(seen), "(b f) h w -> b f h w", b=len(video)).float(),
    )


def warp_error(video: Tensor, field: FlowField) -> Tensor:
    """How far each frame lies from the next one moved back onto it, per sample (mean squared, [0, 1] units).

    Args:
        video: `b f c h w` in [0, 1], f >= 2.
        field: flow and visibility, from `estimate_flow(reference)` or from known truth.

    Returns:
        `b`; 0 is a perfectly consistent video (a still of a still scene also: report motion beside it).

    Raises:
        TypeError: no `FlowField`, but the reference itself. ValueError: as `warp_error_curve`.
    """
    return warp_error_curve(video, field).mean(1)


def warp_error_curve(video: Tensor, field: FlowField) -> Tensor:
    """`warp_error` of every step from one frame to the next, `b f-1`.

    Raises:
        TypeError: no `FlowField`. ValueError: a field that is not `b f-1 2 h w` of the video.
    """
    if not isinstance(field, FlowField):
        raise TypeError(f"warp_error takes a flow, not {type(field).__name__}: give estimate_flow(reference)")
    video = check_video(video, minimum_frames=2)
    expected = (video.shape[0], video.shape[1] - 1, 2, *video.shape[-2:])
    if tuple(field.flow.shape) != expected:
        raise ValueError(f"flow must be b f-1 2 h w = {expected}, got {tuple(field.flow.shape)}")
    values = []
    for t in range(video.shape[1] - 1):
        back = warp(video[:, t + 1], field.flow[:, t].to(video))
        error = reduce((back - video[:, t]).square(), "b c h w -> b h w", "mean")
        seen = field.seen[:, t].to(video)
        total = reduce(seen, "b h w -> b", "sum")
        value = reduce(error * seen, "b h w -> b", "sum") / total.clamp_min(1)
        values.append(torch.where(total > 0, value, error.mean((1, 2))))  # Lai et al.: nothing visible -> the plain mean
    return torch.stack(values, 1)


def truth_field(flow_pairs: Tensor, occlusion: Tensor) -> FlowField:
    """A `FlowField` from known truth: `b f-1 2 h w` in fractions of the width and `b f-1 h w` (1 = occluded)."""
    return FlowField(flow_pairs * flow_pairs.shape[-1], 1 - occlusion.float())
