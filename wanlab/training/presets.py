"""Untrained stages with the sizes of a preset."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted
from wanlab.pipelines.load import CLASSES, PRESETS, read_manifest


def preset_of(name: str) -> dict[str, Any]:
    """pipeline.json of a preset. Raises ValueError with the nearest name."""
    known = sorted(path.parent.name for path in PRESETS.glob("*/pipeline.json"))
    if name not in known:
        raise ValueError(f"no preset {quoted(name)}{suggestion(str(name), known)}")
    return read_manifest(PRESETS / name)


def settings_of(preset: Mapping[str, Any], stage: str, variant: str | None = None) -> dict[str, Any]:
    """The configuration of a variant of `stage`, the default one unless told."""
    entry = preset["stages"][stage]
    given = entry["variants"][variant or entry["default"]].get("config", {})
    return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}


class Sized:
    """A recipe whose clips are as large and as long as its preset's videos."""

    preset: str

    @cached_property
    def size(self) -> int:
        """The side of a clip, in pixels."""
        side: int = preset_of(self.preset)["size"]
        return side

    @cached_property
    def frames(self) -> int:
        """The frames of a clip."""
        count: int = preset_of(self.preset)["frames"]
        return count

    def demand_frames(self, least: int) -> None:
        """Raise ValueError where the preset's videos are shorter than a training clip."""
        if self.frames < least:
            raise ValueError(f"{self.preset} has {self.frames} frames, and a training clip {least}")


def class_of(preset: Mapping[str, Any], stage: str, variant: str | None = None) -> str:
    """The class of a variant of `stage`, the default one unless told, as pipeline.json names it."""
    entry = preset["stages"][stage]
    name: str = entry["variants"][variant or entry["default"]]["class"]
    return name


def entry_of(preset: Mapping[str, Any], stage: str, kind: str | None = None, **changes: Any) -> dict[str, Any]:
    """Class and configuration of a stage, as pipeline.json has them: the preset's default variant's, with `changes` of the
    configuration; where told, those of the variant `kind`, or the class `kind` with the default's settings."""
    variants, usual = preset["stages"][stage]["variants"], preset["stages"][stage]["default"]
    entry = variants.get(kind) or {**variants[usual], "class": kind or variants[usual]["class"]}
    return {"class": entry["class"], "config": {**entry.get("config", {}), **changes}}


def configured(preset: Mapping[str, Any], stage: str, kind: str | None = None, **changes: Any) -> tuple[Any, Any]:
    """Module and configuration of what `entry_of` gives.

    Raises ValueError for a class that the stage does not have, and for one that is not built from the preset's settings.
    """
    name, given = entry_of(preset, stage, kind, **changes).values()
    if name not in CLASSES[stage]:
        raise ValueError(f"{stage} has no class {quoted(name)}{suggestion(str(name), CLASSES[stage])}")
    module, config = CLASSES[stage][name]
    try:
        return module, config(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})
    except TypeError:
        raise ValueError(f"{stage}: the settings that {preset['name']} has for {class_of(preset, stage)} build no {name}") from None


def fresh(preset: Mapping[str, Any], stage: str, kind: str | None = None, **changes: Any) -> Any:
    """An untrained stage, of what `configured` gives."""
    module, config = configured(preset, stage, kind, **changes)
    return module(config)
