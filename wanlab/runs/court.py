"""The court of `wanlab metrics`: hears videos batch by batch, keeps a few numbers of each, and gives rows with their cautions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wanlab.measure import Batch, SampleMeasure, SetMeasure, part

from .found import Found, Wanted, features_name
from .inference import Resampler
from .pairing import Read
from .verdict import CurveFile, Row

BETTER = {True: "higher", False: "lower", None: "none"}
SAMPLES_PER_FEATURE = 2.5  # below it the bias of a Frechet distance is no longer small beside its value


def some(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class Court:
    """Hears batch after batch and keeps what is small: a number per video and metric, a row of features per video.

    prompts: name of a video -> what it was asked to show.
    """

    def __init__(self, measures: Sequence[Any], curves: CurveFile | None, prompts: Mapping[str, str] | None = None) -> None:
        self.samples = [measure for measure in measures if isinstance(measure, SampleMeasure)]
        self.sets = [measure for measure in measures if isinstance(measure, SetMeasure)]
        self.measures, self.curves, self.prompts = list(measures), curves, prompts or {}
        self.values: dict[str, dict[str, float]] = {measure.name: {} for measure in self.samples}
        extractors = {measure.source.extractor.label: measure.source.extractor for measure in self.sets}
        self.wanted = Wanted(frozenset(self.values), extractors)
        self.features: dict[str, dict[str, torch.Tensor]] = {}
        self.refused: dict[str, dict[str, str]] = {}
        self.shorter: dict[str, str] = {}

    def hear(self, read: Read) -> dict[str, Found]:
        """What each video of a batch gives; nothing is kept of it before `take`."""
        found = {name: Found() for name in read.names}
        if read.fake is not None:
            self._score(read, read.fake, found)
        for extractor in self.wanted.extractors.values():
            if read.fake is not None:
                _extract(extractor, read.fake, read.names, read.names, "fake", found)
            if read.real is not None:
                _extract(extractor, read.real, read.names, read.references, "real", found)
        return found

    def take(self, name: str, found: Found) -> None:
        """Keeps what a video gave."""
        for metric in self.values.keys() & found.values.keys():
            self.values[metric][name] = found.values[metric]
            if self.curves is not None and metric in found.curves:
                self.curves.add(name, metric, *found.curves[metric])
        for side, row in found.features.items():
            self.features.setdefault(side, {})[name] = row
        for what, why in found.refused.items():
            self.refused.setdefault(what, {})[name] = why
        if found.shorter:
            self.shorter[name] = found.shorter

    def in_order(self, names: Sequence[str]) -> None:
        """Everything in the order of these names, whatever came from a cache first: intervals depend on it."""
        tables: Any = (self.values, self.features, self.refused)
        for table in tables:
            for key, held in table.items():
                table[key] = {name: held[name] for name in names if name in held}
        self.shorter = {name: self.shorter[name] for name in names if name in self.shorter}

    def _score(self, read: Read, fake: torch.Tensor, found: dict[str, Found]) -> None:
        reference, why = _comparable(read)
        image = None if read.real is None else read.real[:, 0]
        frames = fake if reference is None else fake[:, : reference.shape[1]]
        if reference is not None and read.real is not None and read.real.shape[1] != fake.shape[1]:
            for one in found.values():
                one.shorter = f"{frames.shape[1]} frames"
        prompts = [self.prompts.get(name) for name in read.names]
        known = None if None in prompts else [str(prompt) for prompt in prompts]
        batch = Batch(frames, reference, image, fps=read.fps, ids=read.names)
        whole = batch if frames is fake else Batch(fake, image=image, fps=read.fps, ids=read.names)
        whole.prompts = known
        for measure in self.samples:
            if "reference" in measure.needs and reference is None:
                _refuse(found, measure.name, why)
            elif "image" in measure.needs and image is None:
                _refuse(found, measure.name, "no reference whose first frame it could be compared with")
            elif "prompts" in measure.needs and known is None:
                for row, (name, prompt) in enumerate(zip(read.names, prompts, strict=True)):
                    if prompt is None:
                        found[name].refused[measure.name] = "no prompt is given"
                    else:
                        alone = _row(whole, row)
                        alone.prompts = [prompt]
                        _ask(measure, alone, found)
            else:
                _ask(measure, batch if "reference" in measure.needs else whole, found)

    def rows(self) -> list[Row]:
        """One row per measure, in the order asked for."""
        return [self._of_set(m) if isinstance(m, SetMeasure) else self._of_samples(m) for m in self.measures]

    def _of_samples(self, measure: SampleMeasure) -> Row:
        found = np.array(list(self.values[measure.name].values()), dtype=np.float64)
        found = found[np.isfinite(found)]
        low, high = Resampler().interval(found)
        mean, better = found.mean() if len(found) else None, BETTER[measure.higher_is_better]
        return Row(measure.name, mean, low, high, len(found), better)

    def _pair_of_sets(self, measure: SetMeasure) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Features of the videos and of the reference, and whether row i of both belongs together."""
        label = measure.source.extractor.label
        fake, real = (self.features.get(features_name(side, label), {}) for side in ("fake", "real"))
        together = list(fake) == list(real)
        width = next((len(row) for row in (*fake.values(), *real.values())), 0)
        x, y = (torch.stack(list(rows.values())) if rows else torch.zeros(0, width) for rows in (fake, real))
        return x, y, together

    def _of_set(self, measure: SetMeasure) -> Row:
        x, y, together = self._pair_of_sets(measure)
        better, n, m = BETTER[measure.higher_is_better], len(x), len(y)
        if min(n, m) < measure.fewest:
            return Row(measure.name, None, None, None, n, better, m)
        low, high = measure.interval(x, y, paired=together) if min(n, m) >= measure.fewest_units else (math.nan, math.nan)
        infinity = None
        if measure.stem == "fvd" and min(n, m) >= SAMPLES_PER_FEATURE * x.shape[1]:
            infinity = float(part("infinity").frechet_infinity(x, y, measure.source.extractor.protocol.ddof))
        return Row(measure.name, measure.distance(x, y), low, high, n, better, m, measure.bias(x, y), infinity)

    def warnings(self) -> list[str]:
        """What to know before the numbers are believed; each names n."""
        told = []
        if self.shorter:
            whom = [f"{name} ({frames})" for name, frames in self.shorter.items()]
            told.append(f"{len(whom)} pairs of different lengths were compared over their common beginning: {some(whom)}")
        for measure in self.sets:
            x, y, _ = self._pair_of_sets(measure)
            told += _on_sizes(measure, len(x), len(y), x.shape[1])
        for sample in self.samples:
            stills = [name for name, value in self.values[sample.name].items() if math.isnan(value)]
            if sample.still and stills:
                all_ = len(self.values[sample.name])
                told.append(f"{sample.key}: {len(stills)} of {all_} do not move and are left out: {some(stills)}")
        for what, names in self.refused.items():
            reasons: dict[str, list[str]] = {}
            for name, why in names.items():
                reasons.setdefault(why, []).append(name)
            told += [f"{what}: {len(who)} left out: {why}: {some(who)}" for why, who in reasons.items()]
        return told


def _refuse(found: dict[str, Found], what: str, why: str) -> None:
    for one in found.values():
        one.refused[what] = why


def _row(batch: Batch, row: int) -> Batch:
    alone: dict[str, Any] = {name: None if value is None else value[row : row + 1] for name, value in vars(batch).items()}
    return Batch(**alone)


def _ask(measure: SampleMeasure, batch: Batch, found: dict[str, Found]) -> None:
    """Values and curves of a batch; where it is refused, of each of its videos alone."""
    names = list(batch.ids or [])
    try:
        scores = measure.score(batch)
    except ValueError as error:
        if len(names) == 1:
            found[names[0]].refused[measure.name] = str(error).removeprefix(f"{measure.key}: ").partition(" (samples")[0]
            return
        for row in range(len(names)):
            _ask(measure, _row(batch, row), found)
        return
    curve = measure.curve(batch)
    for row, (name, score) in enumerate(zip(names, scores.double().tolist(), strict=True)):
        found[name].values[measure.name] = score
        if curve is not None:
            found[name].curves[measure.name] = list(curve.frames), curve.values[row].tolist()


def _extract(
    extractor: Any, videos: torch.Tensor, names: Sequence[str], own: Sequence[str], side: str, found: dict[str, Found]
) -> None:
    """Features of one side, kept under the pair's names; their own decide where seeded clips begin."""
    what = features_name(side, extractor.label)
    try:
        rows = extractor(videos, [Path(name).stem for name in own], side)
    except ValueError as error:
        for name in names:
            found[name].refused[what] = str(error).partition(": ")[2] or str(error)
        return
    for name, row in zip(names, rows, strict=True):
        found[name].features[what] = row


def _comparable(read: Read) -> tuple[torch.Tensor | None, str]:
    """The reference of a batch over the frames that both have; or None and why it cannot be one."""
    if read.real is None or read.fake is None:
        return None, "no reference"
    if read.real.shape[-2:] != read.fake.shape[-2:]:
        (a, b), (c, d) = read.fake.shape[-2:], read.real.shape[-2:]
        return None, f"{b} x {a} pixels against {d} x {c} of the reference; ask for one --size"
    return read.real[:, : read.fake.shape[1]], ""


def _on_sizes(measure: SetMeasure, n: int, m: int, width: int) -> list[str]:
    """Cautions of a distance over n videos and m references."""
    few = min(n, m)
    if few == 0:
        return [f"{measure.name}: no number, n = {n} and {m}"]
    if few < measure.fewest:
        return [f"{measure.name}: no number, n = {n} and {m}: it needs at least {measure.fewest} on each side"]
    if measure.stem == "fvd" and few < SAMPLES_PER_FEATURE * width:
        enough = math.ceil(SAMPLES_PER_FEATURE * width)
        far = "is far above the distance of the populations (see bias)"
        return [f"{measure.name}: n = {few} with {width} features {far}; compare it at equal n only, or give n >= {enough}"]
    if n != m and measure.stem != "fvd":
        return [f"{measure.name}: n = {n} against {m}: it depends on both"]
    return []
