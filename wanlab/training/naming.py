"""What a recipe makes, as pipeline.json says it of a variant, and whether the variant's name says the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wanlab.core.quote import quoted
from wanlab.training.presets import entry_of, preset_of


def entry_made(recipe: Any, stage: str) -> dict[str, Any]:
    """What pipeline.json says of a stage that a recipe makes: class, configuration, and `with` which variants it was trained.

    Raises ValueError where one of these is a class of which the preset has no variant: nothing could stand beside it.
    """
    beside = _beside(recipe, stage)
    return recipe.entry(stage) | ({"with": beside} if beside else {})


def variant_of(preset: Mapping[str, Any], stage: str, kind: str) -> str:
    """The name of the variant that `kind`, a variant or a class with the default's settings, is. Raises ValueError for none."""
    variants, usual = preset["stages"][stage]["variants"], preset["stages"][stage]["default"]
    if kind in variants:
        return kind
    for name in (usual, *variants):
        if entry_of(preset, stage, name) == entry_of(preset, stage, kind):
            return str(name)
    raise ValueError(f"{stage}: {kind} is no variant of {preset['name']}, so that nothing that is trained beside it could be used; "
                     f"there are {', '.join(variants)}")


def _beside(recipe: Any, stage: str) -> dict[str, str]:
    """stage -> variant, of those that a recipe chooses otherwise than the preset does."""
    preset, beside = preset_of(recipe.preset), dict[str, str]()
    for other in getattr(recipe, "CHOSEN", ()):
        if other != stage:
            name = recipe.ships.get(other) or variant_of(preset, other, getattr(recipe, other))
            beside |= {other: name} if name != preset["stages"][other]["default"] else {}
    return beside


def demand_named(recipe: Any) -> None:
    """Raise ValueError where a recipe ships something else than the variant is by whose name it ships: another class, or without
    what sets that variant apart from the default one."""
    preset = preset_of(recipe.preset)
    for stage, variant in recipe.ships.items():
        variants, made = preset["stages"][stage]["variants"], entry_made(recipe, stage)
        usual = variants[preset["stages"][stage]["default"]]
        named = variants.get(variant, {"class": made["class"]})      # a folder may have names of its own
        if named["class"] != made["class"]:
            kin = [name for name, one in variants.items() if one["class"] == made["class"]]
            near = f"ship it as {' or '.join(kin)}" if kin else f"{preset['name']} has no variant of that class"
            raise ValueError(f"ships: {variant} of {stage} is of class {named['class']}, and what this recipe makes is of class "
                             f"{made['class']}: {near}")
        for key, value in named.get("config", {}).items():
            if value != usual.get("config", {}).get(key) and value != made["config"].get(key):
                raise ValueError(f"ships: {variant} of {stage} has {key}: {quoted(value)}, and what this recipe makes has {key}: "
                                 f"{quoted(made['config'].get(key))}")
        for other, value in named.get("with", {}).items():
            if value != (beside := made.get("with", {}).get(other, preset["stages"][other]["default"])):
                raise ValueError(f"ships: {variant} of {stage} is trained with {other}: {value}, and this recipe trains it with "
                                 f"{other}: {beside}")
