"""What a run attended to: frame profiles, word maps, statistics per head, and the map of any query, as labelled arrays.

    seen = attention.read(pipe, image, "a red circle moves left", at="generator.**", words=["red circle", "left"])
    seen.words()            # step branch row layer head frame h w word
    seen.profile()          # step branch row layer head frame to
    seen.statistics()       # a Dataset: first_frame, self_frame, distance, radius, entropy, padding, image, rest
    seen.map("generator.mid.temporal.attn", step=0).row(frame=3, h=1, w=2)          # head frame h w

Exact, from reads beside the fused kernel (`wanlab.nn.reads`); the video keeps its bytes unless `split=True` was said. How tokens
stand comes from the axes of the sites and from the pipeline (`grid_of`), never from a length.
The sums over parts of a map, and their names, are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray
from xarray import DataArray, Dataset

from wanlab.analysis.layout import AttentionError, labelled, layered, resized
from wanlab.analysis.map import KEPT, AttentionMap
from wanlab.core import Capture, Record, Site
from wanlab.core.nearest import suggestion
from wanlab.nn.offer import split_keys

STREAMED = {"mass": "bkfp", "moments": "bku", "entropy": "bk"}          # axes that are kept apart; the others are averaged


def layers(pipe: Any, at: str = "**") -> list[str]:
    """The attentions of a pipeline whose names match a glob (or whose parts do: "generator.**"), in the order of its modules.

    AttentionError where none does.
    """
    names = [name.removesuffix(".pattern") for name in pipe.sites("**.pattern").names]
    found = [name for name in names if f"{name}.pattern" in _matching(pipe, at)]
    if not found:
        raise AttentionError(f"no attention matches {at!r}{suggestion(at, names)}; there are {', '.join(names)}")
    return found


def _matching(pipe: Any, at: str) -> set[str]:
    sites = pipe.sites("**.pattern")
    return {name for glob in (at, f"{at}.pattern") for name in sites.narrow(glob).names}


def read(pipe: Any, image: Any = None, prompt: Any = "", seed: Any = 0, *, at: str = "**", words: Sequence[str] = (),
         negative_words: Sequence[str] = (), maps: str | None = None, each: str = "step|branch", when: Mapping[str, Any] = {},
         split: bool = False, **generate: Any) -> Attended:
    """Run a pipeline and read its attention.

    at               which attentions; words are read of those among them that carry the prompt
    words            of the prompt; several in one string are one ("red circle"), wherever and however often they stand
    negative_words   of the negative prompt, read in the branch `uncond`
    maps             attentions whose queries and keys are kept: any row, frame pair or column of their maps on demand
    each             which parts of the clock are kept apart: "step|branch", "branch" (the mean over steps), "step" or ""
    when             limits: {"steps": "0:4", "branch": "cond"}
    split            read mass by splitting the keys: cheaper, and the video then differs by rounding
    generate         the rest of `pipe.generate`: steps=, negative=, edits=, budget=, ...

    Raises before anything runs: LookupError for a word that is not in the prompt, with the prompt's words; BudgetError for
    what would not fit; AttentionError for a name that no attention has.
    """
    asked = {name: generate[name] for name in ("steps", "guidance", "negative") if name in generate}
    request = pipe.request(image, prompt, seed, **asked)
    plan = Reads(pipe, request, layers(pipe, at), tuple(words), tuple(negative_words), each, dict(when),
                 layers(pipe, maps) if maps else [])
    captures = [*plan.captures, *generate.pop("capture", ())]
    with split_keys() if split else nullcontext():
        out = pipe.generate(image, prompt, seed, capture=captures, **generate)
    return Attended(plan, out.record, out)


@dataclass
class Reads:
    """Which reads of which attentions are captured, and under which names they stand in the record."""

    pipe: Any
    request: Any
    layers: list[str]
    words: tuple[str, ...] = ()
    negative_words: tuple[str, ...] = ()
    each: str = "step|branch"
    when: dict[str, Any] = field(default_factory=dict)
    maps: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        sites = self.pipe.sites()
        self.names: dict[tuple[str, str], str] = {}
        self.tokens: dict[tuple[str, str], list[list[int]]] = {}        # (word, branch) -> tokens of each row
        for word, branch in [(word, "cond") for word in self.words] + [(word, "uncond") for word in self.negative_words]:
            self.tokens[word, branch] = [self._tokens(word, branch, row) for row in range(len(self.request))]
        self.keys = sorted({token for rows in self.tokens.values() for row in rows for token in row})
        self.captures = [one for layer in self.layers for one in self._streamed(layer, sites)]
        self.captures += [Capture.of({"at": f"{layer}.{read}", **self._when(sites[f"{layer}.{read}"])})
                          for layer in self.maps for read in KEPT]
        if self.keys and not self.texts:
            raise AttentionError(f"none of {', '.join(self.layers)} reads the prompt's words; those of "
                                 f"{self.pipe.text_sites} do")

    @property
    def texts(self) -> list[str]:
        """The layers whose keys are the prompt's."""
        return [layer for layer, read in self.names if read == "pattern"]

    def _tokens(self, word: str, branch: str, row: int) -> list[int]:
        request = self.request
        if branch == "uncond":
            if request.negative is None:
                raise AttentionError(f"{word!r} is to be read of the negative prompt, but there is none: say negative=")
            request = replace(request, prompts=request.negative)
        return sorted({token for one in word.split() for token in self.pipe.tokens_of(request, one, row)})

    def _when(self, site: Site) -> dict[str, Any]:
        """The limits that this site can have."""
        part = {"steps": "step", "sigma": "step", "branch": "branch"}
        return {name: value for name, value in self.when.items() if part.get(name, name) in (site.clock or ())}

    def _streamed(self, layer: str, sites: Any) -> Iterable[Capture]:
        for read, kept in STREAMED.items():
            site = sites[f"{layer}.{read}"]
            kept += "n" if self.pipe.grid_of(site.name) is not None else ""     # to leave out registers, and tell frames apart
            yield self._mean(layer, read, site, [axis for axis in site.axes if axis in kept], {})
        if self.keys and _carries(self.pipe, f"{layer}.k"):
            site = sites[f"{layer}.pattern"]
            yield self._mean(layer, "pattern", site, site.axes, {"keys": self.keys})

    def _mean(self, layer: str, read: str, site: Site, per: Sequence[str], limits: dict[str, Any]) -> Capture:
        by = f",by={self.each}" if self.each else ""
        capture = Capture.of({"at": site.name, "keep": f"mean(per={'|'.join(per)}{by})", **limits, **self._when(site)})
        self.names[layer, read] = f"{site.name} -> {capture.keep}"
        return capture


def _carries(pipe: Any, site: str) -> bool:
    from wanlab.core.pattern import matches

    return matches(pipe.text_sites, site)


@dataclass
class Attended:
    """What was read of one run. `plan` says what of which layers, `record` holds it."""

    plan: Reads
    record: Record
    out: Any = None

    def _array(self, layer: str, read: str, **names: str) -> DataArray:
        entry = self.record[self.plan.names[layer, read]]
        return labelled(entry, self.plan.pipe.grid_of(f"{layer}.{read}"), **names)

    def words(self, words: Sequence[str] | None = None, branch: str = "cond", at: str | None = None,
              size: tuple[int, int] | None = None) -> DataArray:
        """Attention of every place to words: (step branch row layer head frame h w word). Tokens of one word are added up.

        branch: whose prompt is meant; at: some of the layers; size: h and w to which layers of other grids are brought.
        AttentionError for a word that was not read.
        """
        held = [word for word, where in self.plan.tokens if where == branch]
        words = held if words is None else list(words)
        for word in words:
            if word not in held:
                raise AttentionError(f"{word!r} was not read in branch {branch}{suggestion(word, held)}; read: {', '.join(held)}")
        if not words:
            raise AttentionError("no words were read: read(..., words=['left'])")
        maps = {layer: self._words(layer, words, branch) for layer in self._among(at, self.plan.texts)}
        return layered({layer: resized(one, size) if size else one for layer, one in maps.items() if "h" in one.dims})

    def _words(self, layer: str, words: Sequence[str], branch: str) -> DataArray:
        array = self._array(layer, "pattern")
        array = array.sel(branch=[branch]) if "branch" in array.dims else array
        keys, parts = self.plan.keys, []
        for word in words:
            rows = [array.isel(row=row, key=[keys.index(token) for token in tokens]).sum("key")
                    for row, tokens in enumerate(self.plan.tokens[word, branch])]
            parts.append(xarray.concat(rows, "row", coords="minimal", compat="override"))
        return xarray.concat(parts, "word", coords="minimal", compat="override").assign_coords(word=list(words))

    def _among(self, at: str | None, known: Sequence[str]) -> list[str]:
        if at is None:
            return list(known)
        wanted = layers(self.plan.pipe, at)
        found = [layer for layer in known if layer in wanted]
        if not found:
            raise AttentionError(f"{at!r} means none of the layers that were read so: {', '.join(known) or 'none'}")
        return found

    def mass(self, layer: str) -> DataArray:
        """Mass on each part of the keys, averaged over the places of a frame: (step branch row head [frame] part)."""
        return self._of_places(layer, "mass")

    def _of_places(self, layer: str, read: str) -> DataArray:
        array = self._array(layer, read)
        return array.mean([axis for axis in ("h", "w", "token") if axis in array.dims])

    def profile(self, at: str | None = None) -> DataArray:
        """Mass of the queries of each frame on each frame: (step branch row layer head frame to), of layers that see several.

        AttentionError where none does.
        """
        found = {}
        for layer in self._among(at, self.plan.layers):
            mass = self.mass(layer)
            parts = [part for part in mass.part.values if str(part).startswith("frame ")]
            if "frame" in mass.dims and len(parts) > 1:
                to = mass.sel(part=parts).rename(part="to")
                found[layer] = to.assign_coords(to=np.arange(len(parts)), frame=np.arange(mass.sizes["frame"]))
        if not found:
            raise AttentionError(f"none of these attends from frame to frame: {', '.join(self._among(at, self.plan.layers))}")
        return layered(found)

    def statistics(self, at: str | None = None) -> Dataset:
        """Numbers of each head, (step branch row layer head); NaN where a layer has no such thing.

        first_frame   mass on the first frame (the one that the video is conditioned on)
        self_frame    mass on the query's own frame
        distance      mean |dt| in frames, of the mass on frames
        radius        root mean square distance in space, in widths of the frame, of the mass on a grid; NaN where the keys are
                      frames at the query's own place, and so have no place of their own
        entropy       in nats
        padding, image, rest  mass on the text's padding, on image tokens, on tokens that stand nowhere (registers)
        """
        found: dict[str, dict[str, DataArray]] = {}
        for layer in self._among(at, self.plan.layers):
            for name, array in self._numbers(layer).items():
                found.setdefault(name, {})[layer] = array
        return Dataset({name: layered(arrays) for name, arrays in found.items()})

    def _numbers(self, layer: str) -> dict[str, DataArray]:
        mass, moments, entropy = self.mass(layer), self._of_places(layer, "moments"), self._of_places(layer, "entropy")
        numbers = {"entropy": entropy.mean("frame") if "frame" in entropy.dims else entropy}
        moments = moments.mean("frame") if "frame" in moments.dims else moments
        on_grid = moments.sel(moment="mass", drop=True)
        grid = self.plan.pipe.grid_of(f"{layer}.k")
        places = grid is None or grid.height * grid.width > 1
        numbers["radius"] = np.sqrt((moments.sel(moment="dr2", drop=True) / on_grid.where((on_grid > 0) & places)).clip(min=0))
        for part in ("padding", "image", "rest"):
            if part in mass.part.values:
                one = mass.sel(part=part, drop=True)
                numbers[part] = one.mean("frame") if "frame" in one.dims else one
        if "frame" in mass.dims and "frame 0" in mass.part.values and "frame 1" not in mass.part.values:
            numbers["self_frame"] = mass.sel(part="frame 0", drop=True).mean("frame")      # keys of the query's own frame alone
        if "frame" in mass.dims and "frame 1" in mass.part.values:
            profile = self.profile(layer).isel(layer=0, drop=True)
            away = abs(profile.frame - profile.to)
            numbers["first_frame"] = profile.sel(to=0, drop=True).mean("frame")
            numbers["self_frame"] = profile.where(away == 0, 0).sum("to").mean("frame")
            numbers["distance"] = ((profile * away).sum("to") / profile.sum("to")).mean("frame")
        return numbers

    def map(self, layer: str, step: int | None = None, branch: str | None = None, row: int = 0) -> AttentionMap:
        """The map of one attention at one moment, of which any part is computed on demand (`read(..., maps=...)`).

        AttentionError for one not kept.
        """
        if layer not in self.plan.maps:
            raise AttentionError(f"the map of {layer!r} was not kept{suggestion(layer, self.plan.maps)}: read(..., maps={layer!r})")
        return AttentionMap.of(self.plan.pipe, self.record, layer, step, branch, row)
