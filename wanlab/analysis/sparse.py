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
             **generate: Any) -> DataArray:
    """Per head of a layer that attends over frames, height and width: (head error), the error of each mask, and `label`.

    Sites: `q`, `k`, `v`. queries: how many are sampled, evenly over all.
    """
    captures = [Capture.of({"at": f"{layer}.{side}", "steps": step, "branch": branch}) for side in "qkv"]
    record = pipe.generate(image, prompt, seed, capture=captures, **generate).record
    parts = []
    for side in "qkv":
        array = labelled(as_tokens(record[f"{layer}.{side}", step, branch]), pipe.grid_of(f"{layer}.q"))
        if not {"frame", "h", "w"} <= set(array.dims) or array.sizes["frame"] < 2 or "f" in _lead(record, f"{layer}.q"):
            raise AttentionError(f"{layer} does not attend over frames, height and width at once, so that its heads have no choice")
        parts.append(torch.from_numpy(array.isel(row=0).squeeze(drop=True).transpose("head", "frame", "h", "w", "unit").values))
    return errors(parts[0], parts[1], parts[2], queries)


def errors(q: Tensor, k: Tensor, v: Tensor, queries: int = 64) -> DataArray:
    """The same from tensors (head frame h w unit): mean squared error of the output under each mask, over the sampled queries.

    spatial: a query sees its own frame; temporal: its own place in every frame. Each is renormalised, as the sparse kernel is.
    """
    heads, frames, h, w, _ = q.shape
    n = frames * h * w
    rows = torch.linspace(0, n - 1, min(queries, n)).round().long().unique()
    q, k, v = (x.reshape(1, heads, n, -1) for x in (q, k, v))
    p = Call(q, k, v).entries(rows=rows.tolist())[0]                                            # head row key
    at = torch.arange(n)
    masks = {"spatial": at // (h * w) == (rows // (h * w))[:, None], "temporal": at % (h * w) == (rows % (h * w))[:, None]}
    full = p @ v[0].float()
    found = [((p * mask / (p * mask).sum(-1, keepdim=True).clamp(min=1e-12)) @ v[0].float() - full).square().mean((1, 2))
             for mask in masks.values()]
    table = torch.stack(found, -1).numpy()
    labels = np.array(list(masks))[table.argmin(-1)]
    return DataArray(table, dims=("head", "error"), coords={"error": list(masks), "label": ("head", labels)})


def _lead(record: Any, site: str) -> tuple[str, ...]:
    axes = record.entry(record.find(site)[0]).axes
    return axes[: axes.index("k")]
