"""Settings of a training: what is wrong with them is told before anything is drawn, and what weights depend on is stated."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted
from wanlab.data.reel import Videos
from wanlab.graph import digest, file_digest
from wanlab.pipelines.load import read_manifest
from wanlab.pipelines.published import content_key
from wanlab.pipelines.weights import WeightsError
from wanlab.training import checkpoint
from wanlab.training.content import file_of, there
from wanlab.training.shipping import told
from wanlab.training.sources import videos_digest

FROM_ZERO = ("seed", "warmup", "steps", "grounding_steps", "distil_steps", "content_steps", "gan_steps")  # all others count from 1
SHARES = ("drop_text", "drop_image", "drop_temporal", "drop_align", "decay")
MOST = {"seed": 2**28, **dict.fromkeys(SHARES, 1)}  # every step's draws have seeds of their own, which are to fit in 64 bits
LARGEST = 2**63 - 1  # whole number that fits
BESIDE = ("held", "pool", "ships", "validate_every")  # what no weight depends on
WHERE_SAID = ("published", "init")  # stated where they say something, so that trainings from before there were these go on


def recipe_of(kind: type, config: Mapping[str, Any]) -> Any:
    """A recipe from plain data; raises ValueError with the nearest names for keys that it does not have."""
    known = [one.name for one in fields(kind)]
    for key in config:
        if key not in known:
            raise ValueError(f"unknown setting {quoted(key)}{suggestion(str(key), known)}")
    return kind(**config)


def demand(recipe: Any) -> None:
    """Raise ValueError where a setting is of another kind than its default, or out of range; lists become tuples.

    Whole numbers count from 1 (steps and seeds from 0), other numbers are finite and at least 0, shares at most 1. `videos` is what
    `data.reel.Videos` takes.
    """
    usual = _usual(type(recipe))
    for name, default in usual.items():
        value = getattr(recipe, name)
        if isinstance(default, tuple) and isinstance(value, list):
            object.__setattr__(recipe, name, value := tuple(value))
        if name == "videos" and isinstance(value, Mapping) and value:
            Videos.of(value)
        elif not isinstance(default, (tuple, Mapping)):
            _one(name, value, default)
        elif not isinstance(value, type(default) if isinstance(default, tuple) else Mapping):
            raise ValueError(f"{name} is {'a list' if isinstance(default, tuple) else 'a mapping'}, not {quoted(value)}")
        elif isinstance(value, tuple) and default:
            for one in value:
                _one(name, one, default[0])


def _usual(kind: type) -> dict[str, Any]:
    """The default of each setting."""
    return {one.name: one.default_factory() if callable(one.default_factory) else one.default for one in fields(kind)}


def _one(name: str, value: Any, default: Any) -> None:
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{name} is true or false, not {quoted(value)}")
    elif isinstance(default, (int, float)):
        number(name, value, default)
    elif not (isinstance(value, (str, Path)) or value is default is None):
        raise ValueError(f"{name} is a word or a path, not {quoted(value)}")


def number(name: str, value: Any, default: float) -> None:
    """Raise ValueError where a value is no number of the default's kind, or out of its range."""
    whole = isinstance(default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ValueError(f"{name} is a {'whole ' * whole}number, such as {default}, not {quoted(value)}")
    least, most = int(whole and name not in FROM_ZERO), MOST.get(name, LARGEST if whole else sys.float_info.max)
    if not least <= value <= most:                          # no number is, that is none
        upto = f" to {most}" if name in MOST else " on"
        raise ValueError(f"{name} is a {'whole ' * whole}number from {least}{upto}, not {quoted(value)}")


def among(what: str, names: Iterable[Any], known: Iterable[str]) -> None:
    """Raise ValueError, with the nearest, where one of the names is not known."""
    for name in names:
        if name not in (known := list(known)):
            raise ValueError(f"{what}: there is no {quoted(name)}{suggestion(str(name), known)}")


def stated(recipe: Any) -> dict[str, Any]:
    """The settings that weights depend on as plain data: of paths the file's name, and under `from` what the files hold."""
    given = {key: value for key, value in asdict(recipe).items() if key not in BESIDE and (value or key not in WHERE_SAID)}
    settings = {key: told(value) for key, value in given.items()}
    plain: dict[str, Any] = json.loads(json.dumps(settings | {"from": origins(recipe)}))
    return plain


def origins(recipe: Any) -> dict[str, str]:
    """Setting -> content key of what a recipe starts from, looks through, learns from, and builds by its preset; what is not there
    has none."""
    paths = {name: Path(path) for name in ("start", "upsample") if (path := getattr(recipe, name, None))}
    if hasattr(recipe, "vgg") and getattr(recipe, "content", 1.0):
        paths["vgg"] = file_of(recipe.vgg)
    found = {name: _held(path) for name, path in paths.items() if there(path)} | {"preset": digest(recipe.built)}
    for stage, source in getattr(recipe, "published", {}).items():
        with suppress(WeightsError):
            found[f"published.{stage}"] = content_key(stage, source)
    return found | ({"videos": videos_digest(recipe.videos)} if recipe.videos else {})


def _held(path: Path) -> str:
    """The content key of weights: of a checkpoint the averaged ones, of a pipeline's folder the default variants."""
    if path.suffix == ".pt":
        return digest(checkpoint.load(path)["average"])
    if not path.is_dir():
        return file_digest(path)
    stages = read_manifest(path)["stages"].items() if (path / "pipeline.json").exists() else ()
    return digest({name: stage["variants"][stage["default"]].get("sha256") for name, stage in stages})


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What `stated` of a training differs in from another's, in words: `rate was 0.002`."""
    named = [f"{key} was {theirs.get(key)}" for key in mine if key != "from" and theirs.get(key) != mine[key]]
    now, then = mine.get("from", {}), theirs.get("from", {})
    return named + [f"{key} ({_at(key, mine)}) held something else" for key in now if key in then and then[key] != now[key]]


def _at(place: str, settings: Mapping[str, Any]) -> Any:
    """The setting at a dotted place: `published.text`."""
    for key in place.split("."):
        settings = settings[key]
    return "the shipped one" if settings is None else settings
