"""table.tex under a real LaTeX: it compiles, nothing sticks out of the page, every character is printed as itself."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from wanlab.runs.reading import parse_study
from wanlab.runs.report.tables import tex
from wanlab.runs.stats import Result

pytestmark = pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="pdflatex is not installed (Debian: texlive-latex-recommended, which has booktabs; .ci/run installs it)",
)
SLACK = 6.0  # points that a line may stick out: the dagger beside the last column, which takes no room
WICKED = r"_ % & # $ { } ~ ^ \ < > | → λ × “é” -- \input{x} %% 日"


def compiled(folder: Path, table: str, width: float) -> tuple[str, str]:
    """The log and the text of a document that holds the table and no package but booktabs. Fails with LaTeX's own words."""
    (folder / "table.tex").write_text(table, encoding="utf-8")
    (folder / "paper.tex").write_text(
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\setlength{\\oddsidemargin}{0pt}\n"
        f"\\setlength{{\\textwidth}}{{{width}in}}\n\\begin{{document}}\n\\input{{table.tex}}\n\\end{{document}}\n"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert run.returncode == 0, run.stdout[-3000:]
    log = (folder / "paper.log").read_text(errors="replace").replace("\n", "")
    return log, run.stdout


def sticks_out(log: str) -> list[float]:
    """Points by which boxes are wider or higher than their place."""
    return [float(points) for points in re.findall(r"Overfull \\[hv]box \(([\d.]+)pt", log)]


def table(cells: list[str], metrics: list[str], width: str = "5.5", title: str = "t", scale: float = 1.0) -> tuple[str, float]:
    """A table of made-up numbers, significant and not, with a NaN and with ties."""
    text = f"name: t_1\ndata: {{kind: procedural}}\nmetrics: [m]\nreport: {{width: {width}}}\ncells: {{{': , '.join(cells)}: }}\n"
    study, _ = parse_study(text.replace("name: t_1", f"name: t_1\ntitle: {title!r}" if "'" not in title else "name: t_1"))
    chance, rows = random.Random(0), []
    for metric in metrics:
        for place, cell in enumerate(cells):
            delta = chance.gauss(0, scale)
            p = 0.001 if chance.random() < 0.5 else 0.4
            value = float("nan") if place == 3 else 5 * scale + delta
            half = 0.03 * scale
            known = () if cell == "baseline" else (delta, delta - half, delta + half, p, p)
            placebos = (-delta, 0.1 * delta) if cell == "text" else ()
            low, high = value - half, value + half
            names = cell, metric, metric.split("[")[0]
            rows.append(Result(*names, value, low, high, *known, n=48, pairs=48, better="lower", placebos=placebos))
    return tex(study, rows), float(study.report.width)


NAMES = ["baseline", "text", "fusion", "temporal", "gan_head", "image+text_early"]


@pytest.mark.parametrize("width", ["neurips", "icml", "cvpr_page"])
def test_tables_of_all_widths_compile_and_stay_on_the_page(tmp_path: Path, width: str) -> None:
    metrics = ["fvd[i3d|16f]", "psnr", "warp_error[farneback|reference]", "motion_accuracy[tracker]", "flicker"]
    text, inches = table(NAMES, metrics, width)
    log, _ = compiled(tmp_path, text, inches)
    assert max(sticks_out(log), default=0.0) <= SLACK
    assert "undefined" not in log.replace("There were undefined references", "").lower() and "Missing character" not in log


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e6])
def test_small_and_large_numbers_fit(tmp_path: Path, scale: float) -> None:
    text, inches = table(NAMES, [f"m{i}" for i in range(7)], scale=scale)
    log, _ = compiled(tmp_path, text, inches)
    assert max(sticks_out(log), default=0.0) <= SLACK


def test_many_cells_run_over_pages_under_one_number(tmp_path: Path) -> None:
    cells = ["baseline", *(f"block_{i}.temporal+head{j}" for i in range(8) for j in range(6))]
    text, inches = table(cells, ["fvd", "psnr", "lpips"])
    log, said = compiled(tmp_path, text, inches)
    assert max(sticks_out(log), default=0.0) <= SLACK and "Float too large" not in log
    assert int(re.search(r"Output written on paper.pdf \((\d+) page", said).group(1)) >= 3  # type: ignore[union-attr]


def test_whatever_stands_in_a_title_is_printed(tmp_path: Path) -> None:
    text, inches = table(NAMES, ["psnr"], title=WICKED)
    log, _ = compiled(tmp_path, text, inches)
    assert "Missing character" not in log
    if shutil.which("pdftotext"):
        printed = subprocess.run(["pdftotext", "-layout", "paper.pdf", "-"], cwd=tmp_path, capture_output=True, text=True).stdout
        for word in ("% & # $ { }", "input{x} %%", "U+65E5"):
            assert word in printed, printed
