"""GramCol and motion-attentive maps: columns of the Gram matrix of patches (Jun et al. 2026, "I'm a Map!", arXiv 2603.02919)."""

from __future__ import annotations

from typing import Any

import numpy as np
from einops import rearrange
from xarray import DataArray

from wanlab.analysis.layout import AttentionError, layered, resized
from wanlab.analysis.texts import kept, text_layers, tokens


def gramcol(pipe: Any, image: Any, prompt: str, word: str, seed: int = 0, *, at: str = "**", motion: float | None = None,
            size: tuple[int, int] = (8, 8), when: dict[str, Any] | None = None, **generate: Any) -> DataArray:
    """Heat of a word in every frame: (frame h w), averaged over tokens, heads, layers and steps, then from 0 to 1 in each frame.

    In each frame, and for each head and token, the patch whose query agrees most with the token's key stands for it (its
    surrogate); the heat of a patch is the inner product of its attention output with the surrogate's: a column of the Gram matrix.
    Columns are standardised over all tokens of the prompt's words before heads are averaged. motion: the part of each layer's
    heads that is kept at each step (0.25: 3 of 12, as published for Wan), those whose outputs tell the frames apart best
    (`separation`), for words of motion: IMAP; None: all heads.

    The authors' code standardises over padding tokens too, and takes the middle layers alone; here `at` says which. Sites: `z` and
    `q`, and `k` of the words. AttentionError for a prompt of one token.
    """
    layers, words = text_layers(pipe, at), pipe.words_of(pipe.request(image, prompt), 0)
    own, *every = tokens(pipe, image, prompt, [word, *words])
    keys = sorted({i for one in every for i in one})
    found = {}
    for layer, held in kept(pipe, image, prompt, seed, layers, {"z": None, "q": None, "k": keys}, when, **generate).items():
        heat = standardised(columns(held["z"], held["q"], held["k"])).isel(key=[keys.index(i) for i in own]).mean("key")
        if motion is not None:
            heat = heat.where(moving(held["z"], motion))
        found[layer] = resized(heat.mean("head"), size)
    whole = layered(found)
    whole = whole.mean([axis for axis in whole.dims if axis not in ("frame", "h", "w")])
    low, high = whole.min(["h", "w"]), whole.max(["h", "w"])
    return (whole - low) / (high - low).clip(min=1e-12)


def columns(z: DataArray, q: DataArray, k: DataArray) -> DataArray:
    """Of outputs and queries (… head frame h w unit) and keys (… head [frame] key unit) the Gram column of each key's surrogate in
    each frame: (… head frame h w key)."""
    lead = [axis for axis in z.dims if axis not in ("frame", "h", "w", "unit")]
    z, q = (x.transpose(*lead, "frame", "h", "w", "unit") for x in (z, q))
    k = (k if "frame" in k.dims else k.expand_dims("frame")).transpose(*lead, "frame", "unit", "key")
    patches, queries = (rearrange(x.values, "... h w d -> ... (h w) d") for x in (z, q))
    strongest = (queries @ k.values).argmax(-2)                                             # … frame key
    surrogates = np.take_along_axis(patches, strongest[..., None], -2)                      # … frame key unit
    heat = rearrange(patches @ surrogates.swapaxes(-1, -2), "... (h w) t -> ... h w t", h=z.sizes["h"])
    coords = {name: one for name, one in z.coords.items() if "unit" not in one.dims}
    return DataArray(heat, dims=(*lead, "frame", "h", "w", "key"), coords=coords)


def standardised(heat: DataArray) -> DataArray:
    """Each number in standard deviations from the mean over the keys, so that no key's length and no patch's decides.

    AttentionError for a single token.
    """
    if heat.sizes["key"] < 2:
        raise AttentionError("columns are standardised over the prompt's tokens: it needs two at least")
    return (heat - heat.mean("key")) / (heat.std("key", ddof=1) + 1e-6)


def moving(z: DataArray, part: float) -> DataArray:
    """Which heads are among this part of their layer's, one at least, whose outputs tell the frames apart best: (… head) bool."""
    score = separation(z).transpose(..., "head")
    count = max(1, round(part * score.sizes["head"]))
    return score >= np.sort(score.values, -1)[..., -count, None]


def separation(z: DataArray) -> DataArray:
    """How well outputs tell the frames apart: between over within dispersion (Calinski & Harabasz 1974), without frame, h and w."""
    tokens = z.stack(patch=("h", "w"))
    n, f = tokens.sizes["patch"], tokens.sizes["frame"]
    centre = tokens.mean("patch")
    between = n * ((centre - centre.mean("frame")) ** 2).sum(["frame", "unit"]) / max(f - 1, 1)
    within = ((tokens - centre) ** 2).sum(["frame", "patch", "unit"]) / max(f * (n - 1), 1)
    return between / within.clip(min=1e-12)
