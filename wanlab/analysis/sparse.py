"""Spatial and temporal heads: which sparse mask changes their output least (Sparse VideoGen, Xi et al. 2025, arXiv 2502.01776)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from xarray import DataArray

from wanlab.analysis.layout import AttentionError, as_tokens, labelled
from wanlab.core import Capture
from wanlab.nn.reads import Call


def classify(pipe: Any, image: Any, prompt: str, seed: int = 0, *, layer: str, step: int, branch: str = "cond", queries: int = 64,
             width: float = 2.0, **generate: Any) -> DataArray:
    """Per head of a layer that attends over frames, height and width: (head error), the error of each mask, and `label`.

    Sites: `q`, `k`, `v`. queries: how many are sampled, evenly over all; width: of the masks' band, in frames (`errors`).
    AttentionError for a layer that does not attend over all three.
    """
    captures = [Capture.of({"at": f"{layer}.{side}", "steps": step, "branch": branch}) for side in "qkv"]
    record = pipe.generate(image, prompt, seed, capture=captures, **generate).record
    parts = []
    for side in "qkv":
        array = labelled(as_tokens(record[f"{layer}.{side}", step, branch]), pipe.grid_of(f"{layer}.q"))
        if not {"frame", "h", "w"} <= set(array.dims) or array.sizes["frame"] < 2 or "f" in _lead(record, f"{layer}.q"):
            raise AttentionError(f"{layer} does not attend over frames, height and width at once, so that its heads have no choice")
        parts.append(torch.from_numpy(array.isel(row=0).squeeze(drop=True).transpose("head", "frame", "h", "w", "unit").values))
    return errors(parts[0], parts[1], parts[2], queries, width)


def errors(q: Tensor, k: Tensor, v: Tensor, queries: int = 64, width: float = 2.0) -> DataArray:
    """The same from tensors (head frame h w unit): mean squared error of the output under each mask, over the sampled queries.

    Both masks are one band and one sink, of tokens in two orders: a query sees the tokens that are less than `width` frames' worth
    of tokens away, and the first frame's worth of them. spatial: frame by frame, so that the sink is the first frame; temporal:
    place by place, each with all its frames, so that the band is the neighbourhood of the query's place at all times, and the sink
    the first places. That is what the authors' code for Wan profiles heads with (2 frames; a later version has 1.5 and no sink),
    but for its rounding to blocks of 128 tokens and its random queries among the first 10,000. A video no longer than the band is
    seen whole under both. What is left is renormalised, as the sparse kernel does.
    """
    heads, frames, h, w, _ = q.shape
    n, area = frames * h * w, h * w
    rows = torch.linspace(0, n - 1, min(queries, n)).round().long().unique()
    q, k, v = (x.reshape(1, heads, n, -1) for x in (q, k, v))
    p = Call(q, k, v).entries(rows=rows.tolist())[0]                                            # head row key
    at = torch.arange(n)
    orders = {"spatial": at, "temporal": at % area * frames + at // area}
    full, found = p @ v[0].float(), []
    for order in orders.values():
        seen = p * (((order - order[rows, None]).abs() < width * area) | (order < area))
        found.append(((seen / seen.sum(-1, keepdim=True).clamp(min=1e-12)) @ v[0].float() - full).square().mean((1, 2)))
    table = torch.stack(found, -1).numpy()
    labels = np.array(list(orders))[table.argmin(-1)]
    return DataArray(table, dims=("head", "error"), coords={"error": list(orders), "label": ("head", labels)})


def _lead(record: Any, site: str) -> tuple[str, ...]:
    axes = record.entry(record.find(site)[0]).axes
    return axes[: axes.index("k")]
