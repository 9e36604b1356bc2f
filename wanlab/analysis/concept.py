"""ConceptAttention: concepts against patches in the space of attention outputs (Helbling et al. 2025, arXiv 2502.04320)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from xarray import DataArray

from wanlab.analysis.layout import layered, resized
from wanlab.analysis.texts import kept, text_layers, tokens


def concepts(pipe: Any, image: Any, prompt: str, words: Sequence[str], seed: int = 0, *, at: str = "**",
             size: tuple[int, int] = (8, 8), when: dict[str, Any] | None = None, **generate: Any) -> DataArray:
    """Share of each concept in every patch: (frame h w word), a softmax over the concepts, averaged over layers and steps.

    The paper compares outputs of attention: of a patch, and of a concept's token in joint attention. Where text is only read
    (cross-attention), nothing attends for a concept; its output is then what it would give itself, its value. The concepts are
    words of the prompt. at: which of the attentions that read the prompt in every frame. Sites: patches' `z`, words' `v`.
    """
    layers, said = text_layers(pipe, at), tokens(pipe, image, prompt, words)
    keys = sorted({i for one in said for i in one})
    found = {}
    for layer, held in kept(pipe, image, prompt, seed, layers, {"z": None, "v": keys}, when, **generate).items():
        z, v = held["z"], held["v"]
        v = v.isel(frame=0) if "frame" in v.dims else v
        means = [v.isel(key=[keys.index(i) for i in one]).mean("key") for one in said]
        logits = np.stack([(z * mean).sum(["head", "unit"]).values for mean in means], -1) / np.sqrt(z.sizes["unit"])
        share = np.exp(logits - logits.max(-1, keepdims=True))
        dims = [axis for axis in z.dims if axis not in ("head", "unit")]
        array = DataArray(share / share.sum(-1, keepdims=True), dims=(*dims, "word"), coords={"word": list(words)})
        found[layer] = resized(array, size)
    whole = layered(found)
    return whole.mean([axis for axis in whole.dims if axis not in ("frame", "h", "w", "word")])
