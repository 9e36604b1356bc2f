"""The whole cascade, stage after stage, then put together as a folder that `wanlab.load` reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from wanlab.core.nearest import suggestion
from wanlab.pipelines.load import PRESETS, read_manifest
from wanlab.training.adversarial import train_detail
from wanlab.training.base import train_base
from wanlab.training.diffusion import Recipe
from wanlab.training.upsampling import recipe_of, train_upsampling

PARTS = ("kind", "preset", "base", "variants", "upsample", "detail")


def train(config: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train every part of `config` that is not finished in `out`, and assemble out/pipeline.

    base        a `diffusion.Recipe`; variants: name -> a recipe that starts from the base and lets few stages learn
    upsample    variant -> an `upsampling.Recipe`; detail: variant -> an `adversarial.Recipe`
    Returns stage.variant -> provenance.
    """
    for key in config:
        if key not in PARTS:
            raise ValueError(f"unknown part {key!r} of a cascade's training{suggestion(key, PARTS)}")
    if "base" in config and not (out / "base" / "generator.unet.safetensors").exists():
        train_base(recipe_of(Recipe, _tuples(config["base"])), out / "base")
    for name, values in config.get("variants", {}).items():
        started = {"start": str(out / "base" / "diffusion.pt"), **_tuples(values)}
        if not list((out / name).glob("*.safetensors")):
            train_base(recipe_of(Recipe, started), out / name)
    for variant, values in config.get("upsample", {}).items():
        if not (out / "upsample" / f"upsample.{variant}.safetensors").exists():
            train_upsampling({"variant": variant, **values}, out / "upsample")
    levels = str(out / "upsample" / "upsample.residual.safetensors")
    for variant, values in config.get("detail", {}).items():
        if not (out / "detail" / f"detail.{variant}.safetensors").exists():
            train_detail({"variant": variant, "upsample": levels, **values}, out / "detail")
    return assemble(config.get("preset", "tiny"), sorted(out.glob("*/provenance-*.json")), out / "pipeline")


def assemble(preset: str, notes: list[Path], folder: Path) -> dict[str, Any]:
    """Copy the weights beside the `notes` into `folder` with a pipeline.json that holds their hashes and provenance.

    A variant that `preset`'s own pipeline.json does not know is refused with a ValueError. Returns the provenance by file.
    """
    manifest = read_manifest(PRESETS / preset)
    folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = {}
    for note in notes:
        facts = json.loads(note.read_text())
        stage, variant = facts.pop("stage"), facts.pop("variant")
        variants = manifest["stages"][stage]["variants"]
        if variant not in variants:
            raise ValueError(f"{note}: {preset} has no variant {variant!r} of {stage}{suggestion(variant, variants)}")
        file = f"{stage}.{variant}.safetensors"
        if note.parent != folder:
            shutil.copyfile(note.parent / file, folder / file)
        facts.pop("config", None)
        variants[variant] |= {"file": file, "sha256": facts.pop("sha256"), "provenance": facts}
        known[file] = facts
    part = folder / "pipeline.part"
    part.write_text(json.dumps(manifest, indent=1) + "\n")
    part.replace(folder / "pipeline.json")
    return known


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
