"""The studies of Wan run on random weights as they would on published ones."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from tests.pipelines.wan import small
from wanlab.pipelines import wan_presets
from wanlab.runs.study import run_study

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "wan"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cells", "less"), [
    ("blocks", 91, []),
    ("conditioning", 7, []),
    ("frames", 33, ["sampler.steps=2"]),
    ("heads", 25, ["sampler.steps=2", 'axes.block={edits.0.at: {"0": dit.blocks.0.self_attn.z, "29": dit.blocks.29.self_attn.z}}']),
])  # fmt: skip
def test_a_study_of_wan_runs_on_one_sample(
        name: str, cells: int, less: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parents[1])
    said = io.StringIO()
    root, outcome = run_study(FOLDER / f"{name}.yaml", tmp_path / "out", ["data.n=1", "report.videos=1", *less], "cpu",
                              console=Console(file=said, width=200))
    assert not outcome.failed and len(outcome.done) == cells, said.getvalue()
    assert (root / "report" / "report.html").is_file()


STUDY = """
name: wide
pipeline: wan-wide
data: {kind: images, path: LIST}
sampler: {steps: 4, guidance: 3, SCALES}
baseline: baseline
reference: baseline
cells: {baseline: {}, block: {edits: [{kind: bypass, at: AT}]}}
metrics: [psnr]
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "at", "scales", "runs"), [
    ("flf2v", "dit.blocks.1.resid_post", "", "would have been 10, was 7"),
    ("a14b", "dit.low.blocks.1.resid_post", "guidance_2: 2", "would have been 8, was 7"),    # the first two steps run once
])  # fmt: skip
def test_a_study_of_a_wide_video_gives_last_frames_and_shares_the_first_experts_steps(
        kind: str, at: str, scales: str, runs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = replace(small(kind), name="wan-wide", size=(32, 48))
    monkeypatch.setitem(wan_presets.PRESETS, "wan-wide", preset)
    for name in "ab":
        Image.new("RGB", (50, 40), {"a": "red", "b": "blue"}[name]).save(tmp_path / f"{name}.png")
    (tmp_path / "list.csv").write_text("image,prompt,last\na.png,a red circle,b.png\n")
    told = STUDY.replace("LIST", str(tmp_path / "list.csv")).replace("AT", at).replace("SCALES", scales).replace(", }", "}")
    (tmp_path / "wide.yaml").write_text(told)
    said = io.StringIO()
    _, outcome = run_study(tmp_path / "wide.yaml", tmp_path / "out", [], "cpu", console=Console(file=said, width=200))
    assert not outcome.failed and len(outcome.done) == 2, said.getvalue()
    assert f"stage runs: {runs} (as planned)" in said.getvalue()
