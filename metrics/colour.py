"""Whether the objects still have their colours at the end, and no other colour has come up; without weights. Ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .tracker import LEAST_AREA, Palette, colour_masks
from .video import check_video

INTRUDER = 3 * LEAST_AREA  # of the frame: where two colours meet, true clips show up to 0.5 % of a third


def colour_accuracy(video: Tensor, factors: Sequence[Mapping[str, Any]], palette: Palette) -> Tensor:
    """Colours that are where they should be in the last frame: shared by asked and found ones, over all of both.

    Args:
        video: `b f c h w` in [0, 1].
        factors: per sample `{"objects": [{"colour": ..., "occluded_last": bool}, ...]}`. A covered object may be seen or not.
        palette: name -> (r, g, b) of all colours of the world.

    Returns:
        `b` in [0, 1]: 1 when all uncovered objects are found (0.4 % of the frame) and no foreign colour (1.2 %) is; NaN
        where every object is covered.

    Raises:
        ValueError: another number of factors than of videos, or a colour that the palette does not have.
    """
    video = check_video(video)
    if len(factors) != len(video):
        raise ValueError(f"{len(video)} videos but {len(factors)} factors")
    areas = colour_masks(video[:, -1:], palette)[:, 0].mean((2, 3)).cpu()  # b k
    return torch.tensor([_share(dict(zip(palette, row.tolist(), strict=True)), f) for row, f in zip(areas, factors, strict=True)])


def _share(areas: Mapping[str, float], row: Mapping[str, Any]) -> float:
    covered = {str(thing["colour"]) for thing in row["objects"] if thing.get("occluded_last", False)}
    asked = {str(thing["colour"]) for thing in row["objects"]} - covered
    unknown = sorted((asked | covered) - set(areas))
    if unknown:
        raise ValueError(f"unknown colour(s) {', '.join(unknown)}; the palette has {', '.join(areas)}")
    if not asked:
        return math.nan
    found = {name for name in asked if areas[name] >= LEAST_AREA}
    foreign = {name for name in set(areas) - asked - covered if areas[name] >= INTRUDER}
    return len(found) / len(asked | foreign)
