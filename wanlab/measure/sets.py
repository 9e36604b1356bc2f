"""Distances between sets: seven over one extraction of features, under any protocol of `metrics.protocol`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanlab.measure.door import part
from wanlab.measure.kinds import Features, MetricInfo, SetMeasure, absent

DEFAULT = "motionnet"
OFFSETS = ("first", "middle", "seeded", "uniform")
SUBSET = 1000  # samples in one subset of KVD


@dataclass(frozen=True)
class Clips:
    """Which protocol, and where its clips differ from the preset's (None: they do not)."""

    preset: str = DEFAULT
    frames: int | None = None
    stride: int | None = None
    offset: str | None = None
    seed: int = 0


@dataclass
class Workshop:
    """What measures are built from: a device, weights that were given (name -> path), clips; and what several of them share."""

    device: torch.device
    weights: Mapping[str, str | Path] = field(default_factory=dict)
    clips: Clips = field(default_factory=Clips)
    held: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make()` gave when it was first asked for under this key."""
        if key not in self.held:
            self.held[key] = make()
        return self.held[key]

    def features(self, clips: Clips) -> Features:
        """The extractor of a protocol, shared by all distances over it."""
        return self.once(("features", clips), lambda: Features(self._extractor(clips)))

    def _extractor(self, clips: Clips) -> Any:
        protocol = part("protocol").preset(clips.preset).with_clips(clips.frames, clips.stride, clips.offset)
        return part("networks").extractor(protocol, self.weights, self.device, clips.seed)


def _frechet(ddof: int) -> Callable[[Tensor, Tensor], Tensor]:
    distance = part("frechet").frechet_distance
    return distance if ddof == 1 else partial(distance, ddof=ddof)


def _kvd(x: Tensor, y: Tensor) -> Tensor:
    """The mean over random subsets of 1000, or the statistic of both whole sets where there are not more."""
    kernel = part("kernel")
    if max(len(x), len(y)) <= SUBSET:
        return kernel.polynomial_mmd(x, y)
    return kernel.kernel_distance(x, y, subset_size=min(SUBSET, len(x), len(y))).mean


def _jedi(x: Tensor, y: Tensor) -> Tensor:
    return part("kernel").jedi_distance(x, y)


def _manifold(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: getattr(part("manifold").manifold_metrics(y, x), name)


ENDLESS = float("inf")
# distance -> better, range, samples of each set that it needs, function of the covariances' divisor, what it is
DISTANCES: dict[str, tuple[bool, tuple[float, float], int, Callable[[int], Callable[[Tensor, Tensor], Tensor]], str]] = {
    "fvd": (False, (0, ENDLESS), 2, _frechet, "Frechet distance of features to the reference"),
    "kvd": (False, (-ENDLESS, ENDLESS), 2, lambda ddof: _kvd, "unbiased cubic-kernel distance of features to the reference"),
    "jedi": (False, (0, ENDLESS), 2, lambda ddof: _jedi, "JEDi's quadratic-kernel distance of features to the reference"),
    "precision": (True, (0, 1), 6, lambda ddof: _manifold("precision"), "share of the samples that lie among the reference"),
    "recall": (True, (0, 1), 6, lambda ddof: _manifold("recall"), "share of the reference that lies among the samples"),
    "density": (True, (0, ENDLESS), 6, lambda ddof: _manifold("density"), "how many neighbourhoods of the reference hold a sample"),
    "coverage": (True, (0, 1), 6, lambda ddof: _manifold("coverage"), "share of the reference's neighbourhoods that hold a sample"),
}


def infos() -> dict[str, MetricInfo]:
    """Every distance by its short name."""
    choices = (DEFAULT, *(name for name in part("protocol").PRESETS if name != DEFAULT))
    return {
        name: MetricInfo(name, better, "set", frozenset({"reference"}), summary, choices)
        for name, (better, _, _, _, summary) in DISTANCES.items()
    }


def build(name: str, parts: list[str], workshop: Workshop) -> SetMeasure:
    """A distance from what its brackets ask for; what they leave out is the workshop's.

    Raises:
        ValueError: a preset or clips that there are not. WeightsError: weights that are missing.
    """
    clips = asked(parts, workshop.clips)
    better, bounds, fewest, function, _ = DISTANCES[name]
    source = workshop.features(clips)
    key, full, of = key_of(name, clips), f"{name}[{source.extractor.label}]", function(source.extractor.protocol.ddof)
    return SetMeasure(key, full, better, frozenset({"reference"}), source, of, bounds, fewest)


def stored(name: str, parts: list[str]) -> SetMeasure:
    """A distance between features that were kept: without the network that made them. Raises ValueError as `build`."""
    clips = asked(parts, Clips())
    better, bounds, fewest, function, _ = DISTANCES[name]
    of = function(part("protocol").preset(clips.preset).ddof)
    return SetMeasure(key_of(name, clips), name, better, frozenset({"reference"}), absent, of, bounds, fewest)


def key_of(name: str, clips: Clips) -> str:
    """The short name of a distance over such clips."""
    return name if clips == Clips() else f"{name}[{'|'.join(_differing(clips))}]"


def asked(parts: list[str], clips: Clips) -> Clips:
    """The clips that the parts of a name say: preset, frames (16f), stride (s1), offset, seed (seed5), in any order but the preset
    first."""
    given: dict[str, Any] = {}
    for place, text in enumerate(parts):
        if re.fullmatch(r"\d+f", text):
            given["frames"] = int(text[:-1])
        elif re.fullmatch(r"s\d+", text):
            given["stride"] = int(text[1:])
        elif re.fullmatch(r"seed\d+", text):
            given["seed"] = int(text[4:])
        elif text in OFFSETS:
            given["offset"] = text
        elif place == 0 and ":" not in text:
            given["preset"] = text
    if given.get("preset", clips.preset) != clips.preset:
        clips = Clips(offset=clips.offset, seed=clips.seed)  # those frames and strides were said of another
    whole = Clips(**{**vars(clips), **given})
    known = part("protocol").PRESETS.get(whole.preset)
    if known is None:
        return whole
    frames = None if whole.frames == known.frames else whole.frames
    stride = None if whole.stride == known.stride else whole.stride
    return Clips(whole.preset, frames, stride, whole.offset, whole.seed)


def _differing(clips: Clips) -> list[str]:
    said = [clips.preset]
    said += [] if clips.frames is None else [f"{clips.frames}f"]
    said += [] if clips.stride is None else [f"s{clips.stride}"]
    said += [] if clips.offset is None else [clips.offset]
    return said + ([f"seed{clips.seed}"] if clips.seed else [])
