"""Metrics of one's own: given to a study from Python as docs/metrics.md shows, and reported from what the folder holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runs.toy import resolve_toy
from wanlab.measure import UnknownMetric
from wanlab.runs.study import report_study

ROOT = Path(__file__).parents[2]
METRICS = "metrics=[psnr, brightness]"


def example() -> Callable[..., Any]:
    """The function of the example in docs/metrics.md, whose last line would run a study."""
    (code,) = re.findall(r"```python\n(from pathlib.*?)run_study\(", (ROOT / "docs" / "metrics.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["with_mine"]


def test_a_study_with_a_metric_of_ones_own_is_reported_from_its_folder(run: Callable[..., Any]) -> None:
    root, outcome = run("out", METRICS, resolve=example())
    assert len(outcome.done) == 5
    before = (root / "results.csv").read_bytes()
    assert b"baseline,brightness[v1],0." in before
    (root / "results.csv").unlink()
    assert report_study(root).exists()
    assert (root / "results.csv").read_bytes() == before


def test_a_metric_that_the_folder_does_not_explain_is_told_how_to_give(run: Callable[..., Any]) -> None:
    root, _ = run("out", "metrics=[psnr, colour_distance]")
    with pytest.raises(UnknownMetric, match=r"unknown metric 'colour_distance'.*report_study\(folder, resolve=\.\.\.\)"):
        report_study(root)
    assert report_study(root, resolve=resolve_toy).exists()
