"""Left-overs: colour of an object where the object is not.

A model that paints an object at its new place without clearing the old one leaves a tinted ghost. Tracker and shape
classifier look at the object and miss it; this looks everywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .tracker import LEAST_AREA, Palette, chroma, colour_masks, keep_large_parts
from .video import check_video, resize

REACH = 2  # pixels around the object's mask that belong to its rim


def ghost(video: Tensor, factors: Sequence[Mapping[str, Any]], palette: Palette) -> Tensor:
    """How much tint of the objects' colours lies outside them in the last frame, relative to the object's own.

    The chroma along each expected colour (never below 0) is averaged outside all expected objects, less the same
    average in the first frame, over the mean chroma inside the object; mean over objects.

    Args:
        video: `b f c h w` in [0, 1], f >= 2, at least 8 x 8.
        factors: per sample `{"objects": [{"colour": ...}, ...]}`; no objects, or none found, give NaN.
        palette: name -> (r, g, b) of all colours of the world.

    Returns:
        `b`, about 0 for true clips; 0.01 is a clearly visible ghost of a mid-sized object.
    """
    video = check_video(video, minimum_frames=2)[:, [0, -1]].cpu()
    masks, names = colour_masks(video, palette), list(palette)  # b 2 k h w
    small = resize(video, (masks.shape[-2], masks.shape[-1]))
    values = []
    for b, row in enumerate(factors):
        places = [names.index(str(thing["colour"])) for thing in row["objects"]]
        values.append(_ghost_of(small[b], masks[b], places, [palette[names[k]] for k in places]))
    return torch.tensor(values)


def _ghost_of(frames: Tensor, masks: Tensor, places: Sequence[int], colours: Sequence[Sequence[float]]) -> float:
    bodies = [keep_large_parts(masks[:, k]) for k in places]  # 2 h w each
    if not bodies:
        return math.nan
    every = torch.stack(bodies).amax(0)[:, None]
    covered = functional.max_pool2d(every, 2 * REACH + 1, 1, REACH)[:, 0]
    outside = (covered < 0.02).float()
    shade, values = chroma(frames), []
    for body, colour in zip(bodies, colours, strict=True):
        if float(body[1].mean()) < LEAST_AREA or float(outside.sum((1, 2)).min()) < 16:
            continue
        tint = torch.tensor(list(colour))
        tint = (tint - tint.mean()) / (tint - tint.mean()).norm()
        along = torch.einsum("fchw,c->fhw", shade, tint).clamp_min(0)
        inside = float((along[1] * body[1]).sum() / body[1].sum())
        first, last = ((along * outside).sum((1, 2)) / outside.sum((1, 2))).tolist()
        values.append((last - first) / inside)
    return sum(values) / len(values) if values else math.nan
