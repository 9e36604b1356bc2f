"""`wanlab.explore(out)`: from what a run kept of its attention to an explorer of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from einops import rearrange

from wanlab.analysis.layout import AttentionError
from wanlab.analysis.map import KEPT, AttentionMap
from wanlab.core import Record
from wanlab.core.pattern import matches
from wanlab.plots.explorer import Explorer
from wanlab.plots.views import Layer, View, Views

CAPTURE = '"**.{q,k,lse,bias}"'


def explore(out: Any, *, row: int = 0, at: str = "**") -> Explorer:
    """Look at the attention of a run: the video with heat over it, by frame, step, branch, layer and head; see `Explorer`.

    out     of `pipe.generate(..., capture="generator.**.attn.{q,k,lse,bias}")` (or of whole `pattern`s), or of
            `attention.read(..., maps="generator.**")`
    row     which row of the batch; at: a glob of layers

    Raises AttentionError where the run kept no maps, with the capture that would.
    """
    given = getattr(out, "out", out)
    pipe = getattr(given, "pipe", None)
    if pipe is None:
        raise AttentionError("explore() takes what pipe.generate or attention.read gave back: without its pipeline nobody knows "
                             "how tokens stand")
    if not 0 <= row < len(given.video):
        raise AttentionError(f"there are {len(given.video)} rows (0 to {len(given.video) - 1}), no row {row}")
    maps = Maps(pipe, given.record, given.request, row)
    layers = [maps.layer(name) for name in maps.names if _meant(at, name)]
    shown = [layer for layer in layers if layer is not None]
    if not shown:
        names = [site.removesuffix(".pattern") for site in pipe.sites("**.pattern").names]
        raise AttentionError(f"this run kept no attention map{'' if at == '**' else f' of {at!r}'} that stands in the video: run "
                             f"it with capture={CAPTURE} (any of {', '.join(names)}); kept: {', '.join(maps.names) or 'none'}")
    video = rearrange(given.video[row], "f c h w -> f h w c").float().clamp(0, 1).cpu().numpy()
    words = {branch: maps.words(branch) for branch in ("cond", "uncond", None)}
    return Explorer(Views(video, shown, maps.heat, words, given.request.prompts[row]))


def _meant(at: str, layer: str) -> bool:
    return matches(at, layer) or matches(f"{at}.pattern", f"{layer}.pattern")


@dataclass
class Maps:
    """The maps that a record holds of one row, lazily: by queries and keys, else by patterns."""

    pipe: Any
    record: Record
    request: Any
    row: int
    _held: dict[tuple[str, int | None, str | None], AttentionMap] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sites = {key.site for key in self.record.firings}
        names = [site.removesuffix(".pattern") for site in self.pipe.sites("**.pattern").names]
        self.lazily = {name for name in names if {f"{name}.{read}" for read in KEPT} <= sites}
        self.names = [name for name in names if name in self.lazily or f"{name}.pattern" in sites]

    def at(self, layer: str, step: int | None, branch: str | None) -> AttentionMap:
        """The map of a layer at one moment; the last ones are held."""
        moment = layer, step, branch
        if moment not in self._held:
            if len(self._held) >= 8:
                self._held.pop(next(iter(self._held)))
            make = AttentionMap.of if layer in self.lazily else AttentionMap.of_pattern
            self._held[moment] = make(self.pipe, self.record, layer, step, branch, self.row)
        return self._held[moment]

    def layer(self, name: str) -> Layer | None:
        """How a layer can be asked; None where its queries stand nowhere in the video."""
        site = f"{name}.q" if name in self.lazily else f"{name}.pattern"
        entry_axes = self.pipe.sites()[f"{name}.q"].axes
        if self.pipe.grid_of(f"{name}.q") is None and not {"f", "h", "w"} & set(entry_axes):
            return None
        moments = {(key.step, key.branch) for key in self.record.firings if key.site == site}
        steps = sorted({step for step, _ in moments}, key=lambda step: -1 if step is None else step)
        branches = [one for one in ("cond", "uncond", None) if all((step, one) in moments for step in steps)]
        if not branches:                                    # no branch was held at every step: those steps that the first was
            branches = [next(branch for branch in ("cond", "uncond", None) if branch in {branch for _, branch in moments})]
            steps = [step for step in steps if (step, branches[0]) in moments]
        one = self.at(name, steps[0], branches[0])
        grid = self.pipe.grid_of(f"{name}.k")
        words = matches(self.pipe.text_sites, f"{name}.k")
        if one.keys is None and not words:
            return None
        return Layer(name, one.heads, tuple(steps), tuple(branches), one.sides, one.keys, words,
                     grid is not None and grid.of == "image")

    def words(self, branch: str | None) -> list[str]:
        """The words of a branch's prompt, each once; none where the branch has no prompt of its own."""
        request = self._request(branch)
        return [] if request is None else list(dict.fromkeys(self.pipe.words_of(request, self.row)))

    def _request(self, branch: str | None) -> Any:
        if branch != "uncond":
            return self.request
        return None if self.request.negative is None else replace(self.request, prompts=self.request.negative)

    def heat(self, view: View) -> np.ndarray:
        """The answer to a view, of all heads or of its own alone: (head frames h w)."""
        one, heads = self.at(view.layer, view.step, view.branch), None if view.head is None else [view.head]
        if view.word is None:
            return one.row(*(view.place or (0, 0, 0)), heads).values
        tokens = self.pipe.tokens_of(self._request(view.branch), view.word, self.row)
        return one.columns(tokens, heads).sum("key", skipna=False).values
