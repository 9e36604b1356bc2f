"""Logs of a run: one JSON object to a line, appended; whoever reads them passes over what a kill or a disk has damaged."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


def now() -> str:
    """The moment, for a log."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def records(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that a kill or a disk has damaged is left out."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError, RecursionError):
            said = json.loads(line)
            if isinstance(said, dict):
                found.append(said)
    return found


class Spent(NamedTuple):
    """Runs, rows and seconds by stage, and of the metrics. Rows of a stage in parts: half of its steps for 8 rows count as 4."""

    runs: Counter[str]
    rows: Counter[str]
    seconds: Counter[str]


def finished(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a cell's log the last line of each batch that was finished."""
    return list({line["chunk"]: line for line in lines if line.get("state") == "ok"}.values())


def spent(lines: Iterable[Mapping[str, Any]]) -> Spent:
    """What lines of cells' logs add up to."""
    total = Spent(Counter(), Counter(), Counter())
    for line in lines:
        total.seconds["metrics"] += line.get("metrics", 0.0)
        total.rows["metrics"] += line.get("rows", 0)
        for stage, counts in line.get("stages", {}).items():
            for what in Spent._fields:
                getattr(total, what)[stage] += counts[what]
    return total


def speaks(line: Mapping[str, Any]) -> bool:
    """Whether a line of a cell's log speaks of a batch, and what it counted is numbers."""
    stages = line.get("stages", {})
    if not isinstance(line.get("chunk"), int) or not isinstance(stages, dict):
        return False
    counts = [line.get(what, 0) for what in ("rows", "metrics")]
    for one in stages.values():
        counts += [one.get(what) if isinstance(one, dict) else None for what in ("runs", "rows", "seconds")]
    return all(isinstance(count, (int, float)) and math.isfinite(count) for count in counts)
