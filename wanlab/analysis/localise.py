"""How well a heat map finds a thing whose mask is known: pointing accuracy and overlap, frame by frame, beside chance.

The pointing game is that of Zhang et al. 2016; when a place counts as hit, and an overlap without a threshold, are ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def scores(heat: Any, mask: Any) -> dict[str, float]:
    """Of heat (frames h w) and mask (frames h w, the share of each place that the thing covers), over frames that show it.

    pointing   share of frames whose hottest place is one that the thing covers by half (or the one that it covers most)
    iou        overlap of the hottest places, as many as the thing covers, with those: no threshold is chosen
    chance     the pointing accuracy of heat without meaning: the share of places that the thing covers
    ValueError for heat and mask of different shapes, and for a mask that is empty in every frame.
    """
    heat, mask = np.asarray(heat, float), np.asarray(mask, float)
    if heat.shape != mask.shape:
        raise ValueError(f"the heat is {heat.shape} (frames, h, w), the mask {mask.shape}")
    pointing, overlap, chance = [], [], []
    for here, share in zip(heat, mask, strict=True):
        if share.max() <= 0.05:         # not in the frame
            continue
        inside = (share >= 0.5) | (share == share.max())
        count = int(inside.sum())
        hottest = np.zeros(here.size, bool)
        hottest[np.argsort(-here.ravel(), kind="stable")[:count]] = True
        hottest = hottest.reshape(here.shape)
        pointing.append(float(inside.flat[here.argmax()]))
        overlap.append((hottest & inside).sum() / (hottest | inside).sum())
        chance.append(count / here.size)
    if not pointing:
        raise ValueError("the mask is empty in every frame")
    return {"pointing": float(np.mean(pointing)), "iou": float(np.mean(overlap)), "chance": float(np.mean(chance))}
