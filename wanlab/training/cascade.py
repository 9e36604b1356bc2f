"""The whole cascade, stage after stage, then put together as a folder that `wanlab.load` reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanlab.core.nearest import suggestion
from wanlab.pipelines.load import PRESETS, read_manifest
from wanlab.training import adversarial, machine, upsampling, watch
from wanlab.training.adversarial import train_detail
from wanlab.training.base import train_base
from wanlab.training.diffusion import Recipe
from wanlab.training.presets import preset_of
from wanlab.training.shipping import told
from wanlab.training.upsampling import recipe_of, train_upsampling

PARTS = ("kind", "preset", "machine", "only", "base", "variants", "upsample", "detail")
PLAIN = ("kind", "preset", "machine", "only")          # of these, the settings of no network


def train(config: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train every part of `config` that is not finished in `out`, and assemble out/pipeline.

    preset      whose sizes the stages have, tiny unless told; machine: see `machine.machine_of`
    only        STAGE.VARIANT, or a list of them: the other parts are left out; what one starts from is taken from the preset
                where it was not trained in `out`
    base        a `diffusion.Recipe`; variants: name -> a recipe that starts from the base (of the file, else of the preset) and
                lets few stages learn
    upsample    variant -> an `upsampling.Recipe`; detail: variant -> an `adversarial.Recipe`
    Returns stage.variant -> provenance. Raises ValueError for parts that are not known or not mappings.
    """
    for key, value in config.items():
        if key not in PARTS:
            raise ValueError(f"unknown part {key!r} of a cascade's training{suggestion(key, PARTS)}")
        recipes = [value] if key == "base" else list(value.values()) if isinstance(value, Mapping) else [value]
        if key not in PLAIN and not all(isinstance(recipe, Mapping) for recipe in recipes):
            raise ValueError(f"{key}: expected {'settings' if key == 'base' else 'names with settings'}, got {value!r}")
    parts = _chosen(list(_parts(config, out)), config.get("only"))
    with machine.on(machine.machine_of(config.get("machine") or {}, out)) as here:
        with nullcontext() if here.main else watch.watched_by(watch.Watch()):
            _train(parts)
        here.wait()
        if not here.main:
            return {}
    preset = config.get("preset", "tiny")
    known = assemble(preset, sorted(out.glob("*/provenance-*.json")), out / "pipeline")
    if config.get("only") or "base" not in config:
        complete(out / "pipeline", PRESETS / preset)
    return known


def _train(parts: Sequence[Part]) -> None:
    for number, part in enumerate(parts, 1):
        kept = part.finished()
        watch.present().part(part.name, number, len(parts), kept)
        if not kept:
            part.train()


def _chosen(parts: list[Part], only: str | Sequence[str] | None) -> list[Part]:
    """The parts that ship what `only` names. Raises ValueError with the nearest for what no part ships."""
    if only is None:
        return parts
    wanted = [only] if isinstance(only, str) else list(only)
    known = [name for part in parts for name in part.ships]
    for name in wanted:
        if name not in known:
            raise ValueError(f"only: no part of this file makes {name!r}{suggestion(str(name), known)}")
    return [part for part in parts if set(part.ships) & set(wanted)]


@dataclass(frozen=True)
class Part:
    """A part of the cascade: the settings that the file gives it, the provenance of what it ships, what trains it."""

    name: str
    given: Mapping[str, Any]
    notes: Sequence[Path]
    train: Callable[[], Any]

    @property
    def ships(self) -> list[str]:
        """STAGE.VARIANT of all that it makes."""
        return [note.stem.removeprefix("provenance-") for note in self.notes]

    def finished(self) -> bool:
        """Whether all that it ships stands there. Raises ValueError where that was trained with other settings."""
        if not self.notes or not all(note.exists() for note in self.notes):
            return False
        for note in self.notes:
            recipe = json.loads(note.read_text())["recipe"]
            other = [f"{k} was {recipe.get(k)}" for k, v in self.given.items() if k != "pool" and recipe.get(k) != told(v)]
            if other:
                raise ValueError(f"{self.name}: {note} was trained with other settings: {', '.join(other)}; choose another --out")
        return True


def _parts(config: dict[str, Any], out: Path) -> Iterator[Part]:
    """Each part in turn; settings that a recipe does not have raise ValueError here, before anything is trained."""

    def notes(folder: str, ships: Mapping[str, str]) -> list[Path]:  # each is written after its weights
        return [out / folder / f"provenance-{stage}.{variant}.json" for stage, variant in ships.items()]

    preset = config.get("preset", "tiny")
    preset_of(preset)

    def base(name: str, values: Mapping[str, Any], **more: Any) -> Part:
        recipe = recipe_of(Recipe, {"preset": preset, **more, **_tuples(values)})
        return Part(name, values, notes(name, recipe.ships), lambda: train_base(recipe, out / name))

    def upper(stage: str, variant: str, train: Callable[..., Any], kind: type, values: Mapping[str, Any], **more: Any) -> Part:
        given = {"variant": variant, "preset": preset, **more, **values}
        recipe_of(kind, given)
        return Part(f"{stage} {variant}", values, notes(stage, {stage: variant}), lambda: train(given, out / stage))

    def own(path: Path, made: bool, shipped: Path) -> str:
        """What was or will be trained here; else what the preset ships."""
        return str(path if path.exists() or (made and config.get("only") is None) or not shipped.exists() else shipped)

    if "base" in config:
        yield base("base", config["base"])
    for name, values in config.get("variants", {}).items():
        yield base(name, values, start=own(out / "base" / "diffusion.pt", "base" in config, PRESETS / preset))
    for variant, values in config.get("upsample", {}).items():
        yield upper("upsample", variant, train_upsampling, upsampling.Recipe, values)
    levels = own(out / "upsample" / (name := "upsample.residual.safetensors"), "upsample" in config, PRESETS / preset / name)
    for variant, values in config.get("detail", {}).items():
        yield upper("detail", variant, train_detail, adversarial.Recipe, values, upsample=levels)


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


def complete(folder: Path, preset: Path) -> None:
    """Copy into `folder` what its pipeline.json names and it lacks: the preset's own weights, from which the variants started."""
    for stage in read_manifest(folder)["stages"].values():
        for file in (variant.get("file") for variant in stage["variants"].values()):
            if file and not (folder / file).exists():
                shutil.copyfile(preset / file, folder / file)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
