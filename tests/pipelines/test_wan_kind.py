"""Which Wan lies in a folder, when nobody says it; and what is said of folders that are none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.pipelines import published
from tests.pipelines.test_wan_load import cache
from wanlab.pipelines.load import SettingError, load
from wanlab.pipelines.wan_kind import kind_of
from wanlab.pipelines.wan_parts import random_pipeline
from wanlab.pipelines.wan_presets import PRESETS, Preset
from wanlab.pipelines.weights import WeightsError
from wanlab.stages.dit import Dit
from wanlab.stages.dit_keys import to_diffusers

QUICK = ("wan2.1-t2v-1.3b", "wan2.1-i2v-14b-480p", "wan2.2-t2v-a14b")
PUBLISHED = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name, preset in PRESETS.items() if preset.hub]
NAME = "diffusion_pytorch_model.safetensors"


def write(preset: Preset, folder: Path, diffusers: bool) -> Path:
    """The transformers of a model of true size in either layout; their values are holes."""
    with torch.device("meta"):
        state = Dit(preset.dit).state_dict()
    shapes = {name: tuple(value.shape) for name, value in (to_diffusers(state) if diffusers else state).items()}
    two = preset.boundary is not None
    places = (["transformer", *["transformer_2"] * two] if diffusers else ["high_noise_model", "low_noise_model"] if two else ["."])
    for place in places:
        published.holes(folder / place / NAME, shapes)
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_is_known_by_its_sizes(name: str, tmp_path: Path) -> None:
    for diffusers in (True, False):
        folder = write(PRESETS[name], tmp_path / str(diffusers), diffusers)
        if "i2v-14b" in name:       # two sets of weights of one size
            with pytest.raises(WeightsError, match=r"fit wan2.1-i2v-14b-480p and wan2.1-i2v-14b-720p.*say which is meant"):
                kind_of(folder)
        else:
            assert kind_of(folder) == name


def test_a_folder_or_a_repository_loads_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    pipe = random_pipeline(PRESETS["wan-random-tiny-t2v"], seed=4)
    folder = published.write(pipe, tmp_path / "models")
    found = load(folder, frames=5)
    assert found.config["name"] == "wan-random-tiny-t2v" and found.config["frames"] == 5 and found.weights_hash == pipe.weights_hash
    assert load(str(folder), init="meta").sites().names == pipe.sites().names
    with pytest.raises(SettingError, match="give one of them"):
        load(folder, path=folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(LookupError, match=r"no folder 'wan/tiny', and no repository in the hub's cache \(get it: hf download wan/"):
        load("wan/tiny")
    (tmp_path / "hub").mkdir()
    cache(folder, tmp_path / "hub", "wan/tiny")
    assert load("wan/tiny").weights_hash == pipe.weights_hash


def test_a_folder_of_something_else_is_told_by_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no pipeline.json, no model_index.json or transformer/.*it holds nothing"):
        load(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(WeightsError, match=r"it holds notes\.txt"):
        load(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))
    with pytest.raises(WeightsError, match=r"is a StableDiffusion3Pipeline, by its model_index.json"):
        load(tmp_path)
    other = tmp_path / "other"
    published.holes(other / NAME, {"joint_blocks.0.x_block.attn.qkv.weight": (2,)})
    with pytest.raises(WeightsError, match="looks like Stable Diffusion 3, not like a Wan transformer"):
        load(other)
    tiny = PRESETS["wan-random-tiny"]
    write(replace(tiny, dit=replace(tiny.dit, depth=29)), tmp_path / "short", False)
    with pytest.raises(WeightsError, match=r"a Wan transformer of sizes that no preset has: .*depth 29.*presets: wan2.1-t2v-1.3b"):
        load(tmp_path / "short")


def test_a_wrong_name_still_names_the_nearest() -> None:
    with pytest.raises(LookupError, match=r"no preset and no folder 'wan2.1-t2v-1.3'; nearest: wan2.1-t2v-1.3b"):
        load("wan2.1-t2v-1.3")
