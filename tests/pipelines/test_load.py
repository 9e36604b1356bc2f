"""Loading: what is whole loads, what is missing, damaged or unknown is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from wanlab.pipelines.cascade import STAGES, Cascade
from wanlab.pipelines.load import WeightsError, load, save_stage


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A pipeline folder of one's own."""
    return Path(shutil.copytree(folder, tmp_path / "own"))


def edit(folder: Path, stage: str, variant: str, **entry: Any) -> None:
    """Change a variant's entry in pipeline.json."""
    path = folder / "pipeline.json"
    manifest = json.loads(path.read_text())
    manifest["stages"][stage]["variants"][variant] |= entry
    path.write_text(json.dumps(manifest))


def ship(pipe: Cascade, folder: Path) -> None:
    """Write all weights of a pipeline as a training does."""
    for stage in STAGES:
        variant, module = pipe.config["variants"][stage], pipe.get_submodule(stage)
        file = f"{stage}.{variant}.safetensors"
        edit(folder, stage, variant, file=file, sha256=save_stage(module, folder / file))


def test_what_was_written_is_loaded_in_half_precision(pipe: Cascade, own: Path) -> None:
    ship(pipe, own)
    loaded = load(own)
    state = pipe.state_dict()
    assert not list(own.glob("*.part")) and loaded.state_dict().keys() == state.keys()
    for name, value in loaded.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, state[name].half().float())
    assert not loaded.training and loaded.weights_hash == load(own).weights_hash != pipe.weights_hash


def test_full_precision_is_exact(pipe: Cascade, own: Path) -> None:
    edit(own, "fusion", "cross_attention", file="f.safetensors", sha256=save_stage(pipe.fusion, own / "f.safetensors", half=False))
    assert load(own, init="random").hash_of("fusion") == pipe.hash_of("fusion")


def test_missing_weights_raise_unless_random_is_said_aloud(own: Path) -> None:
    with pytest.raises(WeightsError, match=r"stage text, variant 't5' has no weights in .*own.*init='random'"):
        load(own)
    assert load(own, init="random").config["name"] == "small"
    with pytest.raises(ValueError, match="init must be None, 'random' or 'meta', got 'zeros'"):
        load(own, init="zeros")


def test_random_weights_are_the_same_each_time_and_leave_the_generator_alone(own: Path) -> None:
    torch.manual_seed(5)
    first = load(own, init="random")
    drawn = torch.rand(1)
    second = load(own, init="random")
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1)) and first.weights_hash == second.weights_hash


@pytest.mark.parametrize("damage", ["replaced", "cut", "cut, without a hash", "not safetensors"])
def test_a_damaged_file_is_refused(pipe: Cascade, own: Path, damage: str) -> None:
    ship(pipe, own)
    path = own / "image.dit.safetensors"
    content = path.read_bytes()
    path.write_bytes({"replaced": content[:-1] + b"\x01", "not safetensors": b"weights"}.get(damage, content[: len(content) // 2]))
    if damage in ("cut, without a hash", "not safetensors"):
        edit(own, "image", "dit", sha256=None)
    with pytest.raises(WeightsError, match=r"image\.dit\.safetensors is damaged"):
        load(own)


def test_weights_of_another_configuration_are_refused(pipe: Cascade, own: Path) -> None:
    ship(pipe, own)
    edit(own, "fusion", "cross_attention", config={"width": 64, "heads": 4, "slots": 2})
    with pytest.raises(WeightsError, match="does not fit its configuration"):
        load(own)


@pytest.mark.parametrize(("content", "message"), [
    (None, "it has no pipeline.json"), ("{", "is not valid JSON"), ("{}", "lacks name, size"),
])  # fmt: skip
def test_a_folder_that_is_no_pipeline_is_told(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "pipeline.json").write_text(content)
    with pytest.raises(WeightsError, match=message):
        load(tmp_path)


def test_unknown_names_are_answered_with_the_nearest(folder: Path) -> None:
    with pytest.raises(LookupError, match="no preset and no folder 'tinny'; nearest: tiny"):
        load("tinny")
    with pytest.raises(LookupError, match="stage align has no variant 'flow-warp'; nearest: flow_warp"):
        load(folder, init="random", variants={"align": "flow-warp"})
    with pytest.raises(LookupError, match="small has no stage 'allign'; nearest: align"):
        load(folder, init="random", variants={"allign": "none"})


def test_a_class_that_is_not_here_is_told(own: Path) -> None:
    edit(own, "image", "dit", **{"class": "vit"})
    with pytest.raises(WeightsError, match=r"image.*no class 'vit'; nearest: dit"):
        load(own, init="random")


def test_variants_are_chosen_on_loading(folder: Path) -> None:
    pipe = load(folder, init="random", variants={"align": "none", "upsample": "no_residual"})
    assert pipe.config["variants"]["align"] == "none" and type(pipe.align).__name__ == "NoAlign"
    assert pipe.upsample[0].residual.link == 0


def test_a_preset_is_found_though_a_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load("tiny", init="random").config["name"] == "tiny"
    with pytest.raises(WeightsError, match="no pipeline folder"):
        load(Path("tiny"))


def test_hashes_tell_weights_and_configurations_apart(folder: Path) -> None:
    """Equal weights under another configuration are another stage: its cached outputs are not shared."""
    one, other = load(folder, init="random"), load(folder, init="random", variants={"upsample": "no_residual"})
    hashes = [{node.name: node.weights_hash for node in pipe.nodes} for pipe in (one, other)]
    assert {name for name in hashes[0] if hashes[0][name] != hashes[1][name]} == {"upsample.0", "upsample.1"}
    with torch.no_grad():
        other.text.norm.weight[0] += 1e-3
    assert other.hash_of("text") != one.hash_of("text") and other.hash_of("image") == one.hash_of("image")
