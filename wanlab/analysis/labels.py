"""Labels of clips of the procedural world, as probes take them, and how clips are parted for training and for judging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wanlab.core.nearest import suggestion
from wanlab.data.clip import Clips


class ProbeError(ValueError):
    """Labels, splits or features that no probe can be trained or judged on."""


def of_truth(clips: Clips) -> dict[str, np.ndarray]:
    """Of the first object of each clip: shape, colour, motion (words), speed (number), x and y (number for each frame).

    Positions are those of its centre, fractions of the width. Raises ProbeError for clips without truth.
    """
    if clips.factors is None or clips.tracks is None:
        raise ProbeError("these clips carry no truth: take them from a World")
    things = [clip["objects"][0] for clip in clips.factors]
    tracks = clips.tracks[:, :, 1].double().numpy()
    return {**{name: np.array([thing[name] for thing in things]) for name in ("shape", "colour", "motion")},
            "speed": np.array([clip["speed"] for clip in clips.factors]), "x": tracks[..., 0], "y": tracks[..., 1]}


def types_of(labels: Mapping[str, np.ndarray], names: Sequence[str] = ("colour", "shape")) -> np.ndarray:
    """What kind of clip each is, for the control task: "red circle". ProbeError for a label that there is not."""
    for name in names:
        if name not in labels:
            raise ProbeError(f"no label {name!r}{suggestion(name, list(labels))}")
    return np.array([" ".join(map(str, row)) for row in zip(*(labels[name] for name in names), strict=True)])


@dataclass(frozen=True)
class Split:
    """Numbers of the clips that are trained on, that choose the penalty, and that are judged."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @classmethod
    def draw(cls, clips: int, labels: Sequence[Label] = (), shares: tuple[float, float] = (0.2, 0.3), seed: int = 0) -> Split:
        """Whole clips at random; shares of validation and test, the rest is trained on. Drawn again, up to a thousand times, until
        every class of the labels has two members in each part; raises ProbeError where that never comes."""
        source = np.random.default_rng(seed)
        ends = np.cumsum([round(share * clips) for share in shares])
        for last in (*[False] * 999, True):
            order = source.permutation(clips)
            split = cls(np.sort(order[ends[1]:]), np.sort(order[:ends[0]]), np.sort(order[ends[0]:ends[1]]))
            try:
                for label in labels:
                    label.check(split)
                break
            except ProbeError:
                if last:
                    raise
        return split

    def __post_init__(self) -> None:
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            both = np.intersect1d(getattr(self, one), getattr(self, other))
            if both.size:
                raise ProbeError(f"clip {both[0]} is in both {one} and {other}: what is judged must not have been trained on")
        for name in ("train", "validation", "test"):
            if len(getattr(self, name)) < 2:
                raise ProbeError(f"{len(getattr(self, name))} clips in {name}: a probe needs two or more in each part")

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """The three by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


@dataclass(frozen=True)
class Label:
    """One label of all clips: classes (words, whole numbers) or numbers, `values` (clips) or (clips, frames)."""

    name: str
    values: np.ndarray
    classes: tuple[Any, ...] | None

    @classmethod
    def of(cls, name: str, values: Any, clips: int) -> Label:
        """Raises ProbeError for another length, NaN, or classes for each frame."""
        values = np.asarray(values)
        if values.shape[:1] != (clips,):
            raise ProbeError(f"{name}: {len(values) if values.ndim else 'no'} labels for {clips} clips: one for each")
        numbers = values.dtype.kind == "f"
        if numbers and not np.isfinite(values).all():
            raise ProbeError(f"{name} of clip {np.argwhere(~np.isfinite(values))[0][0]} is not a finite number")
        if values.ndim > 2 or (values.ndim == 2 and not numbers):
            raise ProbeError(f"{name} has shape {values.shape}: classes are one for each clip, numbers one for each clip or frame")
        return cls(name, values, None if numbers else tuple(np.unique(values).tolist()))

    def check(self, split: Split) -> None:
        """ProbeError where a class has one member, or none, in a part of the split, or numbers do not differ."""
        if self.classes is None:
            if np.ptp(self.values[split.test]) == 0 or np.ptp(self.values[split.train]) == 0:
                raise ProbeError(f"{self.name} is the same for all clips: there is nothing to tell apart")
            return
        if len(self.classes) < 2:
            raise ProbeError(f"{self.name} has one class, {self.classes[0]!r}: there is nothing to tell apart")
        for part, clips in split.parts.items():
            for one in self.classes:
                count = int((self.values[clips] == one).sum())
                if count < 2:
                    members = "one member" if count else "no member"
                    raise ProbeError(f"{self.name}: the class {one!r} has {members} among the {len(clips)} clips of {part}: give "
                                     "more clips, leave the class out, or give another split=")

    def control(self, types: np.ndarray, seed: int) -> Label:
        """The control task (Hewitt & Liang 2019): every type of clip gets the label of a clip drawn at random."""
        kinds, of = np.unique(types, return_inverse=True)
        drawn = np.random.default_rng(seed).permutation(len(self.values))[np.arange(len(kinds)) % len(self.values)]
        return Label(f"control of {self.name}", self.values[drawn][of], self.classes)
