"""The code of the documents runs, block after block of a page; the README's is run by the default tests.

Pages about the shipped pipeline run on it, those of questions that take many runs on a smaller one of the same kind.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch

import wanlab
from tests.contracts.test_cascade_contract import small
from wanlab.analysis import readouts
from wanlab.data.clip import Clips

pytestmark = pytest.mark.slow

DOCS = Path(__file__).resolve().parents[2] / "docs"
PUBLISHED = "needs weights that others published"
NOT_RUN = {"wan": PUBLISHED, "cascade": PUBLISHED}      # page -> why none of its blocks runs here
CLIPS, BATCH = 32, 8


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def execute(page: str, names: dict[str, Any]) -> None:
    """Run the blocks of a page, one after the other, as one reader does."""
    for number, code in enumerate(blocks(DOCS / f"{page}.md")):
        exec(compile(code, f"docs/{page}.md, block {number}", "exec"), names)
    plt.close("all")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of the blocks go to a folder of their own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """What the pages take for granted: a pipeline, first frames, prompts, a clip and a thing in it."""
    pipe, world = wanlab.load("tiny"), wanlab.World(split="test")
    mask = torch.zeros(8, 4, 4, dtype=torch.bool)
    mask[:, 1, 2] = True
    image, other = world[0].video[0], world[1].video[0]
    out = pipe.generate(image, "a red circle moves left", seed=0, steps=2)
    return {"wanlab": wanlab, "pipe": pipe, "image": image, "images": [image], "others": [other], "seeds": [0],
            "prompts": ["a red circle moves left"], "clip": world[0].video[None], "mask": mask, "out": out}  # fmt: skip


def made_clips() -> Clips:
    """Clips of noise with a truth in which every shape goes with every colour and way."""
    things = [{"shape": ("circle", "square")[i % 2], "colour": ("red", "blue")[i // 2 % 2], "motion": ("left", "right")[i // 4 % 2]}
              for i in range(CLIPS)]
    factors = [{"objects": [thing], "speed": 0.1 + 0.01 * i} for i, thing in enumerate(things)]
    captions = [f"a {thing['colour']} {thing['shape']} moves {thing['motion']}" for thing in things]
    return Clips(torch.rand(CLIPS, 8, 3, 64, 64), captions, factors, tracks=torch.rand(CLIPS, 8, 2, 2))


def test_every_page_with_code_runs_or_says_why_not() -> None:
    pages = {page.stem for page in DOCS.glob("*.md") if blocks(page)}
    assert pages == {"analysis", "attention", "metrics", "studies", "swaps"} | set(NOT_RUN)


@pytest.mark.parametrize("page", ["attention", "studies", "swaps"])
def test_code_runs(page: str, given: dict[str, Any]) -> None:
    execute(page, dict(given))


def test_code_of_a_metric_of_ones_own_runs(tmp_path: Path) -> None:
    study = "name: mine\ndata: {kind: procedural, n: 2}\nsampler: {steps: 1}\nmetrics: [lpips, brightness]\ncells: {baseline: }\n"
    (tmp_path / "mine.yaml").write_text(study)
    execute("metrics", {})
    assert "brightness[v1]" in (tmp_path / "runs" / "mine" / "results.csv").read_text()


@pytest.mark.slow(seconds=60)
def test_code_of_causal_questions_runs(tmp_path: Path) -> None:
    pipe, clips = small(tmp_path, frames=8), made_clips()
    batches = [(clips[at : at + BATCH], list(range(at, at + BATCH))) for at in range(0, CLIPS, BATCH)]
    request = pipe.request(clips.first[:1], clips.captions[0], 0)
    rows = torch.randn(4000, 48, generator=torch.Generator().manual_seed(0))
    execute("analysis", {
        "wanlab": wanlab, "Feature": wanlab.Feature, "Steer": wanlab.Steer, "pipe": pipe, "clips": clips, "batches": batches,
        "image": clips.first[0], "prompt": clips.captions[0], "request": request, "requests": [request], "factors": clips.factors,
        "metric": readouts.sharpness(), "other_blocks": [rows],
        "towards_left": pipe.request(clips.first[:1], "a red circle moves left", 0),
        "towards_right": pipe.request(clips.first[:1], "a red circle moves right", 0),
    })  # fmt: skip
