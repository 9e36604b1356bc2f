"""The studies of Wan run on random weights as they would on published ones."""

from __future__ import annotations

import io
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from tests.pipelines import published
from tests.pipelines.wan import small
from wanlab import cli
from wanlab.pipelines import wan_presets
from wanlab.pipelines.wan_parts import random_pipeline
from wanlab.pipelines.wan_presets import PRESETS
from wanlab.runs.study import run_study

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "wan"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cells", "less"), [
    pytest.param("blocks", 91, ["sampler.steps=3", "axes.when={edits.0.steps: {all: null, early: ':1', late: '1:'}}"],
                 marks=pytest.mark.slow(seconds=40)),
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


@pytest.mark.slow
def test_the_commands_of_the_documentation_make_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word by word, with a small model in the published layout in the place of the true one; on fewer blocks, steps and samples."""
    told = (FOLDER.parents[1] / "docs" / "wan.md").read_text().split("in three commands")[1].split("```")[1]
    told = told.replace("wan2.1-t2v-1.3b", "wan-random-tiny-t2v").replace("Wan2.1-T2V-1.3B", "tiny")
    download, *commands = [shlex.split(line) for line in told.strip().splitlines()]
    published.write(random_pipeline(PRESETS["wan-random-tiny-t2v"], seed=4), tmp_path / "models" / "tiny")
    assert download == ["hf", "download", "Wan-AI/tiny", "--local-dir", "models/tiny"] and len(commands) == 2
    (tmp_path / "experiments").symlink_to(FOLDER.parent)
    monkeypatch.chdir(tmp_path)
    less = ("data.n=1", "sampler.steps=2", "axes.when={edits.0.steps: {early: ':1', late: '1:'}}",
            'axes.block={edits.0.at: {"0": dit.blocks.0.resid_post, "29": dit.blocks.29.resid_post}}')
    commands[0] += [word for one in less for word in ("--set", one)]
    for command in commands:
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not left.value.code
    root = tmp_path / "runs" / "wan-blocks"
    assert (root / "report" / "report.html").is_file() and list((root / "report" / "figures").glob("heatmap*.pdf"))
    weights = json.loads((root / "environment.json").read_text())["pipeline"]
    assert weights["weights"] == random_pipeline(PRESETS["wan-random-tiny-t2v"], seed=4).weights_hash


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


def test_what_the_second_expert_is_guided_by_decides_when_an_edit_acts_and_so_where_a_loop_parts() -> None:
    """With a guidance of 1 and 3 there are two branches, so their difference is a place in every step."""
    from tests.pipelines.wan import made
    from wanlab.runs.cell import open_workbench
    from wanlab.runs.reading import parse_study

    cells = "{baseline: {}, late: {edits: [{kind: scale, at: sampler.video.difference, factor: 0.5, steps: last}]}}"
    sets = ["data={kind: procedural, n: 1}", "sampler={steps: 4, guidance: 1, guidance_2: 3}", "reference=auto", f"cells={cells}"]
    study, document = parse_study(STUDY.replace("AT", "x").replace("SCALES", "guidance_2: 3"), sets)
    pipe = made("a14b")
    plan = open_workbench(study, document, load=lambda name, init: pipe).plan
    [loop] = [recipe for recipe in plan.cells["late"].recipes if recipe.node.name == "denoise"]
    assert loop.timetable.always == () and loop.cuts == (3,)
    assert plan.stage_runs().steps["denoise"] == 4 + 1
