"""Left-overs: colour of an object where the object is not.

A model that paints an object at its new place without clearing the old one leaves a tinted ghost. Tracker and shape
classifier look at the object and miss it; this looks everywhere else. Ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .tracker import LEAST_AREA, Palette, chroma, colour_masks
from .video import check_video, resize

REACH = 2  # pixels around the object's mask that belong to its rim
PALE = 0.4  # of the object's own hue: paler than its darkest stripe
LEAST_TRAIL = 0.01  # of the frame: below it there is too little uncovered ground to judge


def ghosting(video: Tensor, factors: Sequence[Mapping[str, Any]], palette: Palette) -> Tensor:
    """How strongly the objects still tint the ground that they have left, in the last frame.

    The ground is what an object covered in the first frame and no object covers in the last. Its mean chroma along the
    object's hue, less that of the rest of the ground, over that inside the object: about the ghost's opacity.

    Args:
        video: `b f c h w` in [0, 1], f >= 2, at least 8 x 8.
        factors: per sample `{"objects": [{"colour": ...}, ...]}`; an object that leaves no ground, or is not found, is
            left out, and a sample without any other is NaN.
        palette: name -> (r, g, b) of all colours of the world.

    Returns:
        `b`, about 0 for true clips (a tinted background moves it by a few hundredths), about the opacity of a ghost up
        to 0.3; a stronger one that touches the object counts as object.
    """
    video = check_video(video, minimum_frames=2)[:, [0, -1]].cpu()
    masks, names = colour_masks(video, palette), list(palette)  # b 2 k h w
    small = resize(video, (masks.shape[-2], masks.shape[-1]))
    values = []
    for b, row in enumerate(factors):
        places = [names.index(str(thing["colour"])) for thing in row["objects"]]
        values.append(_ghost_of(small[b, 1], masks[b], places, [palette[names[k]] for k in places]))
    return torch.tensor(values)


def _grown(mask: Tensor) -> Tensor:
    return functional.max_pool2d(mask[None, None], 2 * REACH + 1, 1, REACH)[0, 0]


def _body(mask: Tensor, along: Tensor) -> Tensor:
    """The object itself in its mask `h w`: full hue, one connected piece; what it left behind is paler or apart."""
    import cv2

    inside = mask > 0.3
    if not inside.any():
        return torch.zeros_like(mask)
    full = inside & (along > PALE * along[inside].quantile(0.9))
    _, labels = cv2.connectedComponents(full.to(torch.uint8).numpy(), connectivity=8)
    pieces = torch.from_numpy(labels)
    held = torch.stack([(along * (pieces == k)).sum() for k in range(1, int(pieces.max()) + 1)])
    return mask * _grown((pieces == int(held.argmax()) + 1).to(mask))


def _ghost_of(last: Tensor, masks: Tensor, places: Sequence[int], colours: Sequence[Sequence[float]]) -> float:
    starts = [masks[0, k] for k in places]
    shade, values = chroma(last), []
    tints = [torch.tensor(list(colour)) - sum(colour) / len(colour) for colour in colours]
    strengths = [torch.einsum("chw,c->hw", shade, tint / tint.norm()) for tint in tints]
    ends = [_body(masks[1, k], along) for k, along in zip(places, strengths, strict=True)]
    for start, end, along in zip(starts, ends, strengths, strict=True):
        open_ground = _grown(torch.stack(ends).amax(0)) < 0.02
        left = (start > 0.5) & open_ground
        rest = (_grown(torch.stack(starts).amax(0)) < 0.02) & open_ground
        if min(float(part.float().mean()) for part in (left, rest)) < LEAST_TRAIL or float(end.mean()) < LEAST_AREA:
            continue
        inside = float((along * end).sum() / end.sum())
        values.append(float(along[left].mean() - along[rest].mean()) / inside)
    return sum(values) / len(values) if values else math.nan
