"""DAAM: word maps as the mean of cross-attention over layers, heads and steps (Tang et al. 2023, arXiv 2210.04885)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xarray import DataArray

from wanlab.analysis import attention
from wanlab.analysis.texts import text_layers


def daam(pipe: Any, image: Any, prompt: Any, words: Sequence[str], seed: Any = 0, *, at: str = "**",
         size: tuple[int, int] | None = None, **generate: Any) -> DataArray:
    """Heat of each word in every frame: (row frame h w word), the mean over layers of all grids brought to `size`.

    Exact, streamed over steps: no map is kept. size: h and w, by default those of the finest layer; at: which of the
    attentions that read the prompt in every frame.
    """
    layers = f"{{{','.join(text_layers(pipe, at))}}}"
    seen = attention.read(pipe, image, prompt, seed, at=layers, words=words, each="branch", **generate)
    if size is None:
        grids = [pipe.grid_of(f"{layer}.pattern") for layer in seen.plan.texts]
        sides = [grid.sides[1:] for grid in grids if grid is not None] or [seen.words().shape[-3:-1]]
        size = max(sides)
    return seen.words(size=size).mean(["layer", "head"]).isel(branch=0, drop=True)
