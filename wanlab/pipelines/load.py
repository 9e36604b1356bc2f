"""Loading: a preset by name, or a folder, with `pipeline.json` and one `<stage>.<variant>.safetensors` each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted
from wanlab.pipelines.base import Pipeline
from wanlab.pipelines.cascade import STAGES, Cascade
from wanlab.pipelines.residence import decide
from wanlab.pipelines.wan_kind import kind_of, place_of, unknown
from wanlab.pipelines.wan_presets import PRESETS as WAN
from wanlab.pipelines.weights import WeightsError
from wanlab.stages import (
    align,
    conv,
    deformable,
    detail,
    discriminator,
    fusion,
    generator,
    image,
    latent,
    pooled,
    resize,
    t5,
    text,
    upsample,
)


@dataclass(frozen=True)
class LevelsConfig:
    """The x2 levels of a super-resolution cascade, smallest first: one upsample.Config as plain data each."""

    levels: tuple[dict[str, Any], ...]


class Levels(nn.ModuleList):
    """The cascade's levels as one stage: `upsample.0`, `upsample.1`, …"""

    level: type[upsample.Upsample] = upsample.Upsample

    def __init__(self, config: LevelsConfig) -> None:
        super().__init__(self.level.from_config(level) for level in config.levels)


class ResizeLevels(Levels):
    """Levels that enlarge features and then make pixels."""

    level = resize.ResizeConv


class TrilinearLevels(Levels):
    """Levels that enlarge their answer."""

    level = resize.Trilinear


class SettingError(TypeError, ValueError):
    """A setting of another kind of pipeline."""


PRESETS = Path(__file__).parent.parent / "weights"
FIELDS = ("name", "size", "frames", "slots", "sampler", "stages")      # of pipeline.json, that a pipeline is built from
MOST = 8192                                                            # pixels of a side, frames, slots
OPTIONAL = ("tiling", "note")

# stage -> class name in pipeline.json -> (module class, configuration class)
CLASSES: dict[str, dict[str, tuple[type[nn.Module], type]]] = {
    "text": {"t5": (text.TextEncoder, text.Config), "t5_base": (t5.T5Encoder, t5.Config)},
    "image": {
        "dit": (image.ImageEncoder, image.Config), "conv": (conv.ConvEncoder, image.Config),
        "latent_dit": (latent.LatentEncoder, latent.Config),
    },
    "fusion": {
        "cross_attention": (fusion.CrossAttentionFusion, fusion.Config), "concat": (pooled.ConcatFusion, fusion.Config),
        "film": (pooled.FilmFusion, fusion.Config), "gated": (pooled.GatedFusion, fusion.Config),
    },
    "generator": {"unet": (generator.Generator, generator.Config)},
    "align": {
        "flow_warp": (align.FlowWarp, align.Config), "temporal_attention": (align.AttentionAlign, align.Config),
        "deformable": (deformable.DeformableAlign, align.Config), "none": (align.NoAlign, align.Config),
    },
    "upsample": {
        "levels": (Levels, LevelsConfig), "resize_conv": (ResizeLevels, LevelsConfig), "trilinear": (TrilinearLevels, LevelsConfig),
    },
    "detail": {"enhancer": (detail.Detail, detail.Config)},
    "discriminator": {"vgg": (discriminator.Discriminator, discriminator.Config)},
}


def load(name: str | Path = "tiny", init: str | None = None, device: str | torch.device = "cpu",
         variants: dict[str, str] | None = None, published: dict[str, str | Path] | None = None,
         offload: bool | str = False, **wan: Any) -> Pipeline:
    """A pipeline ready to run.

    name      a preset that ships with the package ("tiny"), a folder with a pipeline.json, or a Wan model ("wan2.1-t2v-1.3b";
              "wan-random-tiny" for tries without weights); or the folder of a Wan model's weights, or its repository in the hub's
              cache: which one it is, is told by their sizes
    init      "random": stages without weights start from a fixed seed; otherwise they raise. "meta": sizes without values, to
              list sites
    variants  stage -> variant, where not the default; what pipeline.json says that one was trained `with` comes along
    published stage -> folder or hub id of what others published of it: {"text": "google-t5/t5-base", "image":
              "facebook/DiT-XL-2-256"} of the preset article (`wanlab.pipelines.published`); of a pipeline that was trained around
              them they are found where they were, unless told here
    offload   of a Wan model: True: stages wait in main memory and are on the device only while their node runs; "auto": where not
              all of it is free on the device (`wanlab sites NAME --meta --cost` says what that is)
    wan       of a Wan model: see `wanlab.pipelines.wan_load.load_wan`
    Raises TypeError for what is no name, LookupError for an unknown preset or variant, ValueError for another `init`,
    SettingError for a setting of other pipelines, WeightsError for missing or damaged weights.
    """
    if init not in (None, "random", "meta"):
        raise ValueError(f"init must be None, 'random' or 'meta', got {init!r}")
    if not isinstance(name, str | Path):
        raise TypeError(f"load takes a name or a folder, not {quoted(name)}; there are {', '.join([*_shipped(), *WAN])}")
    shipped = _shipped()
    if name not in WAN and name not in shipped and (place := place_of(name)) is not None:
        if wan.get("path") is not None:
            raise SettingError(f"{name} is a folder of weights itself, and path={wan['path']} was given too: give one of them")
        name, wan = kind_of(place), {**wan, "path": place}
    if name in WAN:
        if published:
            raise SettingError(f"{name} takes no published=: its weights are one folder, path=")
        return _wan(str(name), init, torch.empty(0, device=device).device, offload, wan)
    if offload is True:
        raise SettingError(f"{name} is small and stays on its device: offload is a setting of Wan models")
    if wan:
        raise SettingError(f"{name} takes no {', '.join(wan)}: these are settings of Wan models")
    folder = PRESETS / name if name in shipped else Path(name).expanduser()
    if not folder.is_dir():
        raise unknown(str(name), [*shipped, *WAN])
    manifest = read_manifest(folder)
    asked = variants or {}
    chosen = {stage: entry["default"] for stage, entry in manifest["stages"].items()} | _brought(manifest, asked) | asked
    for stage in (*chosen, *(published or {})):
        if stage not in STAGES:
            raise LookupError(f"{manifest['name']} has no stage {stage!r}{suggestion(stage, STAGES)}")
    config = {key: manifest[key] for key in (*FIELDS, *OPTIONAL) if key in manifest} | {"variants": chosen}
    config |= {"published": {stage: str(source) for stage, source in published.items()}} if published else {}
    stages = {stage: build_stage(config, folder, stage, chosen[stage], init) for stage in STAGES}
    return Cascade(stages, config, folder).to("meta" if init == "meta" else device)


def _brought(manifest: dict[str, Any], asked: dict[str, str]) -> dict[str, str]:
    """stage -> variant: what the variants asked for were trained with and do not come without (`Cascade.companions`)."""
    entries = [manifest["stages"].get(stage, {}).get("variants", {}).get(variant, {}) for stage, variant in asked.items()]
    return {stage: variant for entry in entries for stage, variant in entry.get("with", {}).items()}


def _wan(name: str, init: str | None, device: torch.device, offload: bool | str, settings: dict[str, Any]) -> Pipeline:
    """A Wan model: without values, in main memory from where its stages come and go, or on the device as a whole."""
    from wanlab.pipelines.wan_load import load_wan

    if init == "meta":
        return load_wan(name, init=init, **settings)
    from wanlab.pipelines.cost import footprint

    if decide(offload, device, lambda: footprint(name, **settings)):
        precision = torch.float32 if device.type == "cpu" else torch.bfloat16
        return load_wan(name, init=init, **{"dtype": precision, **settings}).staged(device)
    return load_wan(name, init=init, device=device, **settings)


def adopt(pipe: Cascade, stage: str, variant: str, entry: dict[str, Any], init: str | None = None) -> Cascade:
    """`pipe` with a further variant of a stage swapped in; `entry` says of it what pipeline.json would, its `file` as an
    absolute path. Every other weight is shared."""
    known = pipe.config["stages"][stage]
    stages = {**pipe.config["stages"], stage: {**known, "variants": {**known["variants"], variant: entry}}}
    parts = {name: pipe.get_submodule(name) for name in STAGES}
    return Cascade(parts, {**pipe.config, "stages": stages}, pipe.folder).swap(stage, variant, init)


def read_manifest(folder: Path) -> dict[str, Any]:
    """pipeline.json of a folder. WeightsError where it is missing or broken."""
    path = folder / "pipeline.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{folder} is no pipeline folder: it has no pipeline.json") from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(manifest, dict) or (missing := [key for key in FIELDS if key not in manifest]):
        raise WeightsError(f"{path} describes no pipeline: it lacks {', '.join(missing) if isinstance(manifest, dict) else 'keys'}")
    for fault in _faults(manifest):
        raise WeightsError(f"{path} describes no pipeline: {fault}")
    return manifest


def _faults(manifest: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the form of a pipeline.json."""
    sizes = {key: manifest[key] for key in ("frames", "slots")}
    sides = manifest["size"] if isinstance(manifest["size"], list) else [manifest["size"]]
    for key, value in [*sizes.items(), *(("size", side) for side in sides)]:
        if type(value) is not int or not 1 <= value <= MOST:
            yield f"{key} is {quoted(value)}, where a number from 1 to {MOST:,} stands"
    if not isinstance(manifest["sampler"], dict) or not isinstance(manifest["stages"], dict):
        yield "sampler and stages are mappings"
        return
    for key in ("steps", "guidance"):
        if type(value := manifest["sampler"].get(key)) not in (int, float):
            yield f"sampler.{key} is {quoted(value)}, where a number stands"
    if missing := [stage for stage in STAGES if stage not in manifest["stages"]]:
        yield f"stages lacks {', '.join(missing)}"
    for stage, entry in manifest["stages"].items():
        variants = entry.get("variants") if isinstance(entry, dict) else None
        if not isinstance(variants, dict) or not isinstance(entry.get("default"), str):
            yield f"stages.{stage} needs variants and a default"
            continue
        for name, one in variants.items():
            if not isinstance(one, dict) or not isinstance(one.get("class"), str) or not isinstance(one.get("config", {}), dict):
                yield f"stages.{stage}.variants.{name} needs a class and a config"
            elif not isinstance(file := one.get("file") or "", str) or Path(file).name != file:
                yield f"stages.{stage}.variants.{name}: {quoted(file)} is no name of a file in this folder"
            elif not _told_around(around := one.get("published")):
                yield f"stages.{stage}.variants.{name}: published is a source and a key, not {quoted(around)}"


def _told_around(around: Any) -> bool:
    """Whether it says what a variant was trained around, or nothing."""
    return around is None or (isinstance(around, dict) and all(isinstance(around.get(key), str) for key in ("source", "key")))


def build_stage(config: dict[str, Any], folder: Path, stage: str, variant: str, init: str | None = None) -> nn.Module:
    """One stage in one variant, with its weights; `config` holds the manifest's "stages".

    Raises LookupError for a variant that the stage does not have, WeightsError for one without weights or of a class that there is
    not.
    """
    variants = config["stages"][stage]["variants"]
    if variant not in variants:
        raise LookupError(f"stage {stage} has no variant {variant!r}{suggestion(variant, variants)}; "
                          f"there are {', '.join(variants)}")
    entry = variants[variant]
    if entry["class"] not in CLASSES[stage]:
        raise WeightsError(f"stage {stage}, variant {variant!r}: there is no class {entry['class']!r}"
                           f"{suggestion(entry['class'], CLASSES[stage])}")
    cls, config_class = CLASSES[stage][entry["class"]]

    def made(device: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(0)
            try:
                return cls(_config(config_class, entry.get("config", {}))).eval()
            except MemoryError:
                raise
            except Exception as error:  # of sizes that do not fit, each module raises something else
                said = f"stage {stage}, variant {variant!r}: what pipeline.json says of it makes no module"
                raise WeightsError(f"{said} ({type(error).__name__}: {error})") from error

    path = folder / entry["file"] if entry.get("file") else None
    told = entry.get("published")                                   # around what the stage was trained; its file has the rest
    if init == "meta":
        return made("meta")
    if path is not None and path.exists():
        module = made("cpu")
        _fill(module, path, entry.get("sha256"), getattr(module, "PUBLISHED", ()) if told else ())
    elif init != "random" and any(True for _ in made("meta").parameters()):
        raise WeightsError(f"stage {stage}, variant {variant!r} has no weights in {folder}: train it, or say init='random'")
    else:
        module = made("cpu")
    source = config.get("published", {}).get(stage)
    if source or told:
        from wanlab.pipelines.published import fill_published, trained_around

        fill_published(stage, module, trained_around(stage, source, told) if told else source)
    return module


def _config(cls: type, values: dict[str, Any]) -> Any:
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _fill(module: nn.Module, path: Path, sha256: str | None, apart: tuple[str, ...] = ()) -> None:
    """Give a module the weights of a file, strictly; those of the modules `apart` stand elsewhere."""
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    content = path.read_bytes()
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise WeightsError(f"{path} is damaged or was replaced: its sha256 is not the one in pipeline.json")
    try:
        held = parse(content)
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:  # KeyError: numbers of a kind unknown here
        raise WeightsError(f"{path} is damaged: {error}") from None
    wanted = module.state_dict()
    for name, value in held.items():
        if name in wanted and wanted[name].is_floating_point() != value.is_floating_point():
            raise WeightsError(f"{path} was made for another configuration: {name} holds {value.dtype}, not {wanted[name].dtype}")
    state = {k: v.float() if v.is_floating_point() else v for k, v in held.items()}
    state |= {k: v for k, v in wanted.items() if k.partition(".")[0] in apart}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit its configuration: {error}") from None


def save_stage(module: nn.Module, path: Path, half: bool = True, apart: tuple[str, ...] = ()) -> str:
    """Write a stage's weights, but for those of the modules `apart`, as safetensors (float16 where `half`) under a temporary name,
    rename, return the sha256."""
    from safetensors.torch import save_file

    held = {k: v for k, v in module.state_dict().items() if k.partition(".")[0] not in apart}
    state = {k: v.detach().cpu().contiguous() for k, v in held.items()}
    state = {k: v.half() if half and v.is_floating_point() else v for k, v in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(state, part)
    part.chmod(0o644)                                               # the writer makes files for their owner alone
    part.replace(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _shipped() -> list[str]:
    """The presets whose weights come with the package; they stand before a folder of that name, which a Path says."""
    return sorted(place.parent.name for place in PRESETS.glob("*/pipeline.json"))
