"""Every number of a study's tables and page against numpy and scipy alone, from the values and features that its cells keep."""

from __future__ import annotations

import csv
import io
import math
import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from safetensors.numpy import load_file
from scipy import linalg, stats

from tests.runs.toy import STUDY, Toy, load_toy, resolve_toy
from wanlab.runs.study import run_study

CELLS = ["text", "detail", "both", "sharp"]
MEANS, UNITS = ["psnr", "flicker"], 5


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    (folder / "study.yaml").write_text(STUDY)
    sets = ("report.videos=0", "report.figures=[]", "stats.confidence=0.9")
    told = {"console": Console(file=io.StringIO()), "load": load_toy(Toy()), "resolve": resolve_toy}
    run_study(folder / "study.yaml", folder / "out", sets, "cpu", **told)
    return folder / "out"


def lines(root: Path) -> dict[tuple[str, str], dict[str, float]]:
    """table.csv, which holds what results.csv holds and more: (cell, metric) -> number by field, NaN where it is empty."""
    with open(root / "report" / "table.csv", newline="") as file:
        table = {row["cell"]: row for row in csv.DictReader(file)}
    found: dict[tuple[str, str], dict[str, float]] = {}
    for cell, row in table.items():
        for name, text in list(row.items())[1:]:
            metric, _, field = name.rpartition(" ")
            found.setdefault((cell, metric.partition("[")[0]), {})[field] = float(text) if text else math.nan
    return found


def folders(root: Path) -> dict[str, Path]:
    found = {}
    for folder in (root / "cells").iterdir():
        name = re.search(r"^name: (\w+)", (folder / "cell.yaml").read_text(), re.M)
        assert name is not None
        found[name[1]] = folder
    return found


def units(folder: Path, metric: str) -> np.ndarray:
    """One value for each (image, prompt): the mean over its seeds."""
    table = pd.read_parquet(folder / "samples.parquet")
    return table[table.metric == metric].groupby("index").value.mean().to_numpy()


def flips(moved: np.ndarray) -> float:
    """Two-sided p of all 2^n sign flips."""
    sums = [abs(np.dot(signs, moved)) for signs in product((-1, 1), repeat=len(moved))]
    return float(np.mean([one >= abs(moved.sum()) * (1 - 1e-9) for one in sums]))


def holm(p: list[float]) -> list[float]:
    steps = sorted(range(len(p)), key=lambda i: p[i])
    return [min(1.0, max((len(p) - k) * p[j] for k, j in enumerate(steps[: steps.index(i) + 1]))) for i in range(len(p))]


def wide(values: np.ndarray) -> list[float]:
    """The expanded percentile bootstrap of a mean at 90 %, by draws of its own."""
    n = len(values)
    tail = stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.95, n - 1))
    drawn = np.random.default_rng(5).choice(values, (200_000, n)).mean(1)
    return np.quantile(drawn, [tail, 1 - tail]).tolist()


@pytest.mark.parametrize("metric", MEANS)
def test_means_differences_p_values_and_effect_sizes(root: Path, metric: str) -> None:
    found, where = lines(root), folders(root)
    base = units(where["baseline"], metric)
    moved = {cell: units(where[cell], metric) - base for cell in CELLS}
    corrected = dict(zip(CELLS, holm([flips(moved[cell]) for cell in CELLS])))
    for cell in ["baseline", *CELLS]:
        row, values = found[cell, metric], units(where[cell], metric)
        assert row["value"] == pytest.approx(values.mean(), rel=1e-6) and row["n"] == UNITS
        noise = 0.05 * np.ptp(values)  # of resamples
        assert [row["ci_low"], row["ci_high"]] == pytest.approx(wide(values), abs=noise)
        assert np.isnan(row["delta"]) == (cell == "baseline")
    for cell, change in moved.items():
        row, nonzero = found[cell, metric], change[change != 0]
        assert row["delta"] == pytest.approx(change.mean(), rel=1e-4) and row["pairs"] == UNITS
        assert [row["delta_low"], row["delta_high"]] == pytest.approx(wide(change), abs=0.05 * np.ptp(change))
        assert row["p"] == pytest.approx(flips(change)) and row["p_adjusted"] == pytest.approx(corrected[cell])
        v = UNITS - 1
        hedges = math.gamma(v / 2) / (math.sqrt(v / 2) * math.gamma((v - 1) / 2))
        assert row["dz"] == pytest.approx(hedges * change.mean() / change.std(ddof=1), rel=1e-3)
        positive = stats.rankdata(np.abs(nonzero))[nonzero > 0].sum()
        assert row["rank_biserial"] == pytest.approx(2 * positive / (len(nonzero) * (len(nonzero) + 1) / 2) - 1)


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """By scipy's matrix square root; float64."""
    root = np.real(linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)))
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root))


def test_distances_between_sets_and_their_jackknife(root: Path) -> None:
    found, where, metric = lines(root), folders(root), "colour_distance"

    def sets(cell: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        held = load_file(where[cell] / "features.safetensors")
        named = {which: held[f"{metric}.{which}"].astype(np.float64) for which in ("video", "reference")}
        return held["index"], named["video"], named["reference"]

    def without(cell: str) -> np.ndarray:
        unit, video, reference = sets(cell)
        return np.array([frechet(video[unit != one], reference[unit != one]) for one in np.unique(unit)])

    def half(left: np.ndarray) -> float:
        error = math.sqrt((UNITS - 1) / UNITS * ((left - left.mean()) ** 2).sum())
        return float(error * stats.t.ppf(0.95, UNITS - 1))

    whole = {cell: frechet(*sets(cell)[1:]) for cell in ["baseline", *CELLS]}
    p: dict[str, float] = {}
    for cell in CELLS:
        row, left = found[cell, metric], without(cell)
        moved, delta = left - without("baseline"), whole[cell] - whole["baseline"]
        assert row["value"] == pytest.approx(whole[cell], rel=1e-3)
        assert row["ci_low"] == pytest.approx(max(whole[cell] - half(left), 0), rel=0.01, abs=1e-5)
        assert row["ci_high"] == pytest.approx(whole[cell] + half(left), rel=0.01)
        assert row["delta"] == pytest.approx(delta, rel=0.01, abs=1e-6)
        assert (row["delta_high"] - row["delta_low"]) / 2 == pytest.approx(half(moved), rel=0.01)
        t = abs(delta) / (half(moved) / stats.t.ppf(0.95, UNITS - 1))
        p[cell] = 2 * float(stats.t.sf(t, UNITS - 1))
        assert row["p"] == pytest.approx(p[cell], rel=0.02) and row["n"] == row["pairs"] == UNITS
    corrected = dict(zip(CELLS, holm([p[cell] for cell in CELLS])))
    assert {cell: found[cell, metric]["p_adjusted"] for cell in CELLS} == pytest.approx(corrected, rel=0.02)


def test_the_page_prints_the_numbers_of_the_table(root: Path) -> None:
    """Differences with their sign and interval, p after Holm's correction, at the decimals of the column."""
    page = (root / "report" / "report.html").read_text().replace("−", "-")
    for (cell, metric), row in lines(root).items():
        texts = {f"{row['value']:.{digits}f}" for digits in range(7)}
        assert any(f">{text}<" in page or f"{text}\n" in page or f">{text} " in page for text in texts), (cell, metric, texts)
        if cell != "baseline" and row["p_adjusted"] >= 0.001:
            assert f"p = {row['p_adjusted']:.3f}" in page, (cell, metric)
