"""Untrained stages with the sizes of a preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wanlab.core.nearest import suggestion
from wanlab.pipelines.load import CLASSES, PRESETS, read_manifest


def preset_of(name: str) -> dict[str, Any]:
    """pipeline.json of a preset. Raises ValueError with the nearest name."""
    known = sorted(path.parent.name for path in PRESETS.glob("*/pipeline.json"))
    if name not in known:
        raise ValueError(f"no preset {name!r}{suggestion(str(name), known)}")
    return read_manifest(PRESETS / name)


def settings_of(preset: Mapping[str, Any], stage: str) -> dict[str, Any]:
    """The configuration of the default variant of `stage`."""
    entry = preset["stages"][stage]
    given = entry["variants"][entry["default"]].get("config", {})
    return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}


def fresh(preset: Mapping[str, Any], stage: str, kind: str | None = None, **changes: Any) -> Any:
    """An untrained stage as the preset's default variant has it; of class `kind`, with `changes` of its configuration, where told.

    Raises LookupError for a class that the stage does not have.
    """
    entry = preset["stages"][stage]
    kind = kind or entry["variants"][entry["default"]]["class"]
    if kind not in CLASSES[stage]:
        raise LookupError(f"{stage} has no class {kind!r}{suggestion(str(kind), CLASSES[stage])}")
    module, config = CLASSES[stage][kind]
    return module(config(**{**settings_of(preset, stage), **changes}))
