"""Logs of a run: one JSON object to a line, appended; whoever reads them passes over what a kill or a disk has damaged."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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


def speaks(line: Mapping[str, Any]) -> bool:
    """Whether a line of a cell's log speaks of a batch, and what it counted is numbers."""
    stages = line.get("stages", {})
    if not isinstance(line.get("chunk"), int) or not isinstance(stages, dict):
        return False
    counts = [line.get(what, 0) for what in ("rows", "metrics")]
    for one in stages.values():
        counts += [one.get(what) if isinstance(one, dict) else None for what in ("runs", "rows", "seconds")]
    return all(isinstance(count, (int, float)) and math.isfinite(count) for count in counts)
