"""How far objects are from their known tracks, and pixels from their known flow: for clips whose truth is known.

Ours; a flow is judged by the usual end-point error, in frame widths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import reduce
from torch import Tensor

from .tracker import Palette, Track, track
from .video import check_video
from .warp import FlowField, estimate_flow

WHOLE = 0.01  # widths: where the visible part's middle lies farther from the centre, the object is partly covered or cut


def trajectory_error(
    video: Tensor, factors: Sequence[Mapping[str, Any]], tracks: Tensor, palette: Palette, masks: Tensor | None = None
) -> Tensor:
    """Distance of the objects from their known tracks, mean over frames and objects, in frame widths.

    Args:
        video: `b f c h w` in [0, 1].
        factors: per sample `{"objects": [{"colour": ...}, ...]}`; a sample without any is NaN.
        tracks: `b f m 2`, known centres in widths (x right, y down); object i of the factors is slot i + 1.
        palette: name -> (r, g, b) of all colours of the world.
        masks: `b f m h w`, known share of each pixel that each slot covers; with them, frames in which an object is partly
            covered or cut by the border, so that nobody could see its centre, are left out.

    Returns:
        `b` on the CPU, about 0.002 for true clips. An object that is not found counts as still where it was last seen, at
        first where it truly starts.

    Raises:
        ValueError: tracks or masks of another shape than the videos and factors ask for.
    """
    video = check_video(video)
    b, f = video.shape[:2]
    slots = 1 + max((len(row["objects"]) for row in factors), default=0)
    if tracks.ndim != 4 or tracks.shape[:2] != (b, f) or tracks.shape[2] < slots or tracks.shape[3] != 2:
        raise ValueError(f"tracks must be b f m 2 = ({b}, {f}, at least {slots}, 2), got {tuple(tracks.shape)}")
    if masks is not None and (masks.ndim != 5 or masks.shape[:3] != tracks.shape[:3]):
        raise ValueError(f"masks must be b f m h w with b f m = {tuple(tracks.shape[:3])}, got {tuple(masks.shape)}")
    colours = [[str(thing["colour"]) for thing in row["objects"]] for row in factors]
    found, tracks = track(video, colours, palette), tracks.cpu().float()
    values = []
    for k, row in enumerate(colours):
        errors = [_errors(found[k][name], tracks[k, :, slot]) for slot, name in enumerate(row, 1)]
        if masks is not None:
            wholes = [whole(masks[k, :, slot].cpu(), tracks[k, :, slot]) for slot in range(1, len(row) + 1)]
            errors = [error[seen] for error, seen in zip(errors, wholes, strict=True)]
        joined = torch.cat(errors) if errors else torch.empty(0)
        values.append(float(joined.mean()) if len(joined) else math.nan)
    return torch.tensor(values)


def _errors(found: Track, truth: Tensor) -> Tensor:
    """Distances `f` of one object."""
    place, here = [], truth[0]
    for centre, seen in zip(found.centre, found.seen.tolist(), strict=True):
        here = centre if seen else here
        place.append(here)
    return (torch.stack(place) - truth).norm(dim=1)


def whole(mask: Tensor, truth: Tensor) -> Tensor:
    """`f` bool: in which frames the middle of a mask `f h w` is the object's centre `f 2`."""
    height, width = mask.shape[-2:]
    y, x = ((torch.arange(n) + 0.5) / width for n in (height, width))
    mass = mask.sum((1, 2)).clamp_min(1e-6)
    middle = torch.stack([(mask.sum(1) * x).sum(1), (mask.sum(2) * y).sum(1)], 1) / mass[:, None]
    return (middle - truth).norm(dim=1) < WHOLE


def flow_error(video: Tensor, truth: FlowField, found: FlowField | None = None) -> Tensor:
    """End-point error of a clip's flow to the known flow, mean over visible pixels and steps, in frame widths: `b`.

    Args:
        video: `b f c h w` in [0, 1], f >= 2.
        truth: known flow in pixels, and visibility: `warp.truth_field`. A sample with nothing visible is NaN.
        found: the video's own flow; None = Farneback's, whose error on true clips is the floor to read this against.
    """
    return flow_error_curve(video, truth, found).nanmean(1)


def flow_error_curve(video: Tensor, truth: FlowField, found: FlowField | None = None) -> Tensor:
    """`flow_error` of every step from one frame to the next, `b f-1`; NaN where nothing is visible.

    Raises:
        ValueError: a field that is not `b f-1 2 h w` of the video.
    """
    video = check_video(video, minimum_frames=2)
    expected = (video.shape[0], video.shape[1] - 1, 2, *video.shape[-2:])
    for name, field in (("true", truth), ("found", found)):
        if field is not None and tuple(field.flow.shape) != expected:
            raise ValueError(f"the {name} flow must be b f-1 2 h w = {expected}, got {tuple(field.flow.shape)}")
    flow = (found or estimate_flow(video)).flow
    length = (flow - truth.flow.to(flow)).square().sum(2).sqrt() / video.shape[-1]
    seen = truth.seen.to(flow)
    return reduce(length * seen, "b f h w -> b f", "sum") / reduce(seen, "b f h w -> b f", "sum")
