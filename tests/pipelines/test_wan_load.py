"""Loading Wan from folders in diffusers' layout, sharded or not, and what is said of wrong ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import wanlab
from tests.pipelines.test_wan import theirs
from tests.pipelines.wan import made, small
from wanlab.pipelines.wan_load import load_wan
from wanlab.pipelines.weights import WeightsError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image-to-video model as diffusers saves it, its transformer in shards."""
    folder = tmp_path_factory.mktemp("wan") / "saved"
    published = theirs(made(seed=4))
    published.save_pretrained(folder)
    shutil.rmtree(folder / "transformer")
    published.transformer.save_pretrained(folder / "transformer", max_shard_size="100KB")
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_a_saved_pipeline_comes_back(saved: Path) -> None:
    assert len(list((saved / "transformer").glob("*.safetensors"))) > 1
    seen: list[tuple[int, int]] = []
    loaded = load_wan(small(), path=saved, progress=lambda done, of: seen.append((done, of)))
    before = made(seed=4)
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    one, other = (pipe.generate(image, "a red circle", seed=1, steps=2).video for pipe in (loaded, before))
    assert (one - other).abs().max() <= 1e-5
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_bf16_goes_straight_to_its_precision(saved: Path) -> None:
    pipe = load_wan(small(), path=saved, dtype=torch.bfloat16)
    assert pipe.dit.blocks[0].ffn[0].weight.dtype == torch.bfloat16 and pipe.dit.head.head.weight.dtype == torch.float32
    assert next(pipe.vae.parameters()).dtype == torch.float32
    assert torch.isfinite(pipe.generate(torch.rand(3, 32, 32), "a dog", steps=2).video).all()


def test_a_missing_shard_is_named(copy: Path) -> None:
    lost = sorted((copy / "transformer").glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(WeightsError, match=lost.name):
        load_wan(small(), path=copy)


def test_a_partial_folder_says_what_it_lacks(copy: Path) -> None:
    shutil.rmtree(copy / "vae")
    with pytest.raises(WeightsError, match="lacks vae/"):
        load_wan(small(), path=copy)
    with pytest.raises(WeightsError, match="is no folder"):
        load_wan(small(), path=copy / "nowhere")


def test_another_model_is_told_by_its_sizes_before_its_weights_are_read(copy: Path) -> None:
    with pytest.raises(WeightsError, match="inputs 36 instead of 16"):
        load_wan(small("t2v"), path=copy)
    config = json.loads((copy / "transformer" / "config.json").read_text())
    (copy / "transformer" / "config.json").write_text(json.dumps(config | {"ffn_dim": 128}))
    with pytest.raises(WeightsError, match="hidden 128 instead of 64"):
        load_wan(small(), path=copy)
    (copy / "transformer" / "config.json").unlink()
    with pytest.raises(WeightsError, match="shapes differ"):
        from dataclasses import replace

        from wanlab.pipelines.wan_load import read_dit

        read_dit(copy / "transformer", replace(small().dit, hidden=128))


def test_a_damaged_shard_is_named(copy: Path) -> None:
    shard = sorted((copy / "transformer").glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(WeightsError, match=shard.name):
        load_wan(small(), path=copy)


def test_the_face_loads_it_and_sites_need_no_weights() -> None:
    pipe = wanlab.load("wan-random-tiny-t2v", frames=5)
    assert pipe.generate(None, "a dog", steps=1).video.shape == (1, 5, 3, 32, 32)
    small, sizes = wanlab.load("wan-random-tiny"), wanlab.load("wan-random-tiny", init="meta")
    assert sizes.sites() == small.sites() and wanlab.load("tiny", init="meta").sites() == wanlab.load("tiny").sites()
    with pytest.raises(TypeError, match="tiny takes no frames"):
        wanlab.load("tiny", frames=5)
