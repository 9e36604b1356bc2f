"""Loading Wan: a preset's sizes with random weights, without values, or with the weights of a folder in diffusers' layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wanlab.pipelines.shards import Shards, fill
from wanlab.pipelines.wan21 import Wan
from wanlab.pipelines.wan_parts import random_pipeline, stages
from wanlab.pipelines.wan_presets import PRESETS, Preset
from wanlab.pipelines.weights import WeightsError
from wanlab.stages.clip import Clip
from wanlab.stages.dit import FLOAT32, Config, Dit
from wanlab.stages.dit_keys import from_diffusers_name, is_diffusers
from wanlab.stages.umt5 import Umt5
from wanlab.stages.vae import Vae

Progress = Callable[[int, int], None]


def load_wan(name: str | Preset, init: str | None = None, path: str | Path | None = None, dtype: torch.dtype = torch.float32,
             size: int | tuple[int, int] | None = None, frames: int | None = None, scheduler: str | None = None,
             shift: float | None = None, progress: Progress | None = None) -> Wan:
    """A Wan model by the name of its preset, or of sizes of your own.

    init       "random": weights drawn from a fixed seed; "meta": none, to list sites; the small random presets need neither
    path       folder of the weights in diffusers' layout (model_index.json); without, the preset's repository on the hub
    dtype      of text encoder and transformer, but float32 where the published code computes in it; the VAE is float32
    size       height and width of the video, multiples of 16; frames: 4n + 1; those of the preset where not given
    scheduler  "unipc" or "euler"; shift: of its noise levels
    progress   called with (tensors of the transformer read, all)

    Raises WeightsError for a folder that is missing, partial, damaged or of another model, before anything large is read.
    """
    told: dict[str, Any] = {"size": size, "frames": frames, "scheduler": scheduler, "shift": shift}
    told = {key: value for key, value in told.items() if value is not None}
    preset = replace(PRESETS[name] if isinstance(name, str) else name, **told)
    if init == "meta":
        with torch.device("meta"):
            return Wan(stages(preset), preset.config(), preset)
    if init == "random" or (preset.random and path is None):
        return random_pipeline(preset)
    return _from_folder(preset, _folder(preset, path), dtype, progress)


def _folder(preset: Preset, path: str | Path | None) -> Path:
    if path is None:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(preset.hub), allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise WeightsError(f"{folder} is no folder; {preset.name} is published as {preset.hub}")
    needed = ["transformer", "text_encoder", "tokenizer", "vae", *(["image_encoder"] if preset.clip else [])]
    if missing := [part for part in needed if not (folder / part).is_dir()]:
        raise WeightsError(f"{folder} is not {preset.name} in diffusers' layout: it lacks {', '.join(missing)}/")
    return folder


def _from_folder(preset: Preset, folder: Path, dtype: torch.dtype, progress: Progress | None) -> Wan:
    from diffusers import AutoencoderKLWan
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPVisionModel, UMT5EncoderModel

    made: dict[str, nn.Module] = {"dit": read_dit(folder / "transformer", preset.dit, dtype, progress)}
    local: dict[str, Any] = {"local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", **local)
    made["text"] = Umt5(UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype, **local), tokenizer)
    made["vae"] = Vae(AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32, **local))
    if preset.clip is not None:
        tower = CLIPVisionModel.from_pretrained(folder / "image_encoder", dtype=torch.float32, **local)
        made["clip"] = Clip(tower, CLIPImageProcessor.from_pretrained(folder / "image_processor", **local))
    made = {name: stage.eval().requires_grad_(False) for name, stage in made.items()}
    return Wan(made, preset.config(), preset)


def read_dit(folder: Path, expected: Config, dtype: torch.dtype = torch.float32, progress: Progress | None = None) -> Dit:
    """The transformer of a folder with config.json and safetensors files, under diffusers' or the published names.

    Raises WeightsError where its sizes are not the expected ones, or its weights do not fit them.
    """
    found = _config(folder)
    if found is not None and found != expected:
        differ = [f"{name} {getattr(found, name)} instead of {getattr(expected, name)}" for name in vars(expected)
                  if getattr(found, name) != getattr(expected, name)]
        raise WeightsError(f"{folder} is another model: {', '.join(differ)}")
    shards = Shards(folder)
    theirs = is_diffusers(list(shards.shapes))
    with torch.device("meta"):
        dit = Dit(expected)

    def renamed(name: str) -> str | None:
        try:
            return from_diffusers_name(name) if theirs else name
        except KeyError as error:
            raise WeightsError(f"{folder}: {error.args[0]}") from None

    def precision(name: str) -> torch.dtype:
        return torch.float32 if any(part in name for part in FLOAT32) else dtype

    fill(dit, shards, renamed, precision, progress=progress)
    return dit.eval().requires_grad_(False)


def _config(folder: Path) -> Config | None:
    """The sizes in a config.json of diffusers; None where there is none."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    told = json.loads(path.read_text())
    if "num_attention_heads" not in told:
        raise WeightsError(f"{path} does not describe a Wan transformer")
    return Config(
        heads=told["num_attention_heads"], head_width=told["attention_head_dim"], depth=told["num_layers"], hidden=told["ffn_dim"],
        inputs=told["in_channels"], outputs=told["out_channels"], patch=tuple(told["patch_size"]), text_width=told["text_dim"],
        frequencies=told["freq_dim"], image_width=told.get("image_dim"), image_places=told.get("pos_embed_seq_len"),
        eps=told["eps"])
