"""The claim of experiments/quickstart.yaml: removing a component moves the number it is there for.

Judges the finished run named by the variable WANLAB_QUICKSTART, or runs the study (five minutes on two cores).
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
CELLS = ["baseline", "text", "image", "fusion", "temporal", "alignment", "residual", "detail", "gan_head"]
COLUMNS = "cell metric value ci_low ci_high delta delta_low delta_high p_adjusted n better".split()
CLAIMS = [
    ("text", "motion_accuracy", "falls"),
    ("image", "adherence_psnr", "falls"),
    ("image", "fvd", "rises"),
    ("temporal", "warp_error", "rises"),
    ("alignment", "warp_error", "rises"),
    ("residual", "lpips", "rises"),
    ("gan_head", "sharpness", "falls"),
]
CHANCE = 0.25  # nine motions; the prior of the world and the tracker's leanings allow more than one in nine

Rows = dict[tuple[str, str], dict[str, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of the study."""
    given = os.environ.get("WANLAB_QUICKSTART")
    if given:
        return Path(given)
    out = tmp_path_factory.mktemp("runs") / "quickstart"
    wanlab = Path(sys.executable).with_name("wanlab")
    command = [wanlab, "run", "experiments/quickstart.yaml", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True)
    return out


@pytest.fixture(scope="module")
def rows(run: Path) -> Rows:
    """results.csv by cell and short metric name (the protocol in brackets left out)."""
    with open(run / "results.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS
        return {(row["cell"], row["metric"].split("[")[0]): row for row in reader}


def test_the_table_has_the_cells_of_the_study_and_enough_samples(rows: Rows) -> None:
    assert list(dict.fromkeys(cell for cell, _ in rows)) == CELLS
    assert min(int(rows[cell, "lpips"]["n"]) for cell in CELLS) >= 48


@pytest.mark.parametrize(("cell", "metric", "moves"), CLAIMS)
def test_removing_a_component_moves_its_number(rows: Rows, cell: str, metric: str, moves: str) -> None:
    row = rows[cell, metric]
    low, high = float(row["delta_low"]), float(row["delta_high"])
    said = f"{cell} removed: {metric} {row['value']}, delta {row['delta']} [{low}, {high}], n = {row['n']}"
    print(said)
    assert low <= float(row["delta"]) <= high, said
    assert high < 0 if moves == "falls" else low > 0, said


def test_without_text_motion_is_a_guess(rows: Rows) -> None:
    assert float(rows["text", "motion_accuracy"]["ci_low"]) <= CHANCE
    assert float(rows["baseline", "motion_accuracy"]["ci_low"]) > CHANCE


def test_the_report_is_complete(run: Path) -> None:
    report = run / "report"
    for name in ("report.html", "table.tex", "table.csv", "figures/forest.pdf", "figures/forest.png"):
        assert (report / name).stat().st_size > 0, name
    page = (report / "report.html").read_text(encoding="utf-8")
    assert all(cell in page for cell in CELLS)
    assert 'src="http' not in page and 'href="http' not in page.split("</head>")[0], "the report loads from the network"
    assert b"/Subtype /Type3" not in (report / "figures" / "forest.pdf").read_bytes(), "Type 3 fonts"
