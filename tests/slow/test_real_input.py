"""The shipped cascade on pictures that nobody rendered: a photograph and a folder of real clips, as a new user gives them."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wanlab.data.folder import read_video

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

ABSENT = "no real pictures beside the checkout (../shared/data)"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason=ABSENT)]

STUDY = """
name: real
data: {data}
sampler: {{steps: 2}}
batch: 2
cells: {{baseline: , text: {{ablate: text}}}}
metrics: [fvd, lpips, psnr, warp_error, motion_accuracy, adherence_psnr]
"""


@pytest.fixture
def wanlab(tmp_path: Path):
    """Run `wanlab ARGUMENTS` with another home, in an empty folder; gives what was said on stderr."""
    (tmp_path / "home").mkdir()

    def go(*arguments: str) -> str:
        environment = os.environ | {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        command = [sys.executable, "-m", "wanlab", *arguments]
        answer = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        return " ".join(answer.stderr.split())

    return go


def test_a_photograph_moves(wanlab, tmp_path: Path) -> None:
    photo = str(DATA / "images" / "i2v_input.jpg")
    said = wanlab("generate", "--image", photo, "--prompt", "a surfing cat moves left", "--steps", "2")
    assert "the shipped model knows rendered shapes alone" in said and "does not know: surfing, cat" in said
    video = read_video(tmp_path / "out.mp4")
    assert video.shape == (8, 3, 128, 128) and video.std() > 0.05


@pytest.mark.parametrize(("data", "rows"), [
    (f"{{kind: image, path: {DATA / 'images' / 'i2v_input.jpg'}, prompts: [a red circle moves left, '', a cat, a dog]}}", 4),
    (f"{{kind: folder, path: {DATA / 'clips'}}}", 4),
], ids=["photograph", "clips"])  # fmt: skip
def test_a_study_of_real_pictures(wanlab, tmp_path: Path, data: str, rows: int) -> None:
    (tmp_path / "real.yaml").write_text(STUDY.format(data=data))
    said = wanlab("run", "real.yaml")
    assert "left out: motion_accuracy" in said
    with open(tmp_path / "runs" / "real" / "results.csv", newline="") as file:
        results = {(row["cell"], row["metric"].split("[")[0]): row for row in csv.DictReader(file)}
    assert {metric for _, metric in results} == {"fvd", "lpips", "psnr", "warp_error", "adherence_psnr"}
    assert all(int(row["n"]) == rows and row["value"] for row in results.values())
    assert (tmp_path / "runs" / "real" / "report" / "report.html").exists()
