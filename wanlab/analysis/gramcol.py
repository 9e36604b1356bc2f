"""GramCol and motion-attentive maps: columns of the Gram matrix of patches (Jun et al. 2026, "I'm a Map!", arXiv 2603.02919)."""

from __future__ import annotations

from typing import Any

import numpy as np
from xarray import DataArray

from wanlab.analysis.layout import AttentionError, labelled, layered, resized
from wanlab.core import Capture
from wanlab.core.pattern import matches


def gramcol(pipe: Any, image: Any, prompt: str, word: str, seed: int = 0, *, at: str = "**.cross*.**", motion: float | None = None,
            size: tuple[int, int] = (8, 8), when: dict[str, Any] | None = None, **generate: Any) -> DataArray:
    """Heat of a word in every frame: (frame h w), averaged over heads, layers and steps, then from 0 to 1 in each frame.

    In each frame the patch that reads the word most stands for it (its surrogate); the heat of a patch is the inner product of
    its attention output with the surrogate's: a column of the Gram matrix. motion: the part of the heads that is kept (0.25),
    those whose outputs tell the frames apart best (`separation`), for words of motion; None: all heads. Sites: `z`, and the
    word's columns of `pattern`.
    """
    texts = [name.removesuffix(".k") for name in pipe.sites("**.k").names
             if matches(pipe.text_sites, name) and matches(at, name) and pipe.grid_of(name.removesuffix("k") + "z") is not None]
    keys = sorted({i for part in word.split() for i in pipe.tokens_of(pipe.request(image, prompt), part, 0)})
    limits = {**(when or {}), "branch": "cond"}
    captures = [Capture.of({"at": f"{layer}.{site}", **limits, **({"keys": keys} if site == "pattern" else {})})
                for layer in texts for site in ("z", "pattern")]
    record = pipe.generate(image, prompt, seed, capture=captures, **generate).record
    found, apart = {}, {}
    for layer in texts:
        z, reads = (labelled(record[f"{layer}.{site}"], pipe.grid_of(f"{layer}.{site}"), j="key") for site in ("z", "pattern"))
        if "frame" not in z.dims:
            continue
        array = columns(z, reads.sum("key"))
        found[layer], apart[layer] = resized(array, size), separation(z)
    if not found:
        raise AttentionError(f"nothing that matches {at!r} reads the prompt's words in every frame")
    heat, score = layered(found), layered(apart)
    if motion is not None:
        least = np.nanquantile(score.mean([axis for axis in score.dims if axis not in ("layer", "head")]), 1 - motion)
        heat = heat.where(score.mean([axis for axis in score.dims if axis not in ("layer", "head")]) >= least)
    heat = heat.mean([axis for axis in heat.dims if axis not in ("frame", "h", "w")])
    low, high = heat.min(["h", "w"]), heat.max(["h", "w"])
    return (heat - low) / (high - low).clip(min=1e-12)


def columns(z: DataArray, reads: DataArray) -> DataArray:
    """Of outputs (… frame h w unit) the Gram column of the patch of each frame that reads most."""
    flat = z.transpose(..., "frame", "h", "w", "unit")
    lead, (h, w, d) = flat.shape[:-3], flat.shape[-3:]
    tokens, hottest = flat.values.reshape(*lead, h * w, d), reads.transpose(*flat.dims[:-1]).values.reshape(*lead, h * w).argmax(-1)
    surrogate = np.take_along_axis(tokens, hottest[..., None, None], -2)
    heat = (tokens * surrogate).sum(-1)
    coords = {name: one for name, one in flat.coords.items() if "unit" not in one.dims}
    return DataArray(heat.reshape(*lead, h, w), dims=flat.dims[:-1], coords=coords)


def separation(z: DataArray) -> DataArray:
    """How well outputs tell the frames apart: between over within dispersion (Calinski & Harabasz 1974), without frame, h and w."""
    tokens = z.stack(patch=("h", "w"))
    n, f = tokens.sizes["patch"], tokens.sizes["frame"]
    centre = tokens.mean("patch")
    between = n * ((centre - centre.mean("frame")) ** 2).sum(["frame", "unit"]) / max(f - 1, 1)
    within = ((tokens - centre) ** 2).sum(["frame", "patch", "unit"]) / max(f * (n - 1), 1)
    return between / within.clip(min=1e-12)
