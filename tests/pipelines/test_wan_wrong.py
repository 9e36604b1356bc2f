"""What is said of files that are not the Wan model that was asked for: by name, with what they seem to be, unread."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.pipelines import published
from tests.pipelines.test_wan import theirs
from tests.pipelines.wan import made, small
from wanlab.pipelines.digests import sha256
from wanlab.pipelines.load import load
from wanlab.pipelines.lookalikes import kind_of
from wanlab.pipelines.wan_load import load_wan, read_dit
from wanlab.pipelines.wan_presets import LARGE, PRESETS
from wanlab.pipelines.weights import WeightsError
from wanlab.stages.dit import Dit


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan") / "saved"
    their = theirs(made(seed=4))
    their.save_pretrained(folder)
    shutil.rmtree(folder / "transformer")
    their.transformer.save_pretrained(folder / "transformer", max_shard_size="100KB")
    return folder


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.write(made(seed=4), tmp_path_factory.mktemp("wan") / "official")


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


@pytest.fixture
def layout(official: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(official, tmp_path / "layout"))


def test_a_missing_shard_is_named(copy: Path) -> None:
    lost = sorted((copy / "transformer").glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(WeightsError, match=rf"lacks {lost.name}, which .*index.json names"):
        load_wan(small(), path=copy)
    next((copy / "transformer").glob("*.index.json")).unlink()
    with pytest.raises(WeightsError, match=rf"lacks {lost.name}, by the number of parts"):
        load_wan(small(), path=copy)


def test_a_partial_folder_says_what_it_lacks_and_how_to_get_it(copy: Path, layout: Path) -> None:
    preset = replace(small(), hub="wan/small-Diffusers")
    shutil.rmtree(copy / "vae")
    shutil.rmtree(copy / "image_encoder")
    with pytest.raises(WeightsError, match=rf"lacks vae/, image_encoder/; get it: hf download {preset.hub} --local-dir {copy}$"):
        load_wan(preset, path=copy)
    (layout / published.CLIP).unlink()
    shutil.rmtree(layout / "google")
    with pytest.raises(WeightsError, match=r"lacks google/umt5-xxl/, models_clip_\*\.pth; get it: hf download wan/small --local"):
        load_wan(preset, path=layout)
    with pytest.raises(WeightsError, match="is no folder; get it: hf download wan/small-Diffusers"):
        load_wan(preset, path=copy / "nowhere")
    with pytest.raises(WeightsError, match=r"is one file: give it as parts=\{'dit': …\}"):
        load_wan(preset, path=layout / published.VAE)


def test_parts_are_checked_by_name_and_place(copy: Path) -> None:
    with pytest.raises(LookupError, match="no part 'vea'; nearest: vae"):
        load_wan(small(), path=copy, parts={"vea": copy})
    with pytest.raises(WeightsError, match="part 'dit': there is no"):
        load_wan(small(), path=copy, parts={"dit": copy / "nothing.safetensors"})
    (copy / "weights.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match=r"weights.gguf is no file of weights that can be read here: those end in \.safetensors"):
        load_wan(small(), path=copy, parts={"dit": copy / "weights.gguf"})


def test_another_model_is_told_by_its_sizes_before_its_weights_are_read(copy: Path) -> None:
    with pytest.raises(WeightsError, match="inputs 36 instead of 16"):
        load_wan(small("t2v"), path=copy)
    config = json.loads((copy / "transformer" / "config.json").read_text())
    (copy / "transformer" / "config.json").write_text(json.dumps(config | {"ffn_dim": 128}))
    with pytest.raises(WeightsError, match="hidden 128 instead of 64"):
        load_wan(small(), path=copy)
    (copy / "transformer" / "config.json").unlink()
    with pytest.raises(WeightsError, match="hidden 64 instead of 128"):
        read_dit(copy / "transformer", replace(small().dit, hidden=128))
    config = json.loads((copy / "text_encoder" / "config.json").read_text())
    (copy / "text_encoder" / "config.json").write_text(json.dumps(config | {"d_ff": 65}))
    with pytest.raises(WeightsError, match=r"text_encoder is another model, by its config.json: d_ff 65 instead of 64"):
        load_wan(small(), path=copy)


def test_the_large_model_given_for_the_small_one_is_named(official: Path, tmp_path: Path) -> None:
    """The file is as long as the true one, 28 GB, and nothing of it is read."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Dit(LARGE).state_dict().items()}
    file = published.holes(tmp_path / "wan.safetensors", shapes)
    assert file.stat().st_size > 28e9
    with pytest.raises(WeightsError, match=r"depth 40 instead of 30.*those are the sizes of wan2.1-t2v-14b"):
        load_wan("wan2.1-t2v-1.3b", path=official, parts={"dit": file})


@pytest.mark.parametrize(("given", "to", "says"), [
    ("text_encoder", "vae", "looks like a T5 text encoder, not like a Wan autoencoder"),
    ("vae", "text_encoder", "looks like a Wan autoencoder, not like a T5 text encoder"),
    ("image_encoder", "dit", "looks like a CLIP image encoder, not like a Wan transformer"),
])
def test_a_part_at_the_place_of_another_is_named(copy: Path, given: str, to: str, says: str) -> None:
    file = next((copy / given).glob("*.safetensors"))
    with pytest.raises(WeightsError, match=says):
        load_wan(small(), path=copy, parts={{"text_encoder": "text"}.get(to, to): file})


@pytest.mark.parametrize(("names", "kind"), [
    (["joint_blocks.0.x_block.attn.qkv.weight"], "Stable Diffusion 3"),
    (["pos_embed.proj.weight", "transformer_blocks.0.attn.add_q_proj.weight"], "Stable Diffusion 3"),
    (["patch_embed.proj.weight", "patch_embed.text_proj.weight", "transformer_blocks.0.norm1.linear.weight"], "CogVideoX"),
    (["double_blocks.0.img_attn.qkv.weight"], "FLUX or HunyuanVideo"),
    (["adaln_single.linear.weight", "caption_projection.linear_1.weight"], "LTX-Video or PixArt"),
    (["model.diffusion_model.input_blocks.0.0.weight"], "a UNet of Stable Diffusion"),
    (["encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight"], "the autoencoder of an image model"),
    (["diffusion_model.blocks.0.self_attn.q.lora_A.weight"], "a LoRA, which is added to a model and is none"),
    (["vace_blocks.0.after_proj.weight", "patch_embedding.weight", "time_projection.1.weight"],
     "a Wan VACE transformer, with a branch for controls"),
    (["something.else"], None),
])
def test_other_models_are_known_by_their_parameters(names: list[str], kind: str | None, copy: Path) -> None:
    assert kind_of(names) == kind
    save_file({name: torch.zeros(2) for name in names}, copy / "other.safetensors")
    with pytest.raises(WeightsError, match=f"looks like {kind}, not" if kind else "no Wan transformer|no whole Wan transformer"):
        load_wan(small(), path=copy, parts={"dit": copy / "other.safetensors"})


def test_the_folder_of_another_pipeline_is_told_by_its_own_words(copy: Path) -> None:
    (copy / "transformer" / "config.json").write_text(json.dumps({"_class_name": "SD3Transformer2DModel"}))
    with pytest.raises(WeightsError, match=r"is a SD3Transformer2DModel, by its config.json, not a Wan transformer"):
        load_wan(small(), path=copy)
    (copy / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))
    with pytest.raises(WeightsError, match=r"is a StableDiffusion3Pipeline, by its model_index.json, and no Wan pipeline"):
        load_wan(small(), path=copy)


def test_damaged_files_are_named(copy: Path, layout: Path) -> None:
    shard = sorted((copy / "transformer").glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(WeightsError, match=f"{shard.name} is damaged"):
        load_wan(small(), path=copy)
    (layout / published.VAE).write_bytes((layout / published.VAE).read_bytes()[:5000])
    with pytest.raises(WeightsError, match=f"{published.VAE} is damaged"):
        load_wan(small(), path=layout)
    (layout / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config.json is damaged"):
        load_wan(small(), path=layout)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "sprung")


def test_nothing_in_a_torch_file_is_run(layout: Path) -> None:
    for save in (torch.save, lambda held, file: file.write_bytes(pickle.dumps(held))):
        save({"a": Trap(layout / "sprung")}, layout / published.VAE)
        with pytest.raises(WeightsError, match=f"{published.VAE} (holds more than tensors|is damaged)"):
            load_wan(small(), path=layout)
    assert not (layout / "sprung").exists()
    torch.save({"epoch": 3, "model": {"a": torch.zeros(1)}}, layout / published.VAE)
    with pytest.raises(WeightsError, match="is no plain mapping of names to tensors: it holds epoch, model"):
        load_wan(small(), path=layout)


def test_parameters_too_many_too_few_and_twice(layout: Path) -> None:
    file = layout / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    lost = {name: value for name, value in state.items() if name != "blocks.1.ffn.2.bias"}
    save_file(lost, file)
    with pytest.raises(WeightsError, match=r"1 missing, as blocks.1.ffn.2.bias"):
        load_wan(small(), path=layout)
    save_file(state | {"blocks.1.ffn.7.bias": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match=r"1 unknown, as blocks.1.ffn.7.bias; nearest: blocks.1.ffn.0.bias"):
        load_wan(small(), path=layout)
    save_file({name: value for name, value in state.items() if not name.startswith("time_embedding")}, file)
    with pytest.raises(WeightsError, match=r"is no whole Wan transformer: time_embedding.0.weight"):
        load_wan(small(), path=layout)
    save_file(state, file)
    save_file(state, layout / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(WeightsError, match="two precisions of one; give the file that is meant"):
        load_wan(small(), path=layout)


def test_a_wrong_sha256_is_told(layout: Path, copy: Path) -> None:
    right = sha256(layout / published.VAE)
    load_wan(small(), path=layout, verify={published.VAE: right.upper()})
    with pytest.raises(WeightsError, match=rf"{published.VAE} is damaged or was replaced: its sha256 is {right}, not 00"):
        load_wan(small(), path=layout, verify={published.VAE: "0" * 64})
    with pytest.raises(WeightsError, match=rf"verify names 'Wan2.2_VAE.pth', which is not read; nearest: {published.VAE}"):
        load_wan(small(), path=layout, verify={"Wan2.2_VAE.pth": right})
    with pytest.raises(WeightsError, match="nothing is known of the sha256 of"):
        load_wan(small(), path=layout, verify=True)


def test_downloads_beside_a_folder_are_checked_by_the_hubs_notes(layout: Path) -> None:
    notes = layout / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    files = [file for file in layout.iterdir() if file.suffix in (".pth", ".safetensors")]
    for file in files:
        (notes / f"{file.name}.metadata").write_text(f"abc\n{sha256(file)}\n1700000000.0\n")
    load_wan(small(), path=layout, verify=True)
    (notes / f"{published.CLIP}.metadata").write_text(f"abc\n{'1' * 64}\n1700000000.0\n")
    with pytest.raises(WeightsError, match=f"{published.CLIP} is damaged or was replaced"):
        load_wan(small(), path=layout, verify=True)


def test_two_models_in_one_folder_must_be_told_apart(layout: Path) -> None:
    shutil.copy(layout / published.VAE, layout / "Wan2.2_VAE.pth")
    with pytest.raises(WeightsError, match=r"holds Wan2.1_VAE.pth and Wan2.2_VAE.pth: say which is meant, parts=\{'vae': …\}"):
        load_wan(small(), path=layout)
    load_wan(small(), path=layout, parts={"vae": layout / published.VAE})


def test_what_is_not_there_is_said_with_the_command_that_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name, preset in PRESETS.items():
        if preset.hub:
            with pytest.raises(WeightsError, match=f"{name} is not in the hub's cache.*get it: hf download {preset.hub}"):
                load(name)
