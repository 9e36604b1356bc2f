"""Kept benchmark results: readable by one rule, finite, with the machine that they were measured on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

RESULTS = sorted((Path(__file__).resolve().parents[1] / "benchmarks" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_follow_the_format(path: Path) -> None:
    result = json.loads(path.read_text())
    assert {"cpu", "cores", "python", "torch", "wanlab"} <= set(result["machine"])
    for row in result["rows"]:
        assert {"name", "value", "unit", "target", "met"} <= set(row), row
        measured = row["value"] is not None and math.isfinite(row["value"])
        assert measured or row["skipped"], row
        assert row["target"] is None or row["met"] in (True, False) or row["skipped"], row


def test_there_are_results() -> None:
    assert RESULTS
