"""What of which file fills which part of a Wan model, checked from configurations and headers before values are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wanlab.pipelines import lookalikes
from wanlab.pipelines.shards import Filling, Shards
from wanlab.pipelines.weights import WeightsError
from wanlab.stages.dit import FLOAT32, Config, Dit
from wanlab.stages.dit_keys import dit_takes
from wanlab.stages.published_keys import image_takes, text_takes, vae_takes
from wanlab.stages.takes import Takes

# What a configuration file calls the sizes of a transformer: diffusers, then the published code.
_SIZES = {
    "num_attention_heads": "heads", "attention_head_dim": "head_width", "num_layers": "depth", "ffn_dim": "hidden",
    "in_channels": "inputs", "out_channels": "outputs", "patch_size": "patch", "text_dim": "text_width", "freq_dim": "frequencies",
    "image_dim": "image_width", "pos_embed_seq_len": "image_places", "eps": "eps",
    "num_heads": "heads", "in_dim": "inputs", "out_dim": "outputs",
}  # fmt: skip
_TRANSFORMERS = ("WanTransformer3DModel", "WanModel")
# What the configurations of umT5, CLIP and VAE say that changes what is computed.
_COMPUTED = (
    "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets",
    "relative_attention_max_distance", "layer_norm_epsilon", "feed_forward_proj",
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size", "hidden_act",
    "layer_norm_eps",
    "base_dim", "decoder_base_dim", "z_dim", "dim_mult", "num_res_blocks", "attn_scales", "temperal_downsample", "is_residual",
    "in_channels", "out_channels", "latents_mean", "latents_std", "scale_factor_spatial", "scale_factor_temporal",
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """One part: what fills it, and the precision of each of its parameters."""

    filling: Filling
    dtype_of: Callable[[str], torch.dtype]


def readings(stages: Mapping[str, nn.Module], parts: Mapping[str, Path], dtype: torch.dtype) -> list[Reading]:
    """How the parts of some files fill stages on the meta device. dtype: of text encoder and transformer.

    Raises WeightsError for files that are missing, damaged, or of another model, and says which it seems to be.
    """
    found = []
    for name, place in parts.items():
        stage: Any = stages.get(name.split(".")[0])
        if name.startswith("dit"):
            found.append(dit_reading(place, stage.get_submodule(name[4:]), dtype))
        elif name == "text":
            found.append(_reading(place, stage.encoder.inner, text_takes, lookalikes.TEXT, of_text(dtype)))
        elif name == "vae":
            found.append(_reading(place, stage.encoder.net.inner, vae_takes, lookalikes.VAE))
        elif name == "clip":
            found.append(_reading(place, stage.tower.inner, image_takes, lookalikes.CLIP))
    return found


def dit_reading(place: Path, dit: Dit, dtype: torch.dtype) -> Reading:
    """Of a transformer: its configuration where there is one, its shapes and its names are those of `dit`."""
    told = _config(place)
    if told.get("_class_name", _TRANSFORMERS[0]) not in _TRANSFORMERS:
        raise WeightsError(f"{place} is a {told['_class_name']}, by its config.json, not {lookalikes.DIT}")
    _demand_sizes(place, _named(told), dit.config)
    shards = _of_kind(place, lookalikes.DIT)
    takes = dit_takes(shards.shapes)
    _demand_sizes(place, _sizes(shards, takes, dit.config.head_width), dit.config)
    filling = Filling(dit, shards, takes)
    return Reading(filling, lambda name: torch.float32 if any(part in name for part in FLOAT32) else dtype)


def dit_sizes(place: Path) -> Callable[[int], dict[str, Any]]:
    """The sizes of the transformer at a place, by the fields of its configuration, if its heads are so wide: what its own
    configuration says, and its shapes. Raises WeightsError for something else."""
    told, shards = _config(place), _of_kind(place, lookalikes.DIT)
    takes = dit_takes(shards.shapes)
    return lambda width: {**_sizes(shards, takes, width), **_named(told)}


def _named(told: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes that a configuration of a transformer says."""
    return {_SIZES[key]: tuple(value) if isinstance(value, list) else value for key, value in told.items() if key in _SIZES}


def _sizes(shards: Shards, takes: Takes, head_width: int) -> dict[str, Any]:
    try:
        shapes = {take.name: shape for name, shape in shards.shapes.items() for take in takes(name)}
        return lookalikes.sizes_of(shapes, head_width)
    except KeyError as error:
        raise WeightsError(f"{shards.path} is no whole Wan transformer: {error.args[0]}") from None


def _reading(place: Path, module: Any, takes_of: Callable[[Any, Collection[str]], Takes], kind: str,
             dtype_of: Callable[[str], torch.dtype] = lambda _: torch.float32) -> Reading:
    told = _config(place)
    expected = {key: getattr(module.config, key) for key in _COMPUTED if key in told and hasattr(module.config, key)}
    differ = [f"{key} {told[key]} instead of {value}" for key, value in expected.items() if _plain(told[key]) != _plain(value)]
    if differ:
        raise WeightsError(f"{place} is another model, by its config.json: {', '.join(differ)}")
    shards = _of_kind(place, kind)
    return Reading(Filling(module, shards, takes_of(module, shards.shapes)), dtype_of)


def _of_kind(place: Path, kind: str) -> Shards:
    """The tensors at a place, where they do not look like something else."""
    shards = Shards(place)
    found = lookalikes.kind_of(shards.shapes)
    if found not in (None, kind):
        raise WeightsError(f"{place} looks like {found}, not like {kind}")
    return shards


def _demand_sizes(place: Path, sizes: Mapping[str, Any], expected: Config) -> None:
    if differ := lookalikes.difference(sizes, expected):
        raise WeightsError(f"{place} is another model: {differ}")


def _config(place: Path) -> dict[str, Any]:
    """The configuration beside some weights; empty where there is none."""
    path = place / "config.json"
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text())
    except ValueError as error:
        raise WeightsError(f"{path} is damaged: {error}") from None
    if not isinstance(told, dict):
        raise WeightsError(f"{path} is no configuration: it holds a {type(told).__name__}")
    return told


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def of_text(dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    """The precision of a parameter of umT5 by its name: float16 cannot hold what the last projection of a feed-forward gives."""
    return lambda name: torch.float32 if dtype == torch.float16 and ".wo." in name else dtype
