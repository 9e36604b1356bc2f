"""The whole cascade, stage after stage, then put together as a folder that `wanlab.load` reads."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted
from wanlab.data.media import existing
from wanlab.pipelines.digests import sha256
from wanlab.pipelines.load import PRESETS, read_manifest
from wanlab.pipelines.published import found_at
from wanlab.pipelines.weights import WeightsError
from wanlab.training import adversarial, machine, upsampling, watch
from wanlab.training.adversarial import train_detail
from wanlab.training.base import train_base
from wanlab.training.content import there
from wanlab.training.diffusion import STAGES, Recipe
from wanlab.training.naming import demand_named, entry_made
from wanlab.training.presets import preset_of
from wanlab.training.settings import among, differences, recipe_of, stated
from wanlab.training.start import demand_predicts
from wanlab.training.upsampling import train_upsampling

PLAIN = ("kind", "preset", "published", "init", "machine", "only")     # settings of no single network
PARTS = (*PLAIN, "base", "variants", "upsample", "detail")
KINDS = {"upsample": upsampling.Recipe, "detail": adversarial.Recipe}   # of the others, base and variants, `diffusion.Recipe`
RESERVED = ("base", "upsample", "detail", "pipeline", "tensorboard")    # folders of --out


def train(config: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train every part of `config` that is not finished in `out`, and assemble out/pipeline.

    preset      whose sizes the stages have, tiny unless told; machine: see `machine.machine_of`
    published   stage -> folder or hub id of what others published of it, for base and variants; init: random, where it is not named
    only        STAGE.VARIANT, or a list of them: the other parts are left out; what one starts from is taken from the preset
                where it was not trained in `out`
    base        a `diffusion.Recipe`; variants: name -> a recipe that starts from the base (of the file, else of the preset) and
                lets few stages learn
    upsample    variant -> an `upsampling.Recipe`; detail: variant -> an `adversarial.Recipe`
    Returns stage.variant -> provenance. Raises ValueError as `planned`, and where a batch is too small for the processes.
    """
    every = _every(config, out)
    parts = _chosen(every, config.get("only"))
    with machine.on(machine.machine_of(config.get("machine") or {}, out)) as here:
        for part in parts:
            part.demand_rows(here.processes)
        with nullcontext() if here.main else watch.watched_by(watch.Watch()):
            _train(parts)
        here.wait()
        if not here.main:
            return {}
    preset = config.get("preset", "tiny")
    standing = _standing(every, parts, out)
    known = assemble(preset, standing, out / "pipeline")
    if config.get("only") or "base" not in config:
        complete(out / "pipeline", PRESETS / preset, STAGES if any(part.name == "base" for part in standing) else ())
    return known


def planned(config: Mapping[str, Any], out: Path) -> list[Part]:
    """The parts that a file asks for, in turn; nothing is drawn or written.

    Raises ValueError, with the place in the file, for parts and settings that there are not, values out of range, files that are
    missing, a device that is not here, weights that are another variant than the one by whose name they are shipped, and two parts
    that ship the same variant.
    """
    return _chosen(_every(config, out), config.get("only"))


def _every(config: Mapping[str, Any], out: Path) -> list[Part]:
    """All parts of a file, chosen or not."""
    for key, value in config.items():
        if key not in PARTS:
            raise ValueError(f"unknown part {quoted(key)} of a cascade's training{suggestion(str(key), PARTS)}")
        recipes = [value] if key == "base" else list(value.values()) if isinstance(value, Mapping) else [value]
        if key not in PLAIN and not all(isinstance(recipe, Mapping) for recipe in recipes):
            raise ValueError(f"{key}: expected {'settings' if key == 'base' else 'names with settings'}, got {quoted(value)}")
    machine.demand(config.get("machine") or {})
    for key in ("published", "init"):
        if key in config and "base" not in config and not config.get("variants"):
            raise ValueError(f"{key}: what others published stands in base and variants, and this file has neither")
    maker: dict[str, str] = {}
    parts = list(_parts(config, out))
    for part in parts:
        for name in part.ships:
            if (other := maker.setdefault(name, part.name)) != part.name:
                raise ValueError(f"{part.name} and {other} both ship {name}, and a pipeline has one: ship one under another name")
    return parts


def _standing(every: Sequence[Part], asked: Sequence[Part], out: Path) -> list[Part]:
    """The parts that stand in `out` as the file has them. What else stands there is told: an older training, with other settings or
    of a part that the file no longer has."""
    standing = [part for part in every if part in asked or part.stands()]
    mine = {note for part in standing for note in part.notes}
    for note in sorted(set(out.glob("*/provenance-*.json")) - mine):
        watch.present().note(f"{note.relative_to(out)} is of other settings, or of no part of this file: left out of pipeline/")
    return standing


def _train(parts: Sequence[Part]) -> None:
    for number, part in enumerate(parts, 1):
        kept = part.finished()
        watch.present().part(part.name, number, len(parts), kept)
        if not kept:
            part.train()


def _chosen(parts: list[Part], only: Any) -> list[Part]:
    """The parts that ship what `only` names. Raises ValueError with the nearest for what no part ships."""
    if only is None:
        return parts
    wanted = [only] if isinstance(only, str) else only
    if not isinstance(wanted, list) or not wanted:
        raise ValueError(f"only: STAGE.VARIANT, or a list of them, not {quoted(only)}")
    known = [name for part in parts for name in part.ships]
    for name in wanted:
        if name not in known:
            raise ValueError(f"only: no part of this file makes {quoted(name)}{suggestion(str(name), known)}")
    return [part for part in parts if set(part.ships) & set(wanted)]


@dataclass(frozen=True)
class Part:
    """A part of the cascade: its recipe, the provenance of what it ships, what trains it."""

    name: str
    recipe: Any
    notes: Sequence[Path]
    train: Callable[[], Any]

    @property
    def ships(self) -> list[str]:
        """STAGE.VARIANT of all that it makes."""
        return [note.stem.removeprefix("provenance-") for note in self.notes]

    def finished(self) -> bool:
        """Whether all that it ships stands there. Raises ValueError where that was trained with other settings, or from others'
        weights."""
        if not self.notes or not all(note.exists() for note in self.notes):
            return False
        for note in self.notes:
            facts = json.loads(note.read_text())
            if other := differences(stated(self.recipe), facts["recipe"] | {"from": facts.get("from", {})}):
                raise ValueError(f"{self.name}: {note} was trained with other settings: {', '.join(other)}; choose another --out")
        return True

    def stands(self) -> bool:
        """Whether all that it ships stands there, trained with these settings from these weights."""
        try:
            return self.finished()
        except ValueError:
            return False

    def demand_rows(self, processes: int) -> None:
        """Raise ValueError where it is still to be trained and a batch has fewer rows than there are processes."""
        for key, rows in self.recipe.batches.items():
            if rows < processes and not self.finished():
                raise ValueError(f"{self.name}: {key} is {rows}, and {processes} processes share the rows of a batch: make it at "
                                 f"least {processes}, or start fewer processes")


def _parts(config: Mapping[str, Any], out: Path) -> Iterator[Part]:
    """Each part in turn; what is wrong with its settings raises ValueError here, before anything is trained."""
    preset = config.get("preset", "tiny")
    stages = preset_of(preset)["stages"]
    trained = out / "base" / "diffusion.pt"
    base: Part | None = None

    def part(place: str, folder: Path, train: Callable[..., Any], values: Mapping[str, Any], **more: Any) -> Part:
        stage, kind = place.partition(".")[0], KINDS.get(place.partition(".")[0], Recipe)
        with told_at(place):
            for key in ("preset", "variant", "published", "init"):
                if key in values and values[key] != {"preset": preset, **more}.get(key):
                    raise ValueError(f"{key} is said above, not among the settings")
            for key in ("start", "upsample"):
                if (file := values.get(key)) and not there(file):
                    raise ValueError(f"{key}: there is no {quoted(file)}")
            recipe = recipe_of(kind, {"preset": preset, **more, **values})
            for source in getattr(recipe, "published", {}).values():
                _demand_found(source)
            for file in filter(None, (recipe.videos.get("path"), recipe.videos.get("captions"))):
                existing(file)
            for one, variant in recipe.ships.items():
                among(f"variants of {one} in {preset}", [variant], stages[one]["variants"])
            demand_named(recipe)
            if start := getattr(recipe, "start", None):
                demand_predicts(recipe.predicts, Path(start), base.recipe.unet if base and Path(start) == trained else None)
        notes = [folder / f"provenance-{one}.{variant}.json" for one, variant in recipe.ships.items()]   # written after the weights
        name = folder.name if kind is Recipe else f"{stage} {more['variant']}"
        return Part(name, recipe, notes, lambda: train(recipe, folder))

    def own(path: Path, made: Iterable[str], shipped: Path) -> str:
        """What was or will be trained here, as one of `made`; else what the preset ships."""
        only = config.get("only")
        asked = made if only is None else [name for name in (only if isinstance(only, list) else [only]) if name in made]
        return str(path if path.exists() or asked or not shipped.exists() else shipped)

    above = {key: config[key] for key in ("published", "init") if key in config}
    base = part("base", out / "base", train_base, config["base"], **above) if "base" in config else None
    if base:
        yield base
    for name, values in config.get("variants", {}).items():
        if not re.fullmatch(r"\w[\w.-]*", str(name)) or name in RESERVED:
            kept = ", ".join(RESERVED)
            raise ValueError(f"variants: {quoted(name)} is to name a folder, of letters, digits and _-., and none of {kept}")
        start = own(trained, ["base", *base.ships] if base else [], PRESETS / preset)
        yield part(f"variants.{name}", out / str(name), train_base, values, start=start, **above)
    for variant, values in config.get("upsample", {}).items():
        yield part(f"upsample.{variant}", out / "upsample", train_upsampling, values, variant=variant)
    made = [f"upsample.{variant}" for variant in config.get("upsample", {}) if variant == "residual"]
    levels = own(out / "upsample" / (name := "upsample.residual.safetensors"), made, PRESETS / preset / name)
    for variant, values in config.get("detail", {}).items():
        yield part(f"detail.{variant}", out / "detail", train_detail, values, variant=variant, upsample=levels)


def _demand_found(source: str) -> None:
    try:
        found_at(source)
    except WeightsError as error:
        raise ValueError(f"published: {error}") from error


@contextmanager
def told_at(place: str) -> Iterator[None]:
    """Errors of settings name the place in the file where they stand."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def assemble(preset: str, parts: Iterable[Part], folder: Path) -> dict[str, Any]:
    """Copy the weights of `parts` into `folder` with a pipeline.json that says what they are, with hashes and provenance, amid the
    other variants of the preset. Returns the provenance by file.
    """
    manifest = read_manifest(PRESETS / preset)
    folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, Any] = {}
    for recipe, note in ((part.recipe, note) for part in parts for note in part.notes):
        facts = json.loads(note.read_text())
        stage, variant = facts.pop("stage"), facts.pop("variant")
        file = f"{stage}.{variant}.safetensors"
        _bring(note.parent / file, folder, facts["sha256"])
        # of the recipe, not of the note: those of older trainings say nothing of class and configuration
        made = entry_made(recipe, stage) | {"file": file, "sha256": facts.pop("sha256")}
        around = {"published": facts.pop("published")} if "published" in facts else {}
        known[file] = {key: value for key, value in facts.items() if key not in ("class", "config", "with")}
        manifest["stages"][stage]["variants"][variant] = made | around | {"provenance": known[file]}
    if all(stage["variants"][stage["default"]].get("file") for stage in manifest["stages"].values()):
        manifest.pop("note", None)                      # which said of the preset that it is untrained
    written = folder / "pipeline.part"
    written.write_text(json.dumps(manifest, indent=1) + "\n")
    written.replace(folder / "pipeline.json")
    return known


def complete(folder: Path, preset: Path, apart: Collection[str] = ()) -> None:
    """Copy into `folder` what its pipeline.json names and it lacks: the preset's own weights, from which the variants started; of
    the stages `apart` none, where others were trained together: the preset's fit its own base alone."""
    for name, stage in read_manifest(folder)["stages"].items():
        for variant in stage["variants"].values():
            if name not in apart and (file := variant.get("file")):
                _bring(preset / file, folder, variant["sha256"])


def _bring(source: Path, folder: Path, digest: str) -> None:
    """Copy weights into `folder`, whole or not at all, unless they are there. Raises ValueError for some that are damaged."""
    goal = folder / source.name
    if goal.exists() and sha256(goal) == digest:
        return
    part = goal.with_suffix(".part")
    shutil.copyfile(source, part)
    if sha256(part) != digest:
        raise ValueError(f"{source} is damaged or was replaced: its sha256 is not what was noted when it was made; where it was "
                         "trained here, remove it and the provenance beside it: the same command makes it from the checkpoints")
    part.replace(goal)
