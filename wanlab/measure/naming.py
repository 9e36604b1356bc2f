"""From names to measures: `fvd`, `fvd[videogpt]`, `lpips[alex]`, or a full name as a result carries it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from wanlab.core import suggestion
from wanlab.measure import sets
from wanlab.measure.catalogue import ALIASES, ROWS, Row
from wanlab.measure.door import part
from wanlab.measure.kinds import Measure, MetricInfo, SampleMeasure, absent
from wanlab.measure.sets import Clips, Workshop


class UnknownMetric(LookupError):
    """A name that no measure has; the message gives the nearest ones."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MissingWeights(LookupError):
    """A measure whose weights are missing, damaged or others than its name says; the message says how to give them."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def available() -> dict[str, MetricInfo]:
    """Every measure by its short name, distances between sets first."""
    return sets.infos() | {key: row.info for key, row in ROWS.items()}


def info(name: str) -> MetricInfo:
    """What is known of the measure that a name, short or full, means. Raises UnknownMetric."""
    base, parts = taken_apart(name)
    return sets.infos()[base] if base in sets.DISTANCES else _row(name, base, parts).info


def key_of(name: str) -> str:
    """The short name of the measure that a name, short or full, means: another for each measure. What nothing has is its own."""
    base, parts = taken_apart(name)
    if base in sets.DISTANCES:
        return sets.key_of(base, sets.asked(parts, Clips()))
    try:
        row = _row(name, base, parts)
    except UnknownMetric:
        return name
    return _key(row, _choice(row, parts))


def resolve(
    names: Sequence[str] | str,
    device: str | torch.device = "cpu",
    weights: Mapping[str, str | Path] | None = None,
    clips: Clips | None = None,
) -> list[Measure]:
    """The measures of these names, their networks loaded onto a device, in the order given.

    Args:
        names: short, with a choice in brackets, or full; one, or several.
        device: where networks run.
        weights: name -> path of what others published (see `metrics.weights.PUBLISHED`); what is not given is looked for.
        clips: protocol of the set distances whose names do not say one; default motionnet's.

    Raises:
        UnknownMetric: a name that nothing has; the message gives the nearest.
        MissingWeights: weights that are missing, damaged, or not those of a full name.
        ValueError: clips that a network cannot take.
    """
    names = [names] if isinstance(names, str) else names
    workshop = Workshop(torch.device(device), dict(weights or {}), clips or Clips())
    return [_build(name, workshop) for name in names]


def stored(names: Sequence[str]) -> list[Measure]:
    """The measures of these names for values and features that were kept: no weights are looked for, and none can measure anew.

    Raises:
        UnknownMetric: a name that nothing has; the message gives the nearest.
    """
    return [_stored(name) for name in names]


def _stored(name: str) -> Measure:
    base, parts = taken_apart(name)
    if base in sets.DISTANCES:
        return sets.stored(base, parts)
    row = _row(name, base, parts)
    return SampleMeasure(_key(row, _choice(row, parts)), name, row.better, row.info.needs, absent, still=row.still)


def idle(names: Sequence[str], clips: Clips) -> list[str]:
    """The fields of `clips`, of those that differ from none said, which no measure of these names uses.

    Raises:
        ValueError: a preset or an offset that there is not; the message gives the nearest.
    """
    preset = part("protocol").preset
    preset(clips.preset)
    if clips.offset is not None and clips.offset not in sets.OFFSETS:
        raise ValueError(f"no offset {clips.offset!r}{suggestion(clips.offset, sets.OFFSETS)}")
    used: set[str] = set()
    for base, parts in map(taken_apart, names):
        whole = sets.asked(parts, clips)
        if base in sets.DISTANCES and whole.preset in part("protocol").PRESETS:
            protocol = preset(whole.preset).with_clips(whole.frames, whole.stride, whole.offset)
            begins = {protocol.real, protocol.fake}
            used |= {name for name in ("preset", "offset") if getattr(whole, name) == getattr(clips, name)}
            used |= {name for name in ("frames", "stride") if getattr(protocol, name) == getattr(clips, name)}
            used |= {"seed"} if "seeded" in begins else set()
    return [name for name, value in vars(clips).items() if value != getattr(Clips(), name) and name not in used]


def taken_apart(name: str) -> tuple[str, list[str]]:
    """`fvd[videogpt|16f]` -> fvd, [videogpt, 16f]."""
    base, bracket, rest = name.partition("[")
    return base, rest.removesuffix("]").split("|") if bracket else []


def _build(name: str, workshop: Workshop) -> Measure:
    base, parts = taken_apart(name)
    if base in sets.DISTANCES and parts and parts[0] not in part("protocol").PRESETS:
        raise UnknownMetric(f"unknown metric {name!r}{suggestion(parts[0], part('protocol').PRESETS)}")
    try:
        if base in sets.DISTANCES:
            found: Measure = sets.build(base, parts, workshop)
        else:
            found = _sample(_row(name, base, parts), parts, workshop)
    except part("weights").WeightsError as error:
        raise MissingWeights(f"{name}: {error}") from error
    if any(":" in text for text in parts) and found.name != name:
        raise MissingWeights(f"{name}: the weights and settings here make it {found.name}")
    known = {*taken_apart(found.name)[1], *info(name).choices, *(sets.OFFSETS if base in sets.DISTANCES else ())}
    if strange := [text for text in parts if text not in known and word_of(text) not in known]:
        raise UnknownMetric(f"{name}: {base} has no {strange[0]!r}{suggestion(strange[0], known)}")
    return found


def _row(name: str, base: str, parts: Sequence[str]) -> Row:
    rows = [row for row in ROWS.values() if base in (row.key, row.stem)]
    tagged = [row for row in rows if row.tag and row.tag in parts]
    if not rows:
        raise UnknownMetric(f"unknown metric {name!r}{suggestion(name, [*sets.DISTANCES, *ROWS])}")
    return (tagged or rows)[0]


def _sample(row: Row, parts: Sequence[str], workshop: Workshop) -> SampleMeasure:
    choice = _choice(row, parts)
    built = row.build(workshop, choice)
    name = (row.stem or row.key) + (f"[{built.brackets}]" if built.brackets else "")
    return SampleMeasure(_key(row, choice), name, row.better, row.info.needs, built.compute, built.curve, row.still)


def _key(row: Row, choice: str) -> str:
    return row.key if not row.choices or choice == row.choices[0] else f"{row.key}[{choice}]"


def _choice(row: Row, parts: Sequence[str]) -> str:
    """The choice that the parts of a name say; the default where they say none."""
    words = (word_of(text) for text in parts)
    return next((word for word in words if word in row.choices), row.choices[0] if row.choices else "")


def word_of(text: str) -> str:
    """What a part of a name says without its hash: custom-alexnet:12345678 and alex both say alexnet."""
    word = text.partition(":")[0].removeprefix("custom-")
    return ALIASES.get(word, word)
