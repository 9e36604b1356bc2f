"""The shipped studies: each names only what the shipped pipeline has, and, in small, runs to the end with a report."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from wanlab.pipelines.load import load
from wanlab.runs.cell import open_workbench
from wanlab.runs.reading import load_study, parse_study
from wanlab.runs.spec import Study
from wanlab.runs.study import run_study

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "experiments").glob("*.yaml"))
STILL = {"clips": 4, "held": 4, "steps": 1, "batch": 2, "distil_steps": 1, "distil_batch": 2}
QUICK = {  # trainings of a second instead of minutes, by stage
    "fusion": STILL,
    "align": STILL,
    "upsample": {"clips": 2, "held": 1, "steps": [1, 1], "batch": [1, 1], "crop": [8, 8]},
    "detail": {"clips": 2, "held": 1, "content_steps": 1, "gan_steps": 1, "batch": 1, "crop": 16},
}


def test_every_shipped_study_is_planned_on_the_shipped_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what they name lies beside them
    assert {"quickstart", "components", "windows", "heads", "swaps", "placebo", "retrain"} <= {file.stem for file in FILES}
    tiny = load("tiny")
    for file in FILES:
        study, document = load_study(file, ["data.n=2"])
        plan = open_workbench(study, document, load=lambda name, init: tiny).plan
        assert list(plan.cells) == list(study.cells)
        again = Study.model_validate(study.resolved()).at(study.home)
        keys = {name: cell.key for name, cell in open_workbench(again, document, load=lambda name, init: tiny).plan.cells.items()}
        assert keys == {name: cell.key for name, cell in plan.cells.items()}  # what a run folder says builds the same cells
        outputs = {name: cell.keys[0]["detail"] for name, cell in plan.cells.items()}
        assert len(set(outputs.values())) == len(outputs), f"{file.stem}: two cells are the same"


def test_the_examples_of_the_page_are_valid() -> None:
    page = (ROOT / "docs" / "studies.md").read_text()
    cells, weights, grid, placebo = (block.split("```")[0] for block in page.split("```yaml")[1:])
    elsewhere, _ = parse_study("\n".join([weights, *(line for line in cells.splitlines() if not line.startswith("pipeline:"))]))
    assert str(elsewhere.pipeline.path) == "/models/Wan2.1-T2V-1.3B" and elsewhere.pipeline.dtype == "bfloat16"
    study, _ = parse_study(cells + grid)
    assert {"late", "again", "mid+head3+steps8", "down0+head0+steps4"} <= set(study.cells)
    assert "mid+head0+steps4" not in study.cells and study.cells["mid+head0+steps8"].note == "the narrowest block"
    again, _ = parse_study(cells.split("cells:")[0] + placebo)
    assert [name for name in again.cells if name.startswith("placebo")] == [f"placebo-temporal+draw{draw}" for draw in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_small_version_of_every_study_runs(file: Path, tmp_path: Path) -> None:
    sets = ["data.n=2", "report.videos=1", f"cache.trainings={tmp_path / 'trainings'}"]
    cells = load_study(file)[0].cells
    if not any(cell.window or cell.sampler.steps for cell in cells.values()):
        sets.append("sampler.steps=2")                      # where no cell names a step, a few do
    for name, cell in cells.items():
        if cell.train:
            quick = {**cell.train.set, **QUICK[cell.train.part.split(".")[0]]}
            sets.append(f"cells.{name}.train.set={json.dumps(quick)}")
    said = io.StringIO()
    root, outcome = run_study(file, tmp_path / "out", sets, "cpu", console=Console(file=said, width=200))
    study, _ = load_study(file, sets)
    assert not outcome.failed and set(outcome.done) == set(study.cells), said.getvalue()
    with open(root / "results.csv", encoding="utf-8") as stream:
        assert {row["cell"] for row in csv.DictReader(stream)} == set(study.cells)
    assert (root / "report" / "report.html").stat().st_size > 10_000
