"""Training on real videos: every stage learns from them, nothing is made up about their motion, and what is skipped is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wanlab import training
from wanlab.data.procedural import World
from wanlab.data.video import write_video
from wanlab.pipelines.load import PRESETS
from wanlab.training import adversarial, base, upsampling
from wanlab.training.base import train_base
from wanlab.training.degradation import carried, clean, degrade, window
from wanlab.training.descent import Diverged
from wanlab.training.diffusion import Recipe
from wanlab.training.sources import videos_digest

FEW = {"clips": 4, "held": 2, "steps": [2, 2], "batch": [2, 2], "crop": [8, 8]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "videos"
    for i in range(3):
        sample = World(size=40, frames=10, split="val")[i]
        write_video(home / f"v{i}.mp4", sample.video, fps=8)
        (home / f"v{i}.txt").write_text(sample.caption + " slowly")
    (home / "bad.mp4").write_bytes(b"nothing")
    return home


def told() -> tuple[training.Watch, list[str]]:
    notes: list[str] = []

    class Listener(training.Watch):
        def note(self, text: str) -> None:
            notes.append(text)

    return Listener(), notes


def test_the_base_learns_the_picture_and_nothing_else_of_them(folder: Path, tmp_path: Path) -> None:
    videos = {"path": str(folder)}
    recipe = Recipe(steps=2, batch=2, clips=4, held=2, warmup=1, validate_every=1, videos=videos, ships={"align": "flow_warp"})
    watch, notes = told()
    with training.watched_by(watch):
        average = train_base(recipe, tmp_path / "out")
    assert all(torch.isfinite(p).all() for p in average.parameters()) and not (tmp_path / "out" / "grounding.pt").exists()
    log = [json.loads(line) for line in (tmp_path / "out" / "diffusion.jsonl").read_text().splitlines()]
    keys = set().union(*(row.keys() for row in log))
    assert {"video", "paint", "high", "low_no_text"} <= keys and not {"motion", "masks", "slots", "slot_motion"} & keys
    assert any("3 videos, 1 left out (bad.mp4" in note for note in notes)
    assert any("1 words of the captions" in note and "slowly" in note for note in notes)
    facts = json.loads((tmp_path / "out" / "provenance-align.flow_warp.json").read_text())
    assert facts["recipe"]["videos"] == {"path": "videos"} and facts["metrics_of"] == "held-out clips"

    start = replace(recipe, start=str(PRESETS / "tiny"))            # going on from shipped weights
    assert train_base(start, tmp_path / "more")["align"] is not None


def test_levels_and_detail_learn_from_them_and_the_same_command_keeps_them(folder: Path, tmp_path: Path) -> None:
    videos = {"path": str(folder), "crop": "random", "workers": 2, "held": 0}
    config = {
        "kind": "cascade",
        "upsample": {"residual": {**FEW, "videos": videos}},
        "detail": {"gan": {"clips": 2, "held": 1, "content_steps": 1, "gan_steps": 2, "batch": 1, "crop": 16, "videos": videos}},
    }
    training.run(config, tmp_path / "out")
    figures = json.loads((tmp_path / "out" / "upsample" / "provenance-upsample.residual.json").read_text())["metrics"]
    assert figures["psnr.0"] == pytest.approx(figures["psnr_bicubic.0"], abs=3) and figures["psnr_bicubic.0"] > 15
    notes = [json.loads(note.read_text()) for note in (tmp_path / "out").glob("*/provenance-*.json")]
    assert [note["metrics_of"] for note in notes] == ["the videos that were trained on"] * 3
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.pt")}
    training.run(config, tmp_path / "out")
    assert before and {path: path.stat().st_mtime_ns for path in before} == before


NAN = torch.full((), float("nan"), requires_grad=True)


@pytest.mark.parametrize("part", ["base", "upsample", "detail"])
def test_a_loss_that_is_not_finite_names_the_videos_that_it_is_of(
    part: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = {"path": str(folder)}
    few = {"clips": 4, "held": 2, "batch": 2, "videos": videos}
    monkeypatch.setattr(base, "losses", lambda *_: ({"video": NAN}, None, None))
    monkeypatch.setattr(upsampling, "objective", lambda _: lambda *_: NAN)
    monkeypatch.setattr(adversarial, "faithfulness", lambda *_: (NAN, torch.zeros(()), []))
    trainings = {
        "base": lambda: train_base(Recipe(steps=1, **few), tmp_path),
        "upsample": lambda: upsampling.train_upsampling(upsampling.Recipe(**FEW, videos=videos), tmp_path),
        "detail": lambda: adversarial.train_detail(adversarial.Recipe(crop=16, **few), tmp_path),
    }
    clip = r"v\d\.mp4 from frame \d on"
    with pytest.raises(Diverged, match=rf"is nan at step 0 on clips \[{clip}, {clip}\]; no checkpoint"):
        trainings[part]()


def test_without_known_motion_the_first_frame_guides_itself_alone() -> None:
    clips = World(size=64).batch(range(2))
    clips.motion = clips.masks = None
    opening, later = window(clips, 0, 4), window(clips, 2, 4)
    frame, valid = carried(opening, None, None, 64)
    assert torch.equal(frame[:, 0], clips.video[:, 0]) and valid[:, 0].all() and not valid[:, 1:].any()
    assert (frame[:, 1:] == 0.5).all() and not carried(later, None, None, 64)[1].any()
    example = clean(opening, 64)
    assert (example.reference[:, 1:] == 0).all() and torch.equal(example.reference[:, 0], example.target[:, 0])
    rough = degrade(opening, 64, torch.Generator().manual_seed(0))
    assert rough.video.shape == (2, 4, 3, 32, 32) and not rough.valid[:, 1:].any()


def test_a_recipes_key_follows_the_bytes_of_the_videos_not_their_place(folder: Path, tmp_path: Path) -> None:
    first = videos_digest({"path": str(folder)})
    moved = folder.rename(tmp_path / "elsewhere")
    assert videos_digest({"path": str(moved), "workers": 3}) == first
    (moved / "v0.txt").write_text("another caption")
    assert videos_digest({"path": str(moved)}) != first
