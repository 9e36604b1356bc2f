"""Probes: what a simple reader finds in the features of a site, beside chance, and beside what it can learn by heart.

    labels = labels.of_truth(clips)                                          # or any mapping of one label for each clip
    means = features.gather(features.pooled(pipe, requests, "generator.*.resid_post", steps=[0, 4, 7]))
    found = probes.linear(means, labels, types=types_of(labels))             # ridge and logistic regression
    found.table; found.figure(["motion", "shape"])
    tokens = features.gather(features.stream(pipe, requests, "generator.*.resid_post", rows=32, steps=[0, 4, 7]))
    probes.attentive(tokens, labels)                                         # a learned query pools over tokens

Clips are parted, never frames; the penalty is chosen on validation clips; scores are of test clips, with bootstrap intervals.
Selectivity is the score less that of a control task in which labels are random by type of clip (Hewitt & Liang 2019, 1909.03368).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from wanlab.analysis import readers
from wanlab.analysis.features import Features
from wanlab.analysis.intervals import Score, explained, interval, mean_of
from wanlab.analysis.labels import Label, ProbeError, Split
from wanlab.analysis.readers import PENALTIES, Reader
from wanlab.core.nearest import suggestion

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Key = tuple[str, int | None, str | None, str]       # site, step, branch, label


@dataclass(frozen=True)
class Probes:
    """`table`, one line for each site, step, branch and label:

    accuracy, low, high          of test clips with its 95 % interval; of numbers R2 (`score` says which)
    chance                       of always saying the most frequent class, its share of all clips; of numbers 0
    permuted                     what 95 % of random pairings of test clips and labels stay below
    control, selectivity         of the control task, and what the accuracy has beyond it, with its interval
    n, n_train, penalty          test clips, training clips, the penalty that validation chose
    """

    table: DataFrame
    readers: Mapping[Key, Reader]

    def reader(self, site: str, label: str, step: int | None = None, branch: str | None = "cond") -> Reader:
        """One fitted probe. LookupError with the nearest."""
        key = (site, step, branch, label)
        if key not in self.readers:
            raise LookupError(f"no probe of {label} at {site}, step {step}, branch {branch}"
                              f"{suggestion(f'{site} {label}', [f'{one[0]} {one[3]}' for one in self.readers])}")
        return self.readers[key]

    def figure(self, labels: Sequence[str] | None = None, note: str = "", width: float = 5.5) -> Figure:
        """Accuracy by layer, a line for each step, a panel for each label, with chance and the control task.

        LookupError for a label without a probe.
        """
        from wanlab.plots.probe import by_layer

        names = list(self.table.label.unique()) if labels is None else list(labels)
        for name in names:
            if name not in set(self.table.label):
                raise LookupError(f"no probe of {name!r}{suggestion(name, list(self.table.label.unique()))}")
        return by_layer({name: self.table[self.table.label == name] for name in names}, note, width)


def linear(features: Sequence[Features], labels: Mapping[str, Any], **how: Any) -> Probes:
    """Linear probes of pooled features, standardised: logistic regression for classes, ridge regression for numbers.

    features   one row for each clip, or for each frame of each clip (`features.pooled(frames=True)`): a label of the clip is then
               read from its frames side by side, a number for each frame from its own frame
    labels     name -> one for each clip: words or whole numbers are classes; floats are numbers, (clips) or (clips, frames)
    types      for the control task, what kind of clip each is (`labels.types_of`): all clips of a type share a random label, which
               can be learnt by heart from the type; by default each clip is a type of its own, and nothing can be learnt
    split      which clips for what, by default drawn by `Split.draw(seed)`, the same for all probes
    penalties  on the weights, of which validation chooses
    seed       of split, control task, bootstrap and permutations

    Raises ProbeError for a class with one member in a part of the split, labels of another length, NaN.
    """
    return _probes(features, labels, readers.linear, _pooled, **how)


def attentive(features: Sequence[Features], labels: Mapping[str, Any], *, where: bool = False, **how: Any) -> Probes:
    """Attentive probes: a learned query pools over the tokens of a clip, a linear map reads what it has pooled.

    features   as many rows for each clip (`features.stream`)
    where      with each token its frame, row and column on the grid (from -1 to 1; 0 where it has none): what is read may then be
               the place of the tokens that the query picks, such as the position of an object

    Other arguments and errors as of `linear`. A number for each frame is read from the tokens of its own frame where each frame has
    as many (all were drawn: `rows` at least frames x tokens), and otherwise with all others from what is pooled.
    """
    return _probes(features, labels, readers.attentive, partial(_tokens, where=where), **how)


def _probes(features: Sequence[Features], labels: Mapping[str, Any], fit: Callable[..., Reader],
            arranged: Callable[[Features, int, Label], np.ndarray], *, types: Sequence[Any] | None = None,
            split: Split | None = None, penalties: Sequence[float] = PENALTIES, seed: int = 0) -> Probes:
    if not features:
        raise ProbeError("no features to read: gather some of a site (wanlab.analysis.features)")
    import pandas

    clips = len(np.unique(features[0].places["sample"]))
    known = [Label.of(name, values, clips) for name, values in labels.items()]
    types = np.arange(clips) if types is None else np.asarray(types)
    if len(types) != clips:
        raise ProbeError(f"{len(types)} types for {clips} clips: one for each")
    split = split or Split.draw(clips, known, seed=seed)
    for label in known:
        label.check(split)
    rows, fitted = [], {}
    for block in features:
        for label in known:
            x = arranged(block, clips, label)
            if not np.isfinite(x).all():
                raise ProbeError(f"{block.site} has NaN or infinite features (step {block.step}, branch {block.branch})")
            reader = fit(x, label, split, penalties, seed)
            other = label.control(types, seed)
            row = _judged(reader, fit(x, other, split, penalties, seed), x, label, other, split, seed)
            rows.append({"site": block.site, "step": block.step, "branch": block.branch, "label": label.name, **row})
            fitted[(*block.key, label.name)] = reader
    table = pandas.DataFrame(rows).astype({"step": "Int64"})
    return Probes(table, fitted)


def _judged(reader: Reader, control: Reader, x: np.ndarray, label: Label, other: Label, split: Split, seed: int) -> dict[str, Any]:
    """One line of the table."""
    n, truth, found = len(split.test), label.values[split.test], reader.read(x[split.test])
    score, of_control = _score(label, truth, found), _score(label, other.values[split.test], control.read(x[split.test]))
    accuracy, low, high = interval(score, n, seed=seed)
    beyond = interval(lambda weights: score(weights) - of_control(weights), n, seed=seed)
    return {"accuracy": accuracy, "low": low, "high": high, "chance": _chance(label),
            "permuted": _permuted(label, truth, found, seed), "control": float(of_control(np.ones((1, n)))[0]),
            "selectivity": beyond[0], "selectivity_low": beyond[1], "selectivity_high": beyond[2], "n": n,
            "n_train": len(split.train), "penalty": reader.penalty, "score": "R2" if label.classes is None else "accuracy"}


def _score(label: Label, truth: np.ndarray, found: np.ndarray) -> Score:
    if label.classes is not None:
        return mean_of((truth == found).astype(float))
    return explained(truth.reshape(len(truth), -1), found.reshape(len(truth), -1))


def _chance(label: Label) -> float:
    """Over all clips: of a class that is frequent in training, fewer are left to be tested, where its share is too low."""
    if label.classes is None:
        return 0.0
    return float(np.unique(label.values, return_counts=True)[1].max() / len(label.values))


def _permuted(label: Label, truth: np.ndarray, found: np.ndarray, seed: int, draws: int = 500) -> float:
    source, clips = np.random.default_rng(seed), np.ones((1, len(truth)))
    scores = [_score(label, truth[source.permutation(len(truth))], found)(clips)[0] for _ in range(draws)]
    return float(np.quantile(scores, 0.95))


def _by_clip(block: Features, clips: int) -> np.ndarray:
    """Rows of each clip, in their order: (clips, rows, width)."""
    sample, rows = block.places["sample"], len(block) // max(clips, 1)
    if not np.array_equal(sample, np.repeat(np.arange(clips), rows)):
        raise ProbeError(f"{block.site} has features of {len(np.unique(sample))} clips, {len(block)} rows in all, and there are "
                         f"labels for {clips}: give blocks of the same clips, each with as many rows (features.gather)")
    return block.values.double().numpy().reshape(clips, rows, -1)


def _pooled(block: Features, clips: int, label: Label) -> np.ndarray:
    """(clips, width), or for numbers of frames (clips, frames, width) where the features have frames."""
    x, frames = _by_clip(block, clips), block.places["frame"]
    if x.shape[1] > 1 and len(np.unique(frames)) != x.shape[1]:
        raise ProbeError(f"{block.site} has {x.shape[1]} rows for each clip: linear probes read means (features.pooled)")
    if label.values.ndim == 2 and x.shape[1] > 1:
        if label.values.shape[1] != x.shape[1]:
            raise ProbeError(f"{label.name} has numbers for {label.values.shape[1]} frames, {block.site} {x.shape[1]} frames")
        return x
    return x.reshape(clips, -1)


def _tokens(block: Features, clips: int, label: Label, where: bool) -> np.ndarray:
    """(clips, tokens, width), or for numbers of frames (clips, frames, tokens, width) where every frame has as many tokens."""
    x = _by_clip(block, clips)
    frames = block.places["frame"].reshape(x.shape[:2])
    if where:
        x = np.concatenate([x, *(_along(block.places[name]).reshape(*x.shape[:2], 1) for name in ("frame", "h", "w"))], -1)
    if label.values.ndim == 1 or (frames < 0).any():
        return x
    count = label.values.shape[1]
    order = np.argsort(frames, 1, kind="stable")
    if x.shape[1] % count or (np.take_along_axis(frames, order, 1) != np.repeat(np.arange(count), x.shape[1] // count)).any():
        return x
    return np.take_along_axis(x, order[..., None], 1).reshape(clips, count, -1, x.shape[-1])


def _along(places: np.ndarray) -> np.ndarray:
    """Positions from -1 to 1, none as 0."""
    return np.where(places < 0, 0.0, 2 * places / max(places.max(), 1) - 1)
