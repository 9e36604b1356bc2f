"""DiffTrack: the same point in other frames, from queries and keys (Nam et al. 2025, arXiv 2506.17220)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from xarray import DataArray

from wanlab.analysis.layout import AttentionError, as_tokens, labelled
from wanlab.core import Capture


def correspond(pipe: Any, image: Any, prompt: str, points: Sequence[tuple[float, float]], seed: int = 0, *, layer: str, step: int,
               frame: int = 0, **generate: Any) -> DataArray:
    """Where points (x, y; fractions of width and height) of one frame are in every frame: (frame point xy), and `confidence`.

    The query of a point's patch is compared with the keys of each frame; the mean over heads of the softmax over that frame's
    patches has its maximum where the point is taken to be. Within a layer that attends across frames these are frame pairs of
    its own attention, each normalised over the frame; in one that does not it is what they would be. Sites: `q` and `k`.
    AttentionError where they stand nowhere in the video.
    """
    when = {"steps": step, "branch": "cond"}
    captures = [Capture.of({"at": f"{layer}.{side}", **when}) for side in "qk"]
    record = pipe.generate(image, prompt, seed, capture=captures, **generate).record
    q, k = (labelled(as_tokens(record[f"{layer}.{side}", step, "cond"]), pipe.grid_of(f"{layer}.q")) for side in "qk")
    if not {"frame", "h", "w"} <= set(q.dims) & set(k.dims):
        raise AttentionError(f"queries and keys of {layer} do not stand in frames, height and width: {', '.join(q.dims)}")
    q, k = (one.squeeze(drop=True).transpose("head", "frame", "h", "w", "unit") for one in (q, k))
    return match(q.values, k.values, points, frame)


def match(q: np.ndarray, k: np.ndarray, points: Sequence[tuple[float, float]], frame: int = 0) -> DataArray:
    """The same from arrays (head frame h w unit)."""
    heads, frames, h, w, d = k.shape
    centres = [(min(int(x * w), w - 1), min(int(y * h), h - 1)) for x, y in points]
    query = np.stack([q[:, frame, y, x] for x, y in centres], 1)                                # head point unit
    logits = np.einsum("kpd,kfhwd->kpfhw", query, k).reshape(heads, len(points), frames, h * w) / np.sqrt(d)
    share = np.exp(logits - logits.max(-1, keepdims=True))
    share = (share / share.sum(-1, keepdims=True)).mean(0)                                      # point frame patch
    best = share.argmax(-1)
    xy = np.stack([(best % w + 0.5) / w, (best // w + 0.5) / h], -1).swapaxes(0, 1)
    coords = {"xy": ["x", "y"], "confidence": (("frame", "point"), share.max(-1).T)}
    return DataArray(xy, dims=("frame", "point", "xy"), coords=coords)
