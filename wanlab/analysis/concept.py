"""ConceptAttention: concepts against patches in the space of attention outputs (Helbling et al. 2025, arXiv 2502.04320)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from xarray import DataArray

from wanlab.analysis.layout import labelled, layered, resized
from wanlab.core import Capture
from wanlab.core.pattern import matches


def concepts(pipe: Any, image: Any, prompt: str, words: Sequence[str], seed: int = 0, *, at: str = "**.cross*.**",
             size: tuple[int, int] = (8, 8), when: dict[str, Any] | None = None, **generate: Any) -> DataArray:
    """Share of each concept in every patch: (frame h w word), a softmax over the concepts, averaged over layers and steps.

    The paper compares outputs of attention: of a patch, and of a concept's token in joint attention. Where text is only read
    (cross-attention), nothing attends for a concept; its output is then what it would give itself, its value. The concepts are
    words of the prompt. Sites: `z` of the patches, `v` of the words.
    """
    texts = [name.removesuffix(".k") for name in pipe.sites("**.k").names
             if matches(pipe.text_sites, name) and matches(at, name) and pipe.grid_of(name.removesuffix("k") + "z") is not None]
    tokens = [[i for part in word.split() for i in pipe.tokens_of(pipe.request(image, prompt), part, 0)] for word in words]
    keys = sorted({i for one in tokens for i in one})
    limits = {**(when or {}), "branch": "cond"}
    captures = [Capture.of({"at": f"{layer}.{site}", **limits, **({"keys": keys} if site == "v" else {})})
                for layer in texts for site in "zv"]
    record = pipe.generate(image, prompt, seed, capture=captures, **generate).record
    found = {}
    for layer in texts:
        z, v = (labelled(record[f"{layer}.{site}"], pipe.grid_of(f"{layer}.{site}") if site == "z" else None, j="key")
                for site in "zv")
        v = v.isel(frame=0) if "frame" in v.dims else v
        means = [v.isel(key=[keys.index(i) for i in one]).mean("key") for one in tokens]
        logits = np.stack([(z * mean).sum(["head", "unit"]).values for mean in means], -1) / np.sqrt(z.sizes["unit"])
        share = np.exp(logits - logits.max(-1, keepdims=True))
        dims = [axis for axis in z.dims if axis not in ("head", "unit")]
        array = DataArray(share / share.sum(-1, keepdims=True), dims=(*dims, "word"), coords={"word": list(words)})
        found[layer] = resized(array, size)
    whole = layered(found)
    return whole.mean([axis for axis in whole.dims if axis not in ("frame", "h", "w", "word")])
