"""Where the parts of a Wan model lie: in diffusers' layout, in that of the published checkpoints, or each at a place of its own.

    diffusers    model_index.json, transformer/, (transformer_2/), text_encoder/, tokenizer/, vae/,
                 (image_encoder/, image_processor/)
    published    diffusion_pytorch_model*.safetensors with config.json (or high_noise_model/, low_noise_model/),
                 models_t5_*.pth, google/umt5-xxl/, Wan2.?_VAE.pth, (models_clip_*.pth)
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from wanlab.core.nearest import suggestion
from wanlab.pipelines.wan_presets import Preset
from wanlab.pipelines.weights import WeightsError

Parts = Mapping[str, str | Path]
_DIFFUSERS = {"dit": "transformer", "dit.high": "transformer", "dit.low": "transformer_2", "text": "text_encoder",
              "tokenizer": "tokenizer", "vae": "vae", "clip": "image_encoder", "processor": "image_processor"}
_PUBLISHED = {"dit": ".", "dit.high": "high_noise_model", "dit.low": "low_noise_model", "text": "models_t5_*.pth",
              "tokenizer": "google/umt5-xxl", "vae": "Wan2.?_VAE.pth", "clip": "models_clip_*.pth"}
_PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def needed(preset: Preset) -> list[str]:
    """The parts that a model cannot do without."""
    dits = ["dit"] if preset.boundary is None else ["dit.high", "dit.low"]
    return [*dits, "text", "tokenizer", "vae", *(["clip"] if preset.clip else [])]


def find(preset: Preset, path: str | Path | None = None, parts: Parts | None = None) -> dict[str, Path]:
    """The place of every part of a model: "dit" (or "dit.high" and "dit.low"), "text", "tokenizer", "vae", "clip", "processor".

    Where `parts` names one, that; else in the folder or repository at `path`, else in the repositories of the preset, as the hub's
    cache on this machine has them. Nothing is downloaded.

    Raises WeightsError that says what lacks and how to get it, LookupError for a part that no such model has.
    """
    given = {name: _place(name, Path(value).expanduser()) for name, value in (parts or {}).items()}
    lacking = needed(preset)
    for name in given:
        if name not in (*lacking, "processor"):
            raise LookupError(f"{preset.name} has no part {name!r}{suggestion(name, lacking)}; it has {', '.join(lacking)}")
    if set(lacking) <= set(given):
        return given
    root = _root(preset, path)
    found = {**found_in(root, set(lacking) - set(given)), **given}
    if missing := [name for name in lacking if name not in found]:
        layout = _DIFFUSERS if _is_diffusers(root) else _PUBLISHED
        told = ", ".join(_shown(layout[name]) for name in missing)
        raise WeightsError(f"{root} is not {preset.name}, or a part of it: it lacks {told}{_how(preset, root)}")
    return {name: found[name] for name in (*lacking, "processor") if name in found}


def _place(name: str, place: Path) -> Path:
    if not place.exists():
        raise WeightsError(f"part {name!r}: there is no {place}")
    return place


def _root(preset: Preset, path: str | Path | None) -> Path:
    if path is None:
        for repository in _repositories(preset):
            if folder := cached(repository):
                return folder
        raise WeightsError(f"{preset.name} is not in the hub's cache on this machine, and no path= was given{_how(preset)}")
    folder = Path(path).expanduser()
    if folder.is_dir():
        check_root(folder)
        return folder
    if folder.is_file():
        raise WeightsError(f"{folder} is one file: give it as parts={{'dit': …}}, and as path= the folder that has the other parts")
    if HUB_ID.fullmatch(str(path)):
        if snapshot := cached(str(path)):
            return snapshot
        raise WeightsError(f"{path} is no folder, and no repository in the hub's cache on this machine; get it: hf download {path}")
    raise WeightsError(f"{folder} is no folder{_how(preset)}")


def cached(repository: str) -> Path | None:
    """The folder of a repository in the hub's cache on this machine."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _repositories(preset: Preset) -> list[str]:
    """Those in which a model is published: in diffusers' layout, and in its own."""
    return [] if preset.hub is None else list(dict.fromkeys((preset.hub, re.sub("-[Dd]iffusers$", "", preset.hub))))


def _how(preset: Preset, root: Path | None = None) -> str:
    """The command that gets a model, or what a folder lacks of it."""
    if preset.hub is None:
        return ""
    repository = _repositories(preset)[0 if root is None or _is_diffusers(root) else -1]
    cached = root is None or root.parent.name == "snapshots"
    return f"; get it: hf download {repository}{'' if cached else f' --local-dir {root}'}"


def _shown(place: str) -> str:
    return "diffusion_pytorch_model*.safetensors" if place == "." else place if "*" in place else f"{place}/"


def _is_diffusers(root: Path) -> bool:
    return (root / "model_index.json").is_file() or (root / "transformer").is_dir()


def check_root(root: Path) -> None:
    """Raise for the folder of another program, by its own words."""
    index = root / "model_index.json"
    told = json.loads(index.read_text()).get("_class_name") if index.is_file() else None
    if told is not None and told not in _PIPELINES:
        raise WeightsError(f"{root} is a {told}, by its model_index.json, and no Wan pipeline ({' or '.join(_PIPELINES)})")


def found_in(root: Path, wanted: Collection[str]) -> dict[str, Path]:
    """Those of the wanted parts that stand in a folder, in either layout."""
    if _is_diffusers(root):
        return {name: root / place for name, place in _DIFFUSERS.items() if (root / place).is_dir()}
    found = {}
    for name, place in _PUBLISHED.items():
        places = ([root] if any(root.glob("*.safetensors")) else []) if place == "." else sorted(root.glob(place))
        if name in wanted and len(places) > 1:
            told = " and ".join(one.name for one in places)
            raise WeightsError(f"{root} holds {told}: say which is meant, parts={{{name!r}: …}}")
        if places:
            found[name] = places[0]
    return found
