"""The whole recipe in one go, in small: every part trains beside the others, and what comes out loads and samples."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import wanlab
from wanlab import training
from wanlab.stages.pooled import FilmFusion
from wanlab.training import adversarial
from wanlab.training.shipping import ship

SMALL = {
    "kind": "cascade",
    "preset": "tiny",
    "base": {
        "clips": 4, "held": 4, "steps": 1, "grounding_steps": 1, "batch": 2, "grounding_batch": 2,
        "ships": {"text": "t5", "image": "dit", "fusion": "cross_attention", "generator": "unet", "align": "flow_warp"},
    },
    "variants": {
        "no_align": {
            "clips": 4, "held": 4, "steps": 1, "batch": 2, "align": "none", "train": ["generator"],
            "ships": {"generator": "no_align"},
        },
    },
    "upsample": {
        name: {"clips": 2, "held": 1, "steps": [1, 1], "batch": [1, 1], "crop": [8, 8]}
        for name in ("residual", "no_residual")
    },
    "detail": {
        name: {"clips": 2, "held": 1, "content_steps": 1, "gan_steps": 1, "batch": 1, "crop": 16}
        for name in ("gan", "no_gan")
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cascade")
    training.run(SMALL, out)
    return out


def test_every_variant_is_trained_and_loads(folder: Path) -> None:
    pipe = wanlab.load(str(folder / "pipeline"))
    for stage, variant in (("generator", "no_align"), ("upsample", "no_residual"), ("detail", "no_gan"), ("align", "none")):
        pipe = pipe.swap(stage, variant)
    out = pipe.generate(torch.rand(3, 128, 128), "a red circle moves left", seed=0, steps=1)
    assert out.video.shape == (1, 8, 3, 128, 128) and out.video.isfinite().all()


def test_what_is_finished_is_kept(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.pt")}
    training.run(SMALL, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*.pt")} == before


def test_a_file_of_variants_alone_starts_from_the_shipped_weights_and_hands_over_a_whole_pipeline(tmp_path: Path) -> None:
    film = {"clips": 4, "held": 4, "steps": 1, "batch": 2, "distil_steps": 1, "distil_batch": 2, "fusion": "film",
            "train": ["fusion", "classify"], "ships": {"fusion": "film"}}  # fmt: skip
    training.run({"kind": "cascade", "preset": "tiny", "variants": {"film": film}}, tmp_path)
    pipe, shipped = wanlab.load(str(tmp_path / "pipeline")), wanlab.load("tiny")
    assert pipe.weights_hash == shipped.weights_hash
    swapped = pipe.swap("fusion", "film")
    assert swapped.hash_of("fusion") != shipped.hash_of("fusion") and swapped.hash_of("generator") == shipped.hash_of("generator")
    assert isinstance(swapped.fusion, FilmFusion)


def test_one_part_alone_starts_from_the_shipped_weights_and_loads_among_them(tmp_path: Path) -> None:
    training.run({**SMALL, "only": "detail.no_gan"}, tmp_path)
    assert {path.parent.name for path in tmp_path.glob("*/*.pt")} == {"detail"}
    pipe = wanlab.load(tmp_path / "pipeline").swap("detail", "no_gan")
    shipped = wanlab.load("tiny")
    assert all(torch.equal(a, b) for a, b in zip(pipe.upsample.parameters(), shipped.upsample.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"only: no part of this file makes 'detail.nogan'; nearest: detail.no_gan"):
        training.run({**SMALL, "only": ["detail.nogan"]}, tmp_path)
    with pytest.raises(ValueError, match="no preset 'tinny'; nearest: tiny"):
        training.run({**SMALL, "preset": "tinny"}, tmp_path)


def test_half_a_file_in_the_pipeline_is_made_whole_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, pipeline = {**SMALL, "only": "detail.no_gan"}, tmp_path / "pipeline"
    training.run(given, tmp_path)
    whole = {path: path.read_bytes() for path in pipeline.glob("*.safetensors")}
    trained, shipped = (pipeline / f"{name}.safetensors" for name in ("detail.no_gan", "generator.unet"))
    for path in (trained, shipped):
        path.write_bytes(whole[path][:1000])
    training.run(given, tmp_path)
    assert {path: path.read_bytes() for path in whole} == whole

    def killed(source: Path, goal: Path) -> None:
        goal.write_bytes(source.read_bytes()[:1000])
        raise KeyboardInterrupt

    for path in (trained, shipped):
        path.unlink()
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(shutil, "copyfile", killed)
            training.run(given, tmp_path)
        assert not path.exists()
        training.run(given, tmp_path)
        assert path.read_bytes() == whole[path]
    trained.unlink()
    (tmp_path / "detail" / trained.name).write_bytes(whole[trained][:1000])
    with pytest.raises(ValueError, match=r"detail/detail\.no_gan\.safetensors is damaged .*remove it and the provenance"):
        training.run(given, tmp_path)


def test_the_discriminator_is_a_part_too_and_is_there_whenever_the_detail_stage_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {**SMALL, "only": "discriminator.gan"}
    shipped: list[str] = []

    def killed(module: Any, stage: str, *args: Any, **facts: Any) -> None:
        if shipped:
            raise KeyboardInterrupt
        shipped.append(stage)
        ship(module, stage, *args, **facts)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(adversarial, "ship", killed)
        training.run(given, tmp_path)
    training.run(given, tmp_path)
    assert shipped == ["discriminator"]
    assert all((tmp_path / "pipeline" / f"{name}.gan.safetensors").exists() for name in ("detail", "discriminator"))
    (tmp_path / "detail" / "provenance-discriminator.gan.json").unlink()            # as older trainings could be left
    training.run(given, tmp_path)
    assert (tmp_path / "detail" / "provenance-discriminator.gan.json").exists()


def test_variants_of_an_untrained_preset_are_not_trained_from_noise(tmp_path: Path) -> None:
    few = SMALL["variants"]["no_align"]  # type: ignore[index]
    with pytest.raises(ValueError, match=r"was to start from .*small, which has no weights: train its base first"):
        training.run({"kind": "cascade", "preset": "small", "variants": {"no_align": {**few, "clips": 1, "held": 1}}}, tmp_path)
