"""What is trained is said of it in pipeline.json, by the variant's name, class and configuration; a name that says otherwise is
refused before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import wanlab
from wanlab import training
from wanlab.pipelines.weights import WeightsError
from wanlab.training import Watch, adversarial, content, presets, watched_by
from wanlab.training.cascade import planned
from wanlab.training.diffusion import Recipe
from wanlab.training.naming import entry_made
from wanlab.training.presets import preset_of
from wanlab.training.settings import differences, stated

FEW = {"clips": 4, "held": 4, "steps": 1, "batch": 2}
SHIPS = {"text": "t5", "image": "dit", "fusion": "cross_attention", "generator": "unet", "align": "flow_warp"}
BASE = {**FEW, "grounding_steps": 1, "grounding_batch": 2, "ships": SHIPS}
DETAIL = {"clips": 2, "held": 1, "content_steps": 1, "gan_steps": 1, "batch": 1, "crop": 16}
FILM = {**FEW, "train": ["fusion", "classify"], "fusion": "film", "ships": {"fusion": "film"}}


def config(**more: Any) -> dict[str, Any]:
    return {"kind": "cascade", "preset": "tiny", **more}


def variant(**more: Any) -> dict[str, Any]:
    return config(variants={"x": {**FEW, **more}})


REFUSED: list[tuple[dict[str, Any], str]] = [
    (variant(fusion="film", ships={"fusion": "gated"}),
     r"variants\.x: ships: gated of fusion is of class gated, and what this recipe makes is of class film: ship it as film"),
    (variant(align="none", ships={"align": "flow_warp"}), "of class flow_warp, and what .* of class none: ship it as none"),
    (variant(ships={"generator": "no_temporal"}), "no_temporal of generator has temporal: False, and what .* has temporal: True"),
    (variant(ships={"generator": "no_align"}), "no_align of generator is trained with align: none, and this .* flow_warp"),
    (config(preset="small", variants={"x": {**FEW, "align": "deformable", "ships": {"generator": "unet"}}}),
     "align: deformable is no variant of small, so that nothing that is trained beside it could be used; there are flow_warp"),
    (config(preset="article", init="random", variants={"x": {**FEW, "ships": {"fusion": "fourier_time"}}}),
     "fourier_time of fusion has time: 'fourier', and what this recipe makes has time: None"),
    (config(variants={"one": FILM, "two": {**FILM, "seed": 2}}), r"two and one both ship fusion\.film, and a pipeline has one"),
    (config(base=BASE, variants={"x": {**FEW, "train": ["generator"], "ships": {"generator": "unet"}}}),
     r"x and base both ship generator\.unet"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_a_name_that_says_otherwise_is_refused_before_anything_is_trained(given: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        planned(given, tmp_path)


def test_what_is_said_of_a_stage_is_what_the_recipe_builds() -> None:
    known = preset_of("tiny")["stages"]
    for stage, entry in known.items():
        if stage in SHIPS:
            usual = entry["variants"][entry["default"]]
            made = entry_made(Recipe(), stage)
            assert made["class"] == usual["class"] and made["config"].items() >= usual["config"].items() and "with" not in made
    unet = entry_made(Recipe(predicts="v", temporal=False), "generator")["config"]
    assert (unet["predicts"], unet["temporal"]) == ("v", False)
    assert entry_made(Recipe(align="none", fusion="film"), "generator")["with"] == {"fusion": "film", "align": "none"}
    assert entry_made(Recipe(align="none"), "align") == {"class": "none", "config": known["align"]["variants"]["none"]["config"]}
    assert "with" not in entry_made(Recipe(preset="article", init="random"), "generator")       # by its class, the default one


def test_a_base_that_predicts_something_else_is_sampled_so(tmp_path: Path) -> None:
    training.run(config(base={**BASE, "predicts": "v", "temporal": False}, only="generator.unet"), tmp_path)
    pipe = wanlab.load(tmp_path / "pipeline")
    assert (pipe.generator.config.predicts, pipe.generator.config.temporal) == ("v", False)
    with pytest.raises(WeightsError, match="variant 'no_temporal' has no weights in"):     # what ships is of another base
        pipe.swap("generator", "no_temporal")
    note = json.loads((tmp_path / "base" / "provenance-generator.unet.json").read_text())
    assert note["class"] == "unet" and note["config"]["predicts"] == "v"


def test_a_variant_trained_without_alignment_comes_without(tmp_path: Path) -> None:
    training.run(variant(train=["generator"], align="none", ships={"generator": "no_align"}), tmp_path)
    entry = json.loads((tmp_path / "pipeline" / "pipeline.json").read_text())["stages"]["generator"]["variants"]["no_align"]
    assert entry["with"] == {"align": "none"}
    assert wanlab.load(tmp_path / "pipeline", variants={"generator": "no_align"}).config["variants"]["align"] == "none"


def test_an_opponent_of_other_sizes_loads_and_a_folder_of_older_code_is_put_right(tmp_path: Path) -> None:
    given = config(detail={"gan": {**DETAIL, "taps": 2}})
    training.run(given, tmp_path)
    assert wanlab.load(tmp_path / "pipeline").discriminator.config.taps == (16, 32)
    whole = json.loads((tmp_path / "pipeline" / "pipeline.json").read_text())
    for note in (tmp_path / "detail").glob("provenance-*"):
        facts = {key: value for key, value in json.loads(note.read_text()).items() if key not in ("class", "with")}
        kept = {key: value for key, value in facts["from"].items() if key not in ("preset", "vgg")}
        note.write_text(json.dumps(facts | {"config": {}, "from": kept}))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "detail").glob("*.pt")}
    training.run(given, tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "detail").glob("*.pt")}
    again = json.loads((tmp_path / "pipeline" / "pipeline.json").read_text())
    for stage in ("detail", "discriminator"):
        mine, theirs = (dict(one["stages"][stage]["variants"]["gan"]) for one in (again, whole))
        mine.pop("provenance"), theirs.pop("provenance")
        assert mine == theirs


def test_weights_of_other_sizes_or_seen_through_another_network_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    then = stated(adversarial.Recipe())
    assert differences(then, {**then, "from": {}}) == []                     # notes of older code, which had neither
    (tmp_path / "tiny").mkdir()
    manifest = (presets.PRESETS / "tiny" / "pipeline.json").read_text()
    (tmp_path / "tiny" / "pipeline.json").write_text(manifest.replace('"gan_blocks": 2', '"gan_blocks": 3'))
    (tmp_path / "vgg.safetensors").write_bytes(b"another content network")
    monkeypatch.setattr(presets, "PRESETS", tmp_path)
    monkeypatch.setattr(content, "WEIGHTS", tmp_path / "vgg.safetensors")
    told = differences(stated(adversarial.Recipe()), then)
    assert told == ["vgg (the shipped one) held something else", "preset (tiny) held something else"]


class Listener(Watch):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_what_an_older_file_left_in_the_folder_is_told_and_left_out(tmp_path: Path) -> None:
    training.run(config(variants={"zzz": FILM}), tmp_path)
    listener = Listener()
    with watched_by(listener):
        training.run(config(variants={"aaa": {**FILM, "seed": 2}}), tmp_path)
    entry = json.loads((tmp_path / "pipeline" / "pipeline.json").read_text())["stages"]["fusion"]["variants"]["film"]
    assert entry["provenance"]["seed"] == 2
    said = "zzz/provenance-fusion.film.json is of other settings, or of no part of this file: left out of pipeline/"
    assert said in listener.notes


def test_of_parts_that_are_asked_for_by_name_a_variant_starts_from_the_base_among_them(tmp_path: Path) -> None:
    no_temporal = {**FEW, "train": ["generator"], "temporal": False, "ships": {"generator": "no_temporal"}}
    file = config(base=BASE, variants={"no_temporal": no_temporal})
    trained = str(tmp_path / "base" / "diffusion.pt")
    starts = {tuple(only): planned({**file, "only": only}, tmp_path)[-1].recipe.start
              for only in (["generator.no_temporal"], ["text.t5", "generator.no_temporal"])}  # fmt: skip
    assert starts[("text.t5", "generator.no_temporal")] == trained != starts[("generator.no_temporal",)]
