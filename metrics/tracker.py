"""A tracker without weights: finds an object by its colour and follows its place, size and angle.

Colour decides by hue alone (chroma direction), so stripes and shading of one colour stay one object. The angle is
measured on the object's own texture, frame to frame, by registering luma on polar grids; a thing that only stands there
has none. The palette is an argument: nothing here knows which colours a world has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from .video import check_video, luma, resize

Palette = Mapping[str, Sequence[float]]

SIZE = 64  # masks are made at this many pixels: finer ones only add noise
CHROMA = (0.07, 0.15)  # chroma below the first is background, above the second is object
LEAST_AREA = 0.004  # of the frame; below it an object counts as gone
PART = 0.25  # a separate piece joins the object when it has this share of its largest piece
ANGLES, RADII = 96, 10
LARGEST_TURN = math.radians(50)  # between two frames


class Track(NamedTuple):
    """One object through a clip.

    centre `f 2` (x right, y down, fractions of the width), log_radius `f` (of the disc of equal area, in widths),
    angle `f` radians relative to frame 0 (clockwise on screen), seen `f` bool.
    """

    centre: Tensor
    log_radius: Tensor
    angle: Tensor
    seen: Tensor


def chroma(video: Tensor) -> Tensor:
    """`... c h w` minus the mean over channels: zero for grey, along one direction for one hue."""
    return video - video.mean(-3, keepdim=True)


def colour_masks(video: Tensor, palette: Palette) -> Tensor:
    """Soft mask of every palette colour: `b f k h w` in [0, 1] at `SIZE` pixels (or the video's size, if smaller).

    Args:
        video: `b f c h w` in [0, 1].
        palette: name -> (r, g, b) in [0, 1], saturated; k follows its order.

    Raises:
        ValueError: an empty palette, or a grey in it (it has no hue).
    """
    video = check_video(video)
    if min(video.shape[-2:]) > SIZE:
        scale = SIZE / min(video.shape[-2:])
        video = resize(video, (round(video.shape[-2] * scale), round(video.shape[-1] * scale)))
    tints = torch.tensor([list(rgb) for rgb in palette.values()], dtype=video.dtype, device=video.device)
    if not len(tints):
        raise ValueError("the palette is empty")
    tints = tints - tints.mean(1, keepdim=True)
    lengths = tints.norm(dim=1)
    if lengths.min() < 0.1:
        raise ValueError(f"palette colour {list(palette)[int(lengths.argmin())]!r} is too grey to be found by its hue")
    shade = chroma(video)
    strength = shade.square().sum(2).sqrt()  # b f h w (norm over a strided axis is ten times slower)
    cosine = torch.einsum("bfchw,kc->bfkhw", shade, tints / lengths[:, None]) / strength[:, :, None].clamp_min(1e-6)
    nearest = functional.one_hot(cosine.argmax(2), len(tints)).to(video)
    weight = ((strength - CHROMA[0]) / (CHROMA[1] - CHROMA[0])).clamp(0, 1)
    close = ((cosine.amax(2) - 0.80) / 0.10).clamp(0, 1)
    return rearrange(nearest, "b f h w k -> b f k h w") * (weight * close)[:, :, None]


def keep_large_parts(mask: Tensor) -> Tensor:
    """`f h w` without specks: the connected pieces of at least PART of the largest one's mass, others set to 0."""
    import cv2

    kept = []
    for frame in mask:
        solid = (frame > 0.3).to(torch.uint8).numpy()
        count, labels, stats, _ = cv2.connectedComponentsWithStats(solid, connectivity=8)
        if count < 2:
            kept.append(torch.zeros_like(frame))
            continue
        areas = stats[1:, cv2.CC_STAT_AREA]
        large = torch.tensor([0.0, *(float(area >= PART * areas.max()) for area in areas)])
        near = large[torch.from_numpy(labels).long()]
        near = functional.max_pool2d(near[None, None], 3, 1, 1)[0, 0]  # the soft rim belongs to its piece
        kept.append(frame * near)
    return torch.stack(kept)


def follow(mask: Tensor, grey: Tensor) -> Track:
    """The track of one object.

    Args:
        mask: `f h w` in [0, 1], its soft mask in every frame.
        grey: `f H W` in [0, 1], the clip's luma, at any size of the same aspect.
    """
    mask = keep_large_parts(mask.cpu().float())
    height, width = mask.shape[-2:]
    mass = mask.sum((1, 2))
    y, x = ((torch.arange(n) + 0.5) / width for n in (height, width))
    centre = torch.stack([(mask.sum(1) * x).sum(1), (mask.sum(2) * y).sum(1)], 1) / mass.clamp_min(1e-6)[:, None]
    area = mass / width**2
    seen = area >= LEAST_AREA
    radius = (area.clamp_min(1e-6) / math.pi).sqrt()
    rings = polar(grey.cpu().float(), mask, centre, radius)
    steps = torch.stack([turn(a, b) for a, b in pairwise(rings)]) if len(mask) > 1 else mass[:0]
    steps = torch.where(seen[1:] & seen[:-1], steps, 0.0)
    angle = torch.cat([torch.zeros(1), steps.cumsum(0)])
    return Track(centre, radius.log(), angle, seen)


def polar(grey: Tensor, mask: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """Luma and mask around a centre, `f channel ring angle`: clockwise from the right, each ring's mean removed."""
    angles = torch.arange(ANGLES) * (2 * math.pi / ANGLES)
    rings = torch.linspace(0.25, 1.35, RADII)
    offsets = rings[:, None, None] * torch.stack([angles.cos(), angles.sin()], -1)  # ring angle 2
    points = centre[:, None, None] + radius[:, None, None, None] * offsets  # f ring angle 2, fractions of the width
    aspect = mask.shape[-1] / mask.shape[-2]
    grid = points * torch.tensor([2.0, 2.0 * aspect]) - 1

    def at(image: Tensor) -> Tensor:
        return functional.grid_sample(image[:, None], grid, padding_mode="border", align_corners=False)[:, 0]

    cover = at(mask)
    light = at(grey) * cover
    both = torch.stack([light, 0.5 * cover], 1) * rings[:, None]  # outer rings hold more pixels
    return both - both.mean(-1, keepdim=True)


def turn(a: Tensor, b: Tensor) -> Tensor:
    """By how many radians polar picture b `channel ring angle` is a turned clockwise, a scalar within LARGEST_TURN."""
    spectrum = torch.fft.rfft(b) * torch.fft.rfft(a).conj()
    score = torch.fft.irfft(spectrum.sum((0, 1)), n=ANGLES)
    reach = round(LARGEST_TURN * ANGLES / (2 * math.pi))
    window = score.roll(reach)[: 2 * reach + 1]  # shifts -reach ... reach
    best = int(window.argmax())
    peak = torch.tensor(float(best - reach))
    left, middle, right = (float(score[(best - reach + d) % ANGLES]) for d in (-1, 0, 1))
    curve = left - 2 * middle + right
    if curve < 0:
        peak += min(0.5, max(-0.5, (left - right) / (2 * curve)))
    return peak * (2 * math.pi / ANGLES)


def track(video: Tensor, colours: Sequence[Sequence[str]], palette: Palette) -> list[dict[str, Track]]:
    """Follows the named colours of every sample.

    Args:
        video: `b f c h w` in [0, 1].
        colours: for each sample the names to follow.
        palette: all colours of the world (a pixel belongs to the nearest), name -> (r, g, b).

    Raises:
        ValueError: a colour that the palette does not have, or a list of another length than b.
    """
    if len(colours) != len(video):
        raise ValueError(f"{len(video)} videos but {len(colours)} lists of colours")
    names = list(palette)
    unknown = sorted({name for row in colours for name in row} - set(names))
    if unknown:
        raise ValueError(f"unknown colour(s) {', '.join(unknown)}; the palette has {', '.join(names)}")
    masks, grey = colour_masks(video, palette), luma(video)
    return [
        {name: follow(masks[b, :, names.index(name)], grey[b]) for name in row} for b, row in enumerate(colours)
    ]
