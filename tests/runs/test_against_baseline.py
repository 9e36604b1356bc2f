"""Where the baseline's own videos are the reference: what judges agreement with them is no comparison with the baseline."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs.toy import STUDY, bench
from wanlab.runs.plan import reference_of
from wanlab.runs.report.figures import effect
from wanlab.runs.stats import Result

STUDY = STUDY.replace("colour_distance]", "sharpness, colour_distance]")
BLANK = ("delta", "delta_low", "delta_high", "p_adjusted")


def table_of(root: Path) -> dict[tuple[str, str], dict[str, str]]:
    with open(root / "results.csv", newline="") as file:
        return {(row["cell"], row["metric"].partition("[")[0]): row for row in csv.DictReader(file)}


@pytest.mark.parametrize("sets", [["reference=baseline"], ["data={kind: images, path: list.csv}"]])
def test_agreement_with_the_baseline_is_a_value_without_a_test(run: Callable[..., Any], tmp_path: Path, sets: list[str]) -> None:
    from PIL import Image

    for index in range(5):
        Image.new("RGB", (16, 16), (40 * index, 90, 200 - 30 * index)).save(tmp_path / f"{index}.png")
    (tmp_path / "list.csv").write_text("image,prompt\n" + "".join(f"{i}.png,a red circle\n" for i in range(5)))
    said = io.StringIO()
    root, _ = run("out", *sets, text=STUDY, report=True, said=said)
    table = table_of(root)
    for metric in ("psnr", "colour_distance"):
        for cell in ("baseline", "text", "detail", "both", "sharp"):
            row = table[cell, metric]
            assert not any(row[name] for name in BLANK), row
            assert row["ci_low"] <= row["ci_high"] and row["n"] == "5"
    assert float(table["text", "psnr"]["value"]) < float(table["baseline", "psnr"]["value"]) == 100
    for metric in ("flicker", "sharpness"):         # no agreement: a comparison as ever
        assert all(table["detail", metric][name] for name in BLANK)
    latex = (root / "report" / "table.tex").read_text()
    caption = "so psnr, colour\\_distance have no difference, no test and no best"
    assert caption in latex and "other rows: the paired difference" in latex
    (row,) = [line for line in latex.splitlines() if line.startswith("text & ")]
    assert "dagger" not in row.split("&")[1] and "textbf" not in latex.split(r"\midrule")[1].split("&")[1]
    assert "so psnr, colour_distance have no difference" in (root / "report" / "report.html").read_text()
    assert said.getvalue().count("so psnr, colour_distance have no difference") == 1


def test_a_caption_explains_no_difference_where_there_is_none(run: Callable[..., Any]) -> None:
    root, _ = run("out", "reference=baseline", "metrics=[psnr]", text=STUDY, report=True)
    latex = (root / "report" / "table.tex").read_text()
    assert "so psnr have no difference" in latex and "With 95\\,\\% intervals." in latex
    assert "paired difference" not in latex and "dagger" not in latex and "Best in bold" not in latex


def test_a_plan_says_what_the_reference_is() -> None:
    assert any("The reference is the clip of baseline" in note for note in bench("reference=baseline").notes)
    assert not any("The reference is" in note for note in bench().notes)
    for sets in ([], ["reference=baseline"], ["reference=data"]):
        work = bench(*sets)
        assert (reference_of(work.study, work.source) == "baseline") == work.study.against_baseline


RANKS = [("higher", 30.0, 1), ("higher", 45.0, 2), ("lower", 45.0, 2), ("lower", 60.0, 1)]


@pytest.mark.parametrize(("better", "value", "rank"), RANKS)
def test_placebos_are_ranked_by_how_far_they_are(better: str, value: float, rank: int) -> None:
    one = Result("a", "m", "m", value, value - 1, value + 1, better=better, placebos=(40.0, 50.0), from_baseline=True)
    assert one.placebo_rank == rank
    shown = effect(one)
    assert (shown.delta, shown.low, shown.high, shown.kind) == (value, value - 1, value + 1, "apart")
