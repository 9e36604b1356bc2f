"""Published parts of the article's system, read from folders of transformers and diffusers; what is said of wrong ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from transformers import T5EncoderModel

import wanlab
from tests.pipelines.parts import changed, write
from tests.stages.test_image_dit import theirs
from wanlab.pipelines.weights import WeightsError


def article(**published: Any) -> Any:
    return wanlab.load("article-random-tiny", init="random", published=published)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("published"))


@pytest.fixture
def copy(folders: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders, tmp_path / "copy"))


def test_t5_through_its_adapter_is_t5(folders: Path) -> None:
    stage = article(text=folders / "t5").text
    model = T5EncoderModel.from_pretrained(folders / "t5").eval()
    ids = stage.ids(["a red circle moves left", "a dog"])
    with torch.no_grad():
        expected = model(ids, attention_mask=(ids != 0).long()).last_hidden_state
        with wanlab.trace(stage, capture=["encoder.norm", "projected", "out"]) as t:
            out = stage(ids)
    hidden, shown = t.record["encoder.norm"].tensor, ids != 0
    assert (hidden - expected)[shown].abs().max() <= 1e-6
    assert torch.allclose(out.tokens[shown], stage.project(expected)[shown], atol=1e-6) and not out.tokens[~shown].any()


def test_a_row_without_text_is_the_null_condition(folders: Path) -> None:
    stage = article().text
    ids = stage.ids(["a red circle", "a dog"])
    ids[1] = 0
    with torch.no_grad():
        out, null = stage(ids), stage.null_text(1, stage.length)
    assert torch.equal(out.tokens[1:], null.tokens) and torch.equal(out.mask[1:], null.mask)
    assert not torch.equal(out.tokens[:1], null.tokens)


def test_dit_and_autoencoder_are_read_and_a_swap_keeps_them(folders: Path) -> None:
    pipe = article(image=folders / "dit")
    model, vae = theirs(pipe.image.config.sizes), AutoencoderKL.from_pretrained(folders / "dit" / "vae").eval()
    picture = 2 * torch.rand(2, 3, 32, 32) - 1
    for stage in (pipe.image, pipe.swap("image", "attention_pooling", init="random").image):
        with torch.no_grad(), wanlab.trace(stage, capture=["latent", "noise", "dit.out"]) as t:
            stage._encode(picture)
            latent = vae.encode(picture).latent_dist.mode() * vae.config.scaling_factor
            noisy = stage.kept * latent + t.record["noise"].tensor
            expected = model(noisy, torch.tensor([50, 50]), torch.tensor([1000, 1000])).sample
        assert torch.allclose(t.record["latent"].tensor, latent, atol=1e-5)
        assert (t.record["dit.out"].tensor - expected).abs().max() <= 1e-5
    assert not torch.equal(article().image.dit.head.weight, pipe.image.dit.head.weight)


def test_random_weights_around_published_ones_must_be_said_aloud(folders: Path) -> None:
    with pytest.raises(WeightsError, match="say init='random'"):
        wanlab.load("article-random-tiny", published={"text": folders / "t5"})
    with pytest.raises(LookupError, match="nothing is published for the stage fusion"):
        article(fusion=folders)
    with pytest.raises(LookupError, match=r"no stage 'txt'.*text"):
        article(txt=folders)


@pytest.mark.parametrize(("settings", "said"), [
    ({"d_model": 64}, "width 64 instead of 32"), ({"num_layers": 12}, "depth 12 instead of 1"),
    ({"feed_forward_proj": "gated-gelu"}, "feed_forward gated-gelu instead of relu")])
def test_a_t5_of_another_size_is_told_before_it_is_read(copy: Path, settings: dict, said: str) -> None:
    changed(copy / "t5" / "config.json", **settings)
    (copy / "t5" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=said):
        article(text=copy / "t5")


def test_damaged_and_partial_folders_are_named(copy: Path) -> None:
    weights = copy / "t5" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(WeightsError, match=r"t5 is damaged"):
        article(text=copy / "t5")
    shutil.rmtree(copy / "dit" / "vae")
    with pytest.raises(WeightsError, match="lacks vae/"):
        article(image=copy / "dit")
    (copy / "t5" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        article(text=copy / "t5")


def test_a_dit_of_another_model_is_named(copy: Path) -> None:
    config, file = copy / "dit" / "transformer" / "config.json", copy / "dit" / "transformer" / "diffusion_pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    torch.save({name: value for name, value in state.items() if "proj_out_1" not in name}, file)
    with pytest.raises(WeightsError, match="holds the weights of another model"):
        article(image=copy / "dit")
    file.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"diffusion_pytorch_model\.bin is damaged or holds more than tensors"):
        article(image=copy / "dit")
    changed(config, num_layers=28)
    with pytest.raises(WeightsError, match="depth 28 instead of 2"):
        article(image=copy / "dit")


def test_an_autoencoder_of_another_size_is_named(copy: Path) -> None:
    changed(copy / "dit" / "vae" / "config.json", latent_channels=16)
    with pytest.raises(WeightsError, match="latent 16 instead of 4"):
        article(image=copy / "dit")
    changed(copy / "dit" / "vae" / "config.json", latent_channels=4, scaling_factor=0.13025)
    with pytest.raises(WeightsError, match="scaling_factor"):
        article(image=copy / "dit")
