"""Training of the base of the article's system, at the small sizes of `article-random-tiny`: around what others published, which
stays as it is, and from noise where that is said."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file

import wanlab
from tests.pipelines.parts import write
from tests.training.test_base import broken_off
from wanlab import training
from wanlab.core import trace
from wanlab.data.procedural import World
from wanlab.data.video import write_video
from wanlab.pipelines.denoise import predict
from wanlab.pipelines.load import adopt
from wanlab.pipelines.published import DIT, REVISIONS, T5
from wanlab.pipelines.weights import WeightsError
from wanlab.stages.prompt import CutWarning
from wanlab.training import checkpoint, machine
from wanlab.training.ablation import retraining
from wanlab.training.bank import Bank, bank
from wanlab.training.base import take_over, train_base
from wanlab.training.cascade import planned
from wanlab.training.diffusion import Base, Recipe, draw, losses
from wanlab.training.settings import stated

SHIPS = {"text": "t5_base", "image": "dit_xl", "fusion": "cross_attention", "generator": "unet", "align": "flow_warp"}
FEW = {"steps": 3, "batch": 4, "clips": 4, "held": 4, "warmup": 1, "validate_every": 2}
SMALL: dict[str, Any] = {**FEW, "grounding_steps": 2, "grounding_batch": 4, "drop_text": 0.4, "drop_image": 0.4, "ships": SHIPS}
PARTS = ("text.encoder.", "image.vae.", "image.dit.")
REST = {
    "upsample": {"residual": {"clips": 2, "held": 1, "steps": [1, 1], "batch": [1, 1], "crop": [8, 8]}},
    "detail": {"gan": {"clips": 2, "held": 1, "content_steps": 1, "gan_steps": 1, "batch": 1, "crop": 16, "lam": 0.1}},
}


def file(folders: Path, **more: Any) -> dict[str, Any]:
    """A training file around the small parts of `folders`."""
    published = {"text": str(folders / "t5"), "image": str(folders / "dit")}
    return {"kind": "cascade", "preset": "article-random-tiny", "published": published, "base": SMALL, **more}


def recipe(folders: Path) -> Recipe:
    return Recipe(preset="article-random-tiny", published=file(folders)["published"], **SMALL)


def clips(base: Base, n: int) -> Bank:
    """Clips with captions that the text stage takes in whole."""
    drawn = bank(World(32, 4), n, base.size, base.picture)
    return drawn._replace(captions=tuple(f"a {('red', 'blue')[i % 2]} circle moves left" for i in range(n))).read(base["text"].ids)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def out(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole cascade that was trained around them."""
    folder = tmp_path_factory.mktemp("article")
    training.run(file(folders, **REST), folder)
    return folder


def test_what_others_published_stays_as_it_is_and_all_around_it_learns(folders: Path, tmp_path: Path) -> None:
    asked = recipe(folders)
    torch.manual_seed(asked.seed)
    before, after = Base(asked), train_base(asked, tmp_path)
    kept, was = dict(after.named_parameters()), dict(before.named_parameters())
    published = wanlab.load("article-random-tiny", init="random", published=asked.published)
    for name, value in published.named_parameters():
        if name.startswith(PARTS):
            assert torch.equal(kept[name], value) and not was[name].requires_grad, name
    learned = [name for name, value in kept.items() if not torch.equal(value, was[name])]
    assert {"text.null", "text.project.weight", "image.project.weight", "image.norm.weight", "image.null_tokens",
            "image.null_frame", "fusion.slots", "classify.weight"} <= set(learned)  # fmt: skip
    assert not [name for name in learned if name.startswith(PARTS)]
    names = set(after.state_dict())
    assert not [name for name in names if name.startswith(PARTS)] and {"image.grain", "text.null"} <= names


def test_neither_checkpoints_nor_weights_hold_it_again_and_a_pipeline_finds_it(folders: Path, out: Path) -> None:
    for phase in ("grounding", "diffusion"):
        state = checkpoint.load(out / "base" / f"{phase}.pt")
        assert not [name for held in ("model", "average") for name in state[held] if name.startswith(PARTS)]
    told = json.loads((out / "pipeline" / "pipeline.json").read_text())
    for stage, part in (("text", "encoder."), ("image", "dit.")):
        entry = told["stages"][stage]["variants"][SHIPS[stage]]
        assert not [name for name in load_file(out / "pipeline" / entry["file"]) if name.startswith((part, "vae."))]
        assert entry["published"]["source"] == file(folders)["published"][stage]
        assert entry["provenance"]["recipe"]["published"] == {"text": "t5", "image": "dit"}      # no paths of this machine
    assert "note" not in told
    pipe = wanlab.load(out / "pipeline")
    around = wanlab.load("article-random-tiny", init="random", published=file(folders)["published"])
    for stage, part in (("text", "encoder"), ("image", "dit"), ("image", "vae")):
        mine, theirs = (getattr(one.get_submodule(stage), part).state_dict() for one in (pipe, around))
        assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    video = pipe.generate(torch.rand(3, 64, 64), "a red circle moves left", seed=0).video
    assert video.shape == (1, 4, 3, 64, 64) and video.isfinite().all()


def test_other_parts_than_those_that_it_was_trained_around_are_refused(folders: Path, out: Path, tmp_path: Path) -> None:
    moved, other = Path(shutil.copytree(folders, tmp_path / "moved")), Path(shutil.copytree(folders, tmp_path / "other"))
    (other / "t5" / "tokenizer_config.json").write_text("{}")
    pipeline = Path(shutil.copytree(out / "pipeline", tmp_path / "pipeline"))
    told = (pipeline / "pipeline.json").read_text().replace(str(folders), "/nowhere")
    (pipeline / "pipeline.json").write_text(told)
    with pytest.raises(WeightsError, match=r"around /nowhere/t5, which is not here .*give published=\{'text': \.\.\.\}"):
        wanlab.load(pipeline)
    there = wanlab.load(pipeline, published={"text": moved / "t5", "image": moved / "dit"})
    assert there.weights_hash == wanlab.load(out / "pipeline").weights_hash
    with pytest.raises(WeightsError, match=r"other/t5 is not what .* text was trained around \(/nowhere/t5\): its files differ"):
        wanlab.load(pipeline, published={"text": other / "t5", "image": moved / "dit"})
    (pipeline / "pipeline.json").write_text(told.replace('"source": "/nowhere/t5"', '"source": 5'))
    with pytest.raises(WeightsError, match=r"variants\.t5_base: published is a source and a key"):
        wanlab.load(pipeline)


@pytest.mark.parametrize(("source", "local"), [("someone/t5@0123abc", True), (f"{T5}@{REVISIONS[T5]}", False)])
def test_of_what_a_pipeline_names_only_known_revisions_are_downloaded(
    out: Path, source: str, local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def snapshot(name: str, **settings: Any) -> str:
        asked.append((f"{name}@{settings['revision']}", settings["local_files_only"]))
        raise LocalEntryNotFoundError("none")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    (folder := Path(shutil.copytree(out / "pipeline", tmp_path / "pipeline")) / "pipeline.json").write_text(
        re.sub(r'"source": "[^"]*/t5"', f'"source": "{source}"', (out / "pipeline" / "pipeline.json").read_text())
    )
    with pytest.raises(WeightsError, match="which is not here"):
        wanlab.load(folder.parent)
    assert asked == [(source, local)]


@pytest.mark.parametrize("until", [1, 2, 4])
def test_a_broken_training_ends_as_a_whole_one(
    folders: Path, out: Path, until: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the grounding, at its end, in the diffusion. Bit for bit, on one CPU."""
    with broken_off(until, monkeypatch):
        train_base(recipe(folders), tmp_path)
    torch.manual_seed(123)
    train_base(recipe(folders), tmp_path)
    for stage, variant in SHIPS.items():
        name = f"{stage}.{variant}.safetensors"
        assert (tmp_path / name).read_bytes() == (out / "base" / name).read_bytes()


def test_a_training_is_not_continued_around_other_parts(folders: Path, tmp_path: Path) -> None:
    asked = replace(recipe(folders), steps=1, grounding_steps=1)
    train_base(asked, tmp_path)
    moved = Path(shutil.copytree(folders, tmp_path / "moved"))
    elsewhere = replace(asked, published={"text": str(moved / "t5"), "image": str(moved / "dit")})
    assert stated(elsewhere) == stated(asked)
    (moved / "t5" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"another recipe: published\.text \(t5\) held something else"):
        train_base(elsewhere, tmp_path)
    with pytest.raises(ValueError, match="another recipe: init was None"):
        train_base(replace(asked, published={}, init="random"), tmp_path)


def test_what_is_said_to_be_random_learns_and_is_handed_over(tmp_path: Path) -> None:
    config = {"kind": "cascade", "preset": "article-random-tiny", "init": "random", "base": SMALL}
    training.run(config, tmp_path)
    held = load_file(tmp_path / "pipeline" / "text.t5_base.safetensors")
    assert not torch.equal(held["encoder.inner.shared.weight"], held["encoder.inner.shared.weight"].mean())
    pipe = wanlab.load(tmp_path / "pipeline", init="random")                       # super-resolution was not asked for
    assert torch.equal(pipe.text.encoder.inner.shared.weight, held["encoder.inner.shared.weight"].float())
    fresh = wanlab.load("article-random-tiny", init="random")
    block = "encoder.block.0.layer.0.SelfAttention.q.weight"
    assert not torch.equal(pipe.text.encoder.inner.get_parameter(block), fresh.text.encoder.inner.get_parameter(block))
    assert pipe.config["note"].startswith("untrained")


def test_text_and_image_that_are_dropped_are_the_trained_null_conditions(folders: Path) -> None:
    base = Base(recipe(folders))
    data = clips(base, 4)
    assert (data.ids[:, 0] != 0).all()
    batch = draw(data, 4, replace(recipe(folders), drop_text=1.0, drop_image=1.0), torch.Generator().manual_seed(0))
    text, still = base["text"](batch.ids), base["image"](batch.first, batch.present)
    assert all(torch.equal(a, b) for a, b in zip(text, base["text"].null_text(4, 12), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(still, base["image"].null_image(4), strict=True))
    (text.tokens.sum() + still.tokens.sum() + still.frame.sum()).backward()
    assert all(base[stage].get_parameter(name).grad.abs().sum() > 0
               for stage, name in (("text", "null"), ("image", "null_tokens"), ("image", "null_frame")))  # fmt: skip
    assert not any(base[stage].project.weight.grad.any() for stage in ("text", "image"))


def test_a_caption_that_says_nothing_is_no_text(folders: Path) -> None:
    """Its tokens would be an end and padding, which the text stage takes for a text."""
    for text in (Base(recipe(folders))["text"], wanlab.load("tiny").text):
        data = bank(World(32, 4), 3, 16)._replace(captions=("", "a red circle", "  ")).read(text.ids)
        assert (data.ids != 0).any(1).tolist() == [False, True, False]
        out = text(data.ids)
        assert torch.equal(out.tokens[[0, 2]], text.null_text(2, text.length).tokens)


def test_the_image_stage_learns_from_the_picture_that_it_will_be_given(folders: Path) -> None:
    """At its own size, as a pipeline makes it of the large first frame; the small frame is that picture's average."""
    data = bank(World(32, 4), 2, 16, 32)
    assert torch.equal(data.first, (World(32, 1).batch(range(2)).video[:, 0] * 255).round().byte())
    base, pipe = Base(recipe(folders)), wanlab.load("article-random-tiny", init="random", published=file(folders)["published"])
    pipe.image.load_state_dict(base["image"].state_dict())
    large = World(64, 1).batch(range(2)).video[:, 0]
    with torch.no_grad():
        learned, used = base["image"](data.first.float() / 255), pipe.image(large)
    assert (learned.tokens - used.tokens).abs().mean() < 0.05 * used.tokens.std()
    shown = 2 * data.video[:, 0].float() / 255 - 1
    assert (learned.frame - used.frame).abs().mean() < 0.01 and (learned.frame - shown).abs().mean() < 0.01


def test_in_half_precision_it_stays_finite(folders: Path, tmp_path: Path) -> None:
    with machine.on(machine.Machine(precision="bf16")):
        average = train_base(recipe(folders), tmp_path)
    assert all(value.isfinite().all() and value.dtype == torch.float32 for value in average.parameters())


def test_sites_within_the_published_parts_are_seen_while_it_trains(folders: Path) -> None:
    base = Base(recipe(folders))
    batch = draw(clips(base, 2), 2, recipe(folders), torch.Generator().manual_seed(0))
    with trace(base, capture=["text.encoder.norm", "image.dit.time", "generator.noisy"]) as t:
        terms, out, _ = losses(base, batch, recipe(folders), torch.Generator().manual_seed(1))
    assert t.record["text.encoder.norm"].tensor.shape == (2, 12, 32) and t.record["image.dit.time"].tensor.shape == (2, 32)
    assert out.condition.slots.shape == (2, 3, 32) and base["classify"].in_features == 32
    assert set(terms) >= {"video", "paint", "motion"}


VARIANTS: dict[str, dict[str, Any]] = {
    "mlp": {"image": "mlp_projection", "train": ["image", "classify"], "distil_steps": 2, "distil_batch": 2,
            "ships": {"image": "mlp_projection"}},
    "fourier": {"fusion": "fourier_time", "train": ["fusion", "classify"], "distil_steps": 2, "distil_batch": 2,
                "ships": {"fusion": "fourier_time"}},
    "no_temporal": {"temporal": False, "train": ["generator"], "ships": {"generator": "no_temporal"}},
}  # fmt: skip


@pytest.mark.slow
def test_variants_start_from_the_trained_base_and_a_pipeline_swaps_them_in(folders: Path, out: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(out, tmp_path / "out"))
    few = {**FEW, "steps": 1, "batch": 2, "clips": 2, "held": 2}
    training.run(file(folders, **REST, variants={name: {**few, **told} for name, told in VARIANTS.items()}), folder)
    pipe = wanlab.load(folder / "pipeline")
    assert pipe.weights_hash == wanlab.load(out / "pipeline").weights_hash
    for stage, variant in (("image", "mlp_projection"), ("fusion", "fourier_time"), ("generator", "no_temporal")):
        other = pipe.swap(stage, variant)
        assert other.generate(torch.rand(3, 64, 64), "a dog", seed=0, steps=1).video.isfinite().all()
    swapped = pipe.swap("image", "mlp_projection").image
    assert torch.equal(swapped.dit.head.weight, pipe.image.dit.head.weight) and isinstance(swapped.project, torch.nn.Sequential)


def test_a_study_trains_a_part_again_around_the_same(out: Path, folders: Path, tmp_path: Path) -> None:
    job = retraining(out / "pipeline", "text.t5_base", None, {"steps": 1, "grounding_steps": 1, "clips": 2, "batch": 2}, seed=3)
    assert job.recipe.published == file(folders)["published"]
    job.train(tmp_path)
    pipe = wanlab.load(out / "pipeline")
    variant, entry = job.weights(tmp_path)["text"]
    again = adopt(pipe, "text", variant, entry).text
    assert torch.equal(again.encoder.inner.shared.weight, pipe.text.encoder.inner.shared.weight)
    assert not torch.equal(again.project.weight, pipe.text.project.weight)


def test_real_videos_teach_it_the_picture(folders: Path, tmp_path: Path) -> None:
    home, notes = tmp_path / "videos", []
    for i in range(3):
        sample = World(size=40, frames=6, split="val")[i]
        write_video(home / f"v{i}.mp4", sample.video, fps=8)
        (home / f"v{i}.txt").write_text("a dog on a long way through the wide green fields" if i else "")

    class Listener(training.Watch):
        def note(self, text: str) -> None:
            notes.append(text)

    videos = {"path": str(home), "missing": "empty"}
    with training.watched_by(Listener()):
        average = train_base(replace(recipe(folders), videos=videos, steps=2), tmp_path / "out")
    assert all(torch.isfinite(p).all() for p in average.parameters()) and not (tmp_path / "out" / "grounding.pt").exists()
    keys = set().union(*map(json.loads, (tmp_path / "out" / "diffusion.jsonl").read_text().splitlines()))
    assert {"video", "paint", "high", "low_no_text"} <= keys and not {"motion", "masks", "slots"} & keys
    assert any("the text stage sees the beginning of" in note and "what it does not see: " in note for note in notes)


def test_the_parts_of_the_article_are_asked_for_by_name() -> None:
    named = {"text": T5, "image": DIT}
    config = {"kind": "cascade", "preset": "article", "published": named, "base": {"ships": SHIPS}}
    (part,) = planned(config, Path("never"))
    assert part.recipe.published == named and part.recipe.image == "latent_dit" and set(REVISIONS) == set(named.values())


def test_at_its_full_size_it_fits_together() -> None:
    """Without values: 77 tokens of 768, a first frame of 256 beside 16 frames of 64."""
    with torch.device("meta"):
        base = Base(Recipe(preset="article", init="random")).to("meta")
        assert (base.size, base.picture, base.frames) == (64, 256, 16)
        words, still = base["text"](torch.ones(2, 77, dtype=torch.long)), base["image"](torch.zeros(2, 3, 256, 256), torch.ones(2))
        assert words.tokens.shape == (2, 77, 768) and still.tokens.shape == (2, 256, 768) and still.frame.shape == (2, 3, 64, 64)
        out = predict(base, torch.zeros(2, 16, 3, 64, 64), torch.zeros(2, 16, 3, 5), words, still, torch.zeros(2))
        named = base["classify"](out.condition.slots)
    assert out.video.shape == (2, 16, 3, 64, 64) and named.shape == (2, 3, 20)


LONG = {**SMALL, "steps": 150, "batch": 8, "clips": 128, "held": 64, "warmup": 10, "grounding_steps": 60, "grounding_batch": 16,
        "validate_every": 75, "drop_text": 0.1, "drop_image": 0.1}  # fmt: skip


@pytest.mark.slow
def test_it_learns_end_to_end_and_a_control_that_takes_no_steps_does_not(folders: Path, tmp_path: Path) -> None:
    """Errors on held-out clips beside those of a training whose rate is 0, and beside those under another clip's image and text."""
    rows = {}
    for name, settings in (("learned", REST), ("still", {"base": {**LONG, "rate": 0.0}})):
        training.run(file(folders, **{"base": LONG, **settings}), tmp_path / name)
        log = (tmp_path / name / "base" / "diffusion.jsonl").read_text().splitlines()
        rows[name] = [row for row in map(json.loads, log) if "high" in row][-1]
    for figure in ("high", "low", "motion"):
        assert rows["learned"][figure] < 0.7 * rows["still"][figure], (figure, rows)

    asked = replace(recipe(folders), drop_text=0.0, drop_image=0.0)
    base = Base(asked)
    take_over(base, tmp_path / "learned" / "base" / "diffusion.pt")
    with pytest.warns(CutWarning):
        held = bank(World(32, 4, split="val"), 64, 16, 32).read(base["text"].ids)
    batch, error = draw(held, 64, asked, torch.Generator().manual_seed(1)), {}
    others = {"own": {}, "image": {"first": batch.first.roll(1, 0)}, "text": {"ids": batch.ids.roll(1, 0)}}
    for name, changes in others.items():
        with torch.no_grad():
            error[name], _, _ = losses(base, batch._replace(**changes), asked, torch.Generator().manual_seed(2))
    assert error["own"]["video"] < 0.5 * error["image"]["video"], error
    assert error["own"]["slots"] < 0.9 * error["text"]["slots"], error

    pipe, first = wanlab.load(tmp_path / "learned" / "pipeline"), World(64, 4, split="test").batch(range(4)).video[:, 0]
    made = pipe.generate(first, "a red circle moves left", seed=[0, 1, 2, 3], steps=4).video
    assert made.isfinite().all() and (made[:, 0] - first).square().mean() < 0.01
