"""Loading Wan from folders in diffusers' layout and in the published one, from single files, and from the hub's cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

import wanlab
from tests.pipelines import published
from tests.pipelines.test_wan import theirs
from tests.pipelines.wan import made, small
from wanlab.pipelines.wan21 import Wan
from wanlab.pipelines.wan_load import load_wan, read_dit
from wanlab.pipelines.wan_presets import PRESETS, Preset
from wanlab.pipelines.weights import WeightsError


@pytest.fixture(scope="module")
def pipe() -> Wan:
    return made(seed=4)


@pytest.fixture(scope="module")
def saved(pipe: Wan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image-to-video model as diffusers saves it, its transformer in shards."""
    folder = tmp_path_factory.mktemp("wan") / "saved"
    their = theirs(pipe)
    their.save_pretrained(folder)
    shutil.rmtree(folder / "transformer")
    their.transformer.save_pretrained(folder / "transformer", max_shard_size="100KB")
    return folder


@pytest.fixture(scope="module")
def official(pipe: Wan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as it would be published."""
    return published.write(pipe, tmp_path_factory.mktemp("wan") / "official")


def same(one: Wan, other: Wan) -> bool:
    """Whether two pipelines hold the same bytes, in the same precision, under the same names."""
    return alike(one.state_dict(), other.state_dict())


def alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """The same of two state dicts."""
    return one.keys() == other.keys() and all(one[name].dtype == other[name].dtype and one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("kind", ["t2v", "flf2v", "a14b", "a14b-t2v", "5b"])
def test_every_kind_of_model_comes_back_from_either_layout(kind: str, tmp_path: Path) -> None:
    pipe = made(kind, seed=4)
    theirs(pipe).save_pretrained(tmp_path / "saved")
    published.write(pipe, tmp_path / "official")
    for layout in ("saved", "official"):
        assert same(load_wan(small(kind), path=tmp_path / layout), pipe)


@pytest.mark.parametrize("layout", ["saved", "official"])
def test_a_pipeline_comes_back_from_either_layout(layout: str, pipe: Wan, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(layout)
    assert len(list((folder / "transformer").glob("*.safetensors"))) > 1 or layout == "official"
    seen: list[tuple[int, int]] = []
    loaded = load_wan(small(), path=folder, progress=lambda done, of: seen.append((done, of)))
    assert same(loaded, pipe)
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    one, other = (made.generate(image, "a red circle", seed=1, steps=2).video for made in (loaded, pipe))
    assert torch.equal(one, other)
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] == sum(value.numel() for value in pipe.parameters())


def test_weights_are_read_for_their_hash_when_somebody_asks_and_once(official: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    plain = Wan.hash_of
    monkeypatch.setattr(Wan, "hash_of", lambda self, *stages: asked.append(stages) or plain(self, *stages))
    loaded = load_wan(small(), path=official)
    loaded.generate(torch.rand(3, 32, 32), "a dog", steps=1)
    assert not asked
    hashes = [node.weights_hash for node in loaded.nodes]
    assert [node.weights_hash for node in loaded.nodes] == hashes and len(asked) == len(set(asked)) == len(loaded.nodes) == 5
    assert hashes == [plain(loaded, *node.stages) for node in loaded.nodes]


def test_the_encoders_are_what_their_own_libraries_read(saved: Path) -> None:
    loaded = load_wan(small(), path=saved, dtype=torch.bfloat16)
    text = UMT5EncoderModel.from_pretrained(saved / "text_encoder", dtype=torch.bfloat16, local_files_only=True)
    clip = CLIPVisionModel.from_pretrained(saved / "image_encoder", local_files_only=True)
    vae = AutoencoderKLWan.from_pretrained(saved / "vae", local_files_only=True)
    for ours, read in ((loaded.text.encoder.inner, text), (loaded.clip.tower.inner, clip), (loaded.vae.encoder.net.inner, vae)):
        assert alike(ours.state_dict(), read.state_dict())
        assert {name: value.tolist() for name, value in ours.named_buffers()} == {n: v.tolist() for n, v in read.named_buffers()}
    assert not any(value.requires_grad for value in loaded.parameters())


def test_bf16_goes_straight_to_its_precision(official: Path) -> None:
    loaded = load_wan(small(), path=official, dtype=torch.bfloat16)
    assert loaded.dit.blocks[0].ffn[0].weight.dtype == torch.bfloat16 and loaded.dit.head.head.weight.dtype == torch.float32
    assert loaded.text.encoder.inner.shared.weight.dtype == torch.bfloat16
    assert next(loaded.vae.parameters()).dtype == next(loaded.clip.parameters()).dtype == torch.float32
    assert torch.isfinite(loaded.generate(torch.rand(3, 32, 32), "a dog", steps=2).video).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_random_weights_have_the_precision_asked_for(official: Path, dtype: torch.dtype) -> None:
    drawn, read = load_wan(small(), init="random", dtype=dtype), load_wan(small(), path=official, dtype=dtype)
    assert {name: value.dtype for name, value in drawn.named_parameters()} == {n: v.dtype for n, v in read.named_parameters()}
    assert drawn.dit.blocks[0].ffn[0].weight.dtype == dtype
    assert torch.isfinite(drawn.generate(torch.rand(3, 32, 32), "a dog", steps=1).video).all()


def test_a_transformer_in_one_file_stands_in_for_the_folders_own(saved: Path, official: Path, tmp_path: Path) -> None:
    other = made(seed=5)
    for prefix, name in (("", "plain.safetensors"), ("model.diffusion_model.", "behind.safetensors")):
        save_file({prefix + key: value for key, value in other.dit.state_dict().items()}, tmp_path / name)
        loaded = load_wan(small(), path=saved, parts={"dit": tmp_path / name})
        assert loaded.dit.head.head.weight.equal(other.dit.head.head.weight)
    torch.save(dict(other.dit.state_dict()), tmp_path / "torch.pth")
    everything = {"dit": tmp_path / "torch.pth", "text": official / published.TEXT, "tokenizer": saved / "tokenizer",
                  "vae": saved / "vae", "clip": official / published.CLIP}
    loaded = load_wan(small(), parts=everything)
    assert loaded.dit.head.head.weight.equal(other.dit.head.head.weight) and same(Wan(
        {"dit": loaded.dit, **{name: other.get_submodule(name) for name in ("text", "vae", "clip")}}, loaded.config), other)


def test_older_files_of_clip_and_of_the_transformer_are_read(saved: Path, pipe: Wan, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    clip = load_file(copy / "image_encoder" / "model.safetensors")
    save_file({f"vision_model.{name}": value for name, value in clip.items()} | {"visual_projection.weight": torch.zeros(8, 16)},
              copy / "image_encoder" / "model.safetensors")
    shard = sorted((copy / "transformer").glob("*.safetensors"))[0]
    save_file(load_file(shard) | {"blocks.0.attn2.norm_added_q.weight": torch.zeros(32)}, shard)
    assert same(load_wan(small(), path=copy), pipe)


def test_on_a_cpu_what_keeps_its_precision_is_read_when_it_is_used(official: Path) -> None:
    """The parameters of a folder are views of its files, and no file is written through them."""
    loaded = load_wan(small(), path=official)
    with torch.no_grad():
        loaded.dit.blocks[0].ffn[0].weight.zero_()
    assert load_file(official / "diffusion_pytorch_model.safetensors")["blocks.0.ffn.0.weight"].abs().sum() > 0


def cache(folder: Path, home: Path, repository: str) -> Path:
    """A folder as the hub's cache has it: files by their sha256, linked to by name."""
    from wanlab.pipelines.digests import sha256

    root = home / f"models--{repository.replace('/', '--')}"
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    for file in (file for file in folder.rglob("*") if file.is_file()):
        blob, link = root / "blobs" / sha256(file), root / "snapshots" / "abc" / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            shutil.copy(file, blob)
        link.symlink_to(blob)
    return root / "snapshots" / "abc"


def test_a_repository_is_found_in_the_hubs_cache_and_checked(official: Path, pipe: Wan, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    from dataclasses import replace

    preset = replace(small(), hub="wan/small-Diffusers", random=False)
    with pytest.raises(WeightsError, match="hf download wan/small-Diffusers"):
        load_wan(preset)
    with pytest.raises(WeightsError, match="hf download other/repository"):
        load_wan(preset, path="other/repository")
    snapshot = cache(official, tmp_path, "wan/small")           # the published repository, where diffusers' is not
    assert same(load_wan(preset, verify=True), pipe) and same(load_wan(preset, path="wan/small"), pipe)
    blob = (snapshot / published.VAE).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(WeightsError, match=rf"{published.VAE} is damaged or was replaced: its sha256 is"):
        load_wan(preset, verify=True)
    (snapshot / published.TEXT).unlink()
    with pytest.raises(WeightsError, match=r"lacks models_t5_\*\.pth; get it: hf download wan/small$"):
        load_wan(preset)


def meta_shapes(preset: Preset) -> dict[str, dict[str, tuple[int, ...]]]:
    """The tensors of a published model by part, as diffusers and transformers have them."""
    size = preset.dit
    with torch.device("meta"):
        modules: dict[str, Any] = {
            "transformer": WanTransformer3DModel(
                num_attention_heads=size.heads, attention_head_dim=size.head_width, in_channels=size.inputs,
                out_channels=size.outputs, ffn_dim=size.hidden, num_layers=size.depth, image_dim=size.image_width,
                added_kv_proj_dim=size.width if size.image_width else None, pos_embed_seq_len=size.image_places),
            "text_encoder": UMT5EncoderModel(UMT5Config(**preset.text, feed_forward_proj="gated-gelu")),
            "vae": AutoencoderKLWan(**preset.vae),
        }
        modules |= {} if preset.boundary is None else {"transformer_2": modules["transformer"]}
        if preset.clip:
            modules["image_encoder"] = CLIPVisionModel(CLIPVisionConfig(**preset.clip))
    return {part: {name: tuple(value.shape) for name, value in module.state_dict().items() if name != "encoder.embed_tokens.weight"}
            for part, module in modules.items()}


@pytest.mark.parametrize("name", ["wan2.1-t2v-1.3b", *(pytest.param(name, marks=pytest.mark.slow) for name in (
    "wan2.1-i2v-14b-480p", "wan2.1-flf2v-14b-720p", "wan2.2-i2v-a14b", "wan2.2-ti2v-5b"))])
def test_a_published_model_of_true_size_is_taken_in_without_reading_it(name: str, pipe: Wan, tmp_path: Path) -> None:
    """Files of the true names and shapes whose values are holes: strict both ways, and lazy enough for any machine."""
    preset = PRESETS[name]
    for part, shapes in meta_shapes(preset).items():
        published.hole_shards(tmp_path / part, shapes, "F32" if part in ("vae", "image_encoder") else "BF16")
    pipe.text.tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = load_wan(name, path=tmp_path, dtype=torch.bfloat16)
    assert loaded.dit.config == preset.dit and not any(value.is_meta for value in (*loaded.parameters(), *loaded.buffers()))
    assert next(loaded.dit.parameters()).count_nonzero() == 0


def test_the_face_loads_it_and_sites_need_no_weights() -> None:
    pipe = wanlab.load("wan-random-tiny-t2v", frames=5)
    assert pipe.generate(None, "a dog", steps=1).video.shape == (1, 5, 3, 32, 32)
    small, sizes = wanlab.load("wan-random-tiny"), wanlab.load("wan-random-tiny", init="meta")
    assert sizes.sites() == small.sites() and wanlab.load("tiny", init="meta").sites() == wanlab.load("tiny").sites()
    with pytest.raises(TypeError, match="tiny takes no frames"):
        wanlab.load("tiny", frames=5)


def test_a_transformer_alone_is_read(official: Path, pipe: Wan) -> None:
    dit = read_dit(official, small().dit)
    assert all(dit.state_dict()[name].equal(value) for name, value in pipe.dit.state_dict().items())
    assert json.loads((official / "config.json").read_text())["model_type"] == "i2v"
