"""A part of a cascade trained again with other settings, and found again by everything that its weights depend on.

A part is a variant of a stage: `detail.no_gan`. Its recipe is the one that the pipeline's own weights carry as their
provenance, or one of a training file; what it starts from are the pipeline's own weights. The result lies in a folder
named by a content key, so one training serves every cell and study that asks for the same.
"""

from __future__ import annotations

import fcntl
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from wanlab.core.nearest import suggestion
from wanlab.graph import digest, source_digest
from wanlab.pipelines.load import read_manifest
from wanlab.training import adversarial, diffusion, upsampling
from wanlab.training.naming import demand_named, entry_made
from wanlab.training.settings import origins, recipe_of
from wanlab.training.shipping import processor_minutes
from wanlab.training.start import demand_predicts

PACKAGES = ("numpy", "pillow", "av", "torchvision", "diffusers", "transformers", "tokenizers", "ftfy")  # beside torch
LOOKED_UP = ("published", "vgg", "videos")  # settings that say where something lies: what is there counts, not where
CODE = ("core", "nn", "diffusion", "data", "stages", "pipelines", "training")
FAILED = "failed.txt"  # in a training's folder: why it did not end


@dataclass(frozen=True)
class Retraining:
    """One training of one part.

    part      STAGE.VARIANT; recipe: all settings; ships: stage -> variant that it writes
    entry     class and configuration of each shipped stage, as pipeline.json has them
    key       content key of the weights; minutes: of the processor, that the recipe took when the pipeline's own weights were made
    """

    part: str
    recipe: Any
    ships: Mapping[str, str]
    entry: Mapping[str, Mapping[str, Any]]
    key: str
    minutes: float | None

    def home(self, root: Path) -> Path:
        """The folder of checkpoints and weights."""
        return Path(root) / f"{self.part}-{self.key}"

    def finished(self, root: Path) -> bool:
        """Whether the weights are there: each provenance is written after its weights."""
        return all((self.home(root) / f"provenance-{stage}.{variant}.json").is_file() for stage, variant in self.ships.items())

    def seconds(self, root: Path) -> float | None:
        """Seconds of processor time that the finished training took."""
        if not self.finished(root):
            return None
        stage, variant = next(iter(self.ships.items()))
        minutes = processor_minutes(json.loads((self.home(root) / f"provenance-{stage}.{variant}.json").read_text()))
        return None if minutes is None else 60 * minutes

    def weights(self, root: Path) -> dict[str, tuple[str, dict[str, Any]]]:
        """stage -> name of the trained variant, and what pipeline.json would say of it. FileNotFoundError unless finished."""
        found = {}
        for stage, variant in self.ships.items():
            home = self.home(root).resolve()
            facts = json.loads((home / f"provenance-{stage}.{variant}.json").read_text())
            file = {"file": str(home / f"{stage}.{variant}.safetensors"), "sha256": facts["sha256"]}
            file |= {"published": facts["published"]} if "published" in facts else {}
            found[stage] = (f"{variant}@{self.key[:8]}", {**self.entry[stage], **file})
        return found

    def train(self, root: Path) -> None:
        """Train on one thread, as the shipped weights were, or go on from the checkpoints that are there; two processes never
        train one part at once."""
        home = self.home(root)
        with locked(home), _one_thread():
            if self.finished(root):  # another process was faster
                return
            (home / FAILED).unlink(missing_ok=True)
            _train(self.recipe, home)


def retraining(
    folder: Path,
    part: str,
    given: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Retraining:
    """The training of a part for the pipeline in `folder`.

    given     a training file's data (kind: cascade), or None: the recipe of the pipeline's own weights
    changes   settings that differ; seed: instead of the recipe's

    Raises LookupError for a part that the pipeline or the file does not have, ValueError for settings that the recipe does not
    have and for weights that it would start from and that are not there.
    """
    manifest = read_manifest(folder)
    stage, _, variant = part.partition(".")
    variants = manifest["stages"].get(stage, {}).get("variants")
    if variants is None:
        raise LookupError(f"{manifest['name']} has no stage {stage!r}{suggestion(stage, manifest['stages'])}")
    if variant not in variants:
        near = suggestion(variant, variants)
        raise LookupError(f"stage {stage} has no variant {variant!r}{near}; there are {', '.join(variants)}")
    provenance = variants[variant].get("provenance") or {}
    settings = _recipe_in(given, stage, variant) if given is not None else provenance.get("recipe")
    if settings is None:
        raise LookupError(f"the weights of {part} carry no recipe: give a training file (recipe:)")
    kind = {"upsample": upsampling.Recipe, "detail": adversarial.Recipe}.get(stage, diffusion.Recipe)
    settings = {**settings, **(changes or {}), **({} if seed is None else {"seed": seed})}
    known = {one.name for one in fields(kind)}
    recipe_of(kind, {**settings, **({"variant": variant} if "variant" in known else {})})
    starts: dict[str, str] = {}
    if kind is diffusion.Recipe:
        settings["ships"] = _renamed(settings.get("ships") or {}, changes or {}, manifest)
    if given is None and settings.get("published"):  # the recipe that weights carry tells names alone, pipeline.json the places
        around = {one: each["variants"][each["default"]].get("published") for one, each in manifest["stages"].items()}
        settings["published"] = {one: told["source"] for one, told in around.items() if told}
    if kind is adversarial.Recipe:
        starts = _starts(manifest, folder, {"upsample": "residual"})
        settings["upsample"] = str(folder / manifest["stages"]["upsample"]["variants"]["residual"]["file"])
    elif kind is diffusion.Recipe and settings.get("start"):
        own = ("text", "image", "fusion", "generator", "align")
        starts = _starts(manifest, folder, {name: manifest["stages"][name]["default"] for name in own})
        settings["start"] = str(folder)
    recipe = recipe_of(kind, {**settings, **({"variant": variant} if "variant" in known else {})})
    ships = dict(recipe.ships) if kind is diffusion.Recipe else {stage: variant}
    if ships.get(stage) != variant:
        made = ", ".join(f"{one}.{name}" for one, name in ships.items())
        raise ValueError(f"the recipe of {part} ships {made or 'nothing'}, not {part}")
    demand_named(recipe)
    if starts and kind is diffusion.Recipe:
        demand_predicts(recipe.predicts, folder)
    content = {name: value for name, value in asdict(recipe).items() if name not in ("start", "upsample", "pool", *LOOKED_UP)}
    held = {name: value for name, value in origins(recipe).items() if name not in ("start", "upsample")}
    key = digest({"part": part, "recipe": content, "from": held, "starts": starts, "code": _code(), "torch": torch.__version__,
                  "packages": _versions(), "machine": platform.machine()})  # fmt: skip
    entry = {name: _entry(recipe, name, ships) for name in ships}
    same = _as_long(asdict(recipe), {**asdict(kind()), **(provenance.get("recipe") or {})})
    return Retraining(part, recipe, ships, entry, key, processor_minutes(provenance) if same else None)


def _renamed(ships: Mapping[str, str], changes: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, str]:
    """What is shipped where changes of a recipe ask for another variant of a stage: that one, by its own name."""
    variants = {stage: entry["variants"] for stage, entry in manifest["stages"].items()}
    return {stage: kind if (kind := changes.get(stage)) in variants[stage] else name for stage, name in ships.items()}


def _as_long(content: Mapping[str, Any], recipe: Mapping[str, Any]) -> bool:
    """Whether two recipes take the same time: they differ in nothing that costs any."""
    free = ("seed", "ships", "start", "upsample", "pool", "variant", "lam", "temporal", "align", "published")
    mine, theirs = ({k: v for k, v in one.items() if k not in free} for one in (content, recipe))
    return bool(json.loads(json.dumps(mine)) == json.loads(json.dumps(theirs)))


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Hold a training's folder; another process that holds it is waited for."""
    home.mkdir(parents=True, exist_ok=True)
    with open(home / ".lock", "a", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _code() -> str:
    """Code version of everything that a training computes."""
    return source_digest(Path(__file__).parents[1] / name for name in CODE)


def _versions() -> dict[str, str]:
    """The versions of the packages whose numbers stand in clips, captions and what others published."""
    found = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _train(recipe: Any, home: Path) -> None:
    from wanlab.training.adversarial import train_detail
    from wanlab.training.base import train_base
    from wanlab.training.upsampling import train_upsampling

    if isinstance(recipe, diffusion.Recipe):
        train_base(recipe, home)
        return
    train: Callable[..., Any] = train_detail if isinstance(recipe, adversarial.Recipe) else train_upsampling
    train(recipe, home)


def _recipe_in(given: Mapping[str, Any], stage: str, variant: str) -> dict[str, Any]:
    """The settings of a part in a training file. Raises LookupError where it trains no such part."""
    trained: dict[str, dict[str, Any]] = {}
    for settings in (given.get("base"), *(given.get("variants") or {}).values()):
        for name, kind in ((settings or {}).get("ships") or {}).items():
            start = {} if settings is given.get("base") else {"start": "base/diffusion.pt"}
            trained[f"{name}.{kind}"] = {**start, **(settings or {})}
    for section in ("upsample", "detail"):
        trained |= {f"{section}.{name}": dict(settings) for name, settings in (given.get(section) or {}).items()}
    if f"{stage}.{variant}" not in trained:
        near = suggestion(f"{stage}.{variant}", trained)
        raise LookupError(f"the training file makes no {stage}.{variant}{near}; it makes {', '.join(trained) or 'nothing'}")
    above = {key: given[key] for key in ("published", "init") if key in given and stage not in ("upsample", "detail")}
    return {"preset": given.get("preset", "tiny"), **above, **trained[f"{stage}.{variant}"]}


def _starts(manifest: Mapping[str, Any], folder: Path, wanted: Mapping[str, str]) -> dict[str, str]:
    """sha256 of the weights from which a training starts. Raises ValueError where one is missing."""
    found = {}
    for stage, variant in wanted.items():
        entry = manifest["stages"][stage]["variants"].get(variant, {})
        if not entry.get("file") or not (folder / entry["file"]).is_file():
            raise ValueError(f"this training starts from {stage}.{variant}, of which {folder} has no weights")
        found[stage] = entry["sha256"]
    return found


def _entry(recipe: Any, stage: str, ships: Mapping[str, str]) -> dict[str, Any]:
    """What pipeline.json would say of a trained stage. What the same training ships comes along by itself, under its own name."""
    entry = entry_made(recipe, stage)
    beside = {other: variant for other, variant in entry.pop("with", {}).items() if other not in ships}
    return entry | ({"with": beside} if beside else {})
