"""Whether a shape can still be read at the end: a classifier trained on true frames looks at the last one.

The crop is found by colour alone (the tracker's mask), so a shape that is gone, smeared or of the wrong colour cannot
be named right. Objects that are covered or out of the frame at the end are left out: nobody could name those. Ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .tracker import LEAST_AREA, Palette, colour_masks, keep_large_parts
from .video import check_video

CROP = 40  # pixels
MARGIN = 2.0  # half a crop's side, in radii of the disc of the object's area: the tips of a star just fit


class ShapeNet(nn.Module):
    """Crops `n 3 40 40` in [0, 1] -> logits `n shapes`: four convolutions, pooled over space by mean and maximum."""

    def __init__(self, shapes: int, widths: Sequence[int] = (24, 48, 96, 96)) -> None:
        super().__init__()
        ends = [3, *widths]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip(ends, widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.head = nn.Linear(2 * widths[-1], shapes)

    def forward(self, crops: Tensor) -> Tensor:
        """Logits of crops."""
        x = (crops - 0.5) / 0.25
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x)).relu()
            x = functional.max_pool2d(x, 2) if i < 3 else x  # n c 40/2^i 40/2^i
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


def object_crops(frames: Tensor, colours: Sequence[Sequence[str]], palette: Palette) -> list[list[Tensor | None]]:
    """Square crops around the named colours of each frame.

    Args:
        frames: `b c h w` in [0, 1].
        colours: for each frame the colours to find.
        palette: name -> (r, g, b) of all colours of the world.

    Returns:
        Per frame and colour a crop `3 40 40` (what lies outside the frame repeats its border), or None when the colour
        covers less than 0.4 % of the frame.
    """
    frames = check_video(frames[:, None], "frames")[:, 0]
    masks, names = colour_masks(frames[:, None], palette)[:, 0].cpu(), list(palette)
    return [
        [_crop(frame, masks[b, names.index(name)]) for name in row]
        for b, (frame, row) in enumerate(zip(frames, colours, strict=True))
    ]


def _crop(frame: Tensor, mask: Tensor) -> Tensor | None:
    mask = keep_large_parts(mask[None])[0]
    height, width = mask.shape
    area = float(mask.sum()) / width**2
    if area < LEAST_AREA:
        return None
    y, x = ((torch.arange(n) + 0.5) / width for n in (height, width))
    total = mask.sum()
    centre = torch.stack([(mask.sum(0) * x).sum(), (mask.sum(1) * y).sum()]) / total
    half = MARGIN * math.sqrt(area / math.pi)
    cells = ((torch.arange(CROP) + 0.5) / CROP * 2 - 1) * half
    points = torch.stack(torch.meshgrid(centre[0] + cells, centre[1] + cells, indexing="xy"), -1)  # h w (x y)
    grid = points * torch.tensor([2.0, 2.0 * width / height]) - 1
    sampled = functional.grid_sample(frame[None], grid[None].to(frame), padding_mode="border", align_corners=False)
    return sampled[0]


def shape_accuracy(
    video: Tensor,
    factors: Sequence[Mapping[str, Any]],
    palette: Palette,
    shapes: Sequence[str],
    network: nn.Module,
) -> Tensor:
    """Share of each sample's readable objects whose shape the network names right in the last frame.

    Args:
        video: `b f c h w` in [0, 1].
        factors: per sample `{"objects": [{"colour", "shape", "occluded_last": bool}, ...]}`.
        palette: name -> (r, g, b) of all colours of the world.
        shapes: names in the order of the network's outputs.
        network: crops `n 3 40 40` -> logits.

    Returns:
        `b` in [0, 1]; NaN where every object is covered or outside at the end. A colour that cannot be found is wrong.
    """
    open_ = [[thing for thing in row["objects"] if not thing.get("occluded_last", False)] for row in factors]
    crops = object_crops(video[:, -1], [[str(thing["colour"]) for thing in row] for row in open_], palette)
    found = [crop for row in crops for crop in row if crop is not None]
    with torch.no_grad():
        answers = iter(network(torch.stack(found)).argmax(1).tolist() if found else [])
    values = []
    for things, row in zip(open_, crops, strict=True):
        named = [None if crop is None else shapes[next(answers)] for crop in row]
        right = [name == thing["shape"] for name, thing in zip(named, things, strict=True)]
        values.append(sum(right) / len(right) if right else math.nan)
    return torch.tensor(values)
