"""Attentions that read the prompt in every frame: which they are, and what of them one run of one prompt keeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xarray import DataArray

from wanlab.analysis.layout import AttentionError, labelled
from wanlab.core import Capture
from wanlab.core.pattern import matches


def text_layers(pipe: Any, at: str = "**") -> list[str]:
    """Those whose keys carry the prompt and whose queries stand in the frames of the video, of those that match `at`.

    AttentionError, before anything runs, where there is none.
    """
    from wanlab.analysis.attention import layers

    reading = [layer for layer in layers(pipe) if matches(pipe.text_sites, f"{layer}.k") and _in_the_video(pipe, f"{layer}.z")]
    meant = [layer for layer in layers(pipe, at) if layer in reading]
    if not meant:
        raise AttentionError(f"nothing that matches {at!r} reads the prompt's words in every frame; there are "
                             f"{', '.join(reading) or 'no such attentions'}")
    return meant


def _in_the_video(pipe: Any, site: str) -> bool:
    grid, axes = pipe.grid_of(site), pipe.sites()[site].axes
    return {"h", "w"} <= set(axes) or (grid is not None and grid.of == "video" and ("f" in axes or grid.frames > 1))


def tokens(pipe: Any, image: Any, prompt: str, words: Iterable[str]) -> list[list[int]]:
    """Positions of each string of words among the prompt's tokens, in order. LookupError for a word that it does not have."""
    request = pipe.request(image, prompt)
    return [sorted({at for part in word.split() for at in pipe.tokens_of(request, part, 0)}) for word in words]


def kept(pipe: Any, image: Any, prompt: str, seed: int, layers: Sequence[str], sites: Mapping[str, Sequence[int] | None],
         when: Mapping[str, Any] | None = None, **generate: Any) -> dict[str, dict[str, DataArray]]:
    """What passes `sites` of each layer in the branch `cond` of one run, as labelled arrays. sites: of k and v which keys are kept;
    None: all. when: further limits, {"steps": "0:4"}."""
    limits = {**(when or {}), "branch": "cond"}
    captures = [Capture.of({"at": f"{layer}.{site}", **limits, **({} if keys is None else {"keys": list(keys)})})
                for layer in layers for site, keys in sites.items()]
    record = pipe.generate(image, prompt, seed, capture=captures, **generate).record
    return {layer: {site: labelled(record[f"{layer}.{site}"], pipe.grid_of(f"{layer}.{site}"), j="key") for site in sites}
            for layer in layers}
