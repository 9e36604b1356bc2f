"""LPIPS along a clip from one pass over its frames: to a reference, from frame to frame, to the conditioning image.

Each frame goes through the trunk once, and only a few frames' features are alive at a time. LPIPS is that of Zhang et al. 2018.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .lpips import Features, Perceptual, check_size, layer_distance, layers, shipped
from .tecogan import CUT, box, inner
from .video import check_pair, check_video, resize


class PerceptualCurves(NamedTuple):
    """Distances along a clip; None where what they need was not given.

    reference `b f`: to the same frame of the reference; steps, reference_steps `b f-1`: from each frame to the next, of
    the clip and of the reference; image `b f`: to the conditioning image.
    """

    reference: Tensor | None = None
    steps: Tensor | None = None
    reference_steps: Tensor | None = None
    image: Tensor | None = None


def perceptual_curves(
    video: Tensor,
    reference: Tensor | None = None,
    image: Tensor | None = None,
    *,
    steps: bool = True,
    judge: Perceptual | None = None,
) -> PerceptualCurves:
    """All distances of a clip whose frames go through the trunk once.

    Args:
        video: `b f c h w` in [0, 1], frames of at least 32 x 32.
        reference: the same shape; None = no distances to it.
        image: `b c h w` in [0, 1], resampled to the video's size when it differs; None = no distances to it.
        steps: also from each frame to the next.
        judge: None = the shipped one on the video's device.
    """
    video = check_video(video, minimum_frames=2 if steps else 1)
    if reference is not None:
        video, reference = check_pair(video, reference)
    if image is not None:
        image = fitted(image, video)
    check_size(video)
    judge = judge or shipped(str(video.device))
    rows = [
        _walk(clip, None if reference is None else reference[b], None if image is None else image[b], steps, judge)
        for b, clip in enumerate(video)
    ]
    return PerceptualCurves(*(None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)))


def fitted(image: Tensor, video: Tensor) -> Tensor:
    """A conditioning image `b c h w` at the size of `b f c h w`, checked.

    Raises:
        ValueError: another number of images than of videos, or not an image.
    """
    image = check_video(image[:, None], "image")
    if len(image) != len(video):
        raise ValueError(f"{len(video)} videos but {len(image)} images")
    return resize(image.to(video), (video.shape[-2], video.shape[-1])).clamp(0, 1)[:, 0]


def _walk(clip: Tensor, reference: Tensor | None, image: Tensor | None, steps: bool, judge: Perceptual) -> PerceptualCurves:
    """One clip `f c h w`, some frames at a time."""
    size = max(1, judge.chunk_pixels // (clip.shape[-2] * clip.shape[-1]))
    seen = None if image is None else layers(image[None], judge)
    found: dict[str, list[Tensor]] = {name: [] for name in PerceptualCurves._fields}
    last: dict[str, Features] = {}
    for start in range(0, len(clip), size):
        frames = clip[start : start + size]
        own = layers(frames, judge)
        if steps:
            found["steps"] += _steps(own, last, "steps", judge)
        if reference is not None:
            true = reference[start : start + size]
            other = own if torch.equal(frames, true) else layers(true, judge)
            found["reference"].append(layer_distance(own, other, judge))
            if steps:
                found["reference_steps"] += _steps(other, last, "reference_steps", judge)
        if seen is not None:
            found["image"].append(layer_distance(own, seen, judge))
    return PerceptualCurves(**{name: torch.cat(parts) for name, parts in found.items() if parts})


def _steps(features: Features, last: dict[str, Features], name: str, judge: Perceptual) -> list[Tensor]:
    """Distances to the frame before: from the chunk before, and within this one; its last frame is kept."""
    before = last.get(name)
    values = [] if before is None else [layer_distance(before, [x[:1] for x in features], judge)]
    if len(features[0]) > 1:
        values.append(layer_distance([x[:-1] for x in features], [x[1:] for x in features], judge))
    last[name] = [x[-1:].clone() for x in features]
    return values


def tlp(video: Tensor, reference: Tensor, judge: Perceptual | None = None, cut: int = CUT, crop: bool = True) -> Tensor:
    """tLP (Chu et al. 2020): 100 x difference of how far, by LPIPS, both clips go from frame to frame.

    Args:
        video: `b f c h w` in [0, 1], f >= 6.
        reference: the same shape.
        judge: the paper's is `lpips.published("alex")`; None = the shipped one.
        cut: frames left out at either end.
        crop: only the paper's middle box is looked at (frames of at least 48 x 48); without it `tlp_of` can share the
            features of other distances.

    Returns:
        `b`, 0 where both change alike.
    """
    video, reference = check_pair(video, reference, minimum_frames=2)
    if crop:
        rows, columns = box(*video.shape[-2:])
        video, reference = video[..., rows, columns], reference[..., rows, columns]
    return tlp_of(perceptual_curves(video, reference, judge=judge), cut)


def tlp_of(curves: PerceptualCurves, cut: int = CUT) -> Tensor:
    """tLP, `b`, from curves that were computed with a reference and steps.

    Raises:
        ValueError: they were computed without.
    """
    if curves.steps is None or curves.reference_steps is None:
        raise ValueError("tlp needs the steps of a clip and of its reference")
    return inner(100 * (curves.steps - curves.reference_steps).abs(), cut)
