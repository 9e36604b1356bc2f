"""What a run cost and what sharing saved, from the logs of its cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import Any

from ..progress import clock
from ..store import CellFolder


def finished(cell: CellFolder) -> list[dict[str, Any]]:
    """The log's last record of each batch that was finished."""
    return list({record["chunk"]: record for record in cell.attempts() if record.get("state") == "ok"}.values())


def seconds_per_sample(cells: Mapping[str, CellFolder]) -> dict[str, float]:
    """Seconds that a sample of each cell takes where nothing is shared: of stages that a cell found in the cache, those of
    the cells that ran the same weights under the same sampler (the median), else of all cells that ran the stage."""
    own: dict[tuple[str, str], float] = {}
    alike: dict[tuple[str, str, str], list[float]] = {}
    kinds: dict[tuple[str, str], tuple[str, str, str]] = {}
    for name, cell in cells.items():
        said = cell.description()
        seconds, rows = _totals(cell)
        for stage, weights in said["weights"].items():
            kinds[name, stage] = (stage, str(weights), str(said["sampler"]))
            if rows[stage]:
                own[name, stage] = seconds[stage] / rows[stage]
                alike.setdefault(kinds[name, stage], []).append(own[name, stage])
    anywhere: dict[str, list[float]] = {}
    for (_, stage), value in own.items():
        anywhere.setdefault(stage, []).append(value)
    return {
        name: sum(
            own.get((name, stage)) or median(alike.get(kinds[name, stage]) or anywhere.get(stage) or [0.0])
            for stage in cell.description()["weights"]
        )
        for name, cell in cells.items()
    }


def _totals(cell: CellFolder) -> tuple[Counter[str], Counter[str]]:
    """Seconds and rows per stage that a cell itself computed."""
    seconds, rows = Counter[str](), Counter[str]()
    for record in finished(cell):
        for stage, counts in record.get("stages", {}).items():
            seconds[stage] += counts["seconds"]
            rows[stage] += counts["rows"]
    return seconds, rows


def sharing(cells: Mapping[str, CellFolder]) -> dict[str, Any]:
    """Stage runs that would have been needed without sharing and those that were made, with the time of both.

    A stage that forks runs in pieces (some denoising steps each), so the share of its work says more than its runs.
    """
    runs, seconds, rows, alone = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    samples, metrics, order = 0, 0.0, []
    for cell in cells.values():
        done = finished(cell)
        stages = list(cell.description()["weights"])
        order += [stage for stage in stages if stage not in order]
        for record in done:
            metrics += record.get("metrics", 0.0)
            samples += record.get("rows", 0)
            alone.update(stages)
            for stage, counts in record.get("stages", {}).items():
                runs[stage] += counts["runs"]
                rows[stage] += counts["rows"]
                seconds[stage] += counts["seconds"]
    each = {stage: seconds[stage] / rows[stage] if rows[stage] else 0.0 for stage in order}
    spent, saved = sum(seconds.values()), sum(each[stage] * samples - seconds[stage] for stage in order)
    stages = [
        {
            "name": stage,
            "alone": alone[stage],
            "runs": runs[stage],
            "seconds": clock(seconds[stage]),
            "each": f"{each[stage]:.3f} s" if rows[stage] else "–",
            "share": 100 * min(1.0, rows[stage] / samples) if samples else 0.0,  # of its work: a run may be some steps only
        }
        for stage in order
    ]
    return {
        "stages": stages,
        "alone": sum(alone.values()),
        "runs": sum(runs.values()),
        "metrics": clock(metrics),
        "spent": clock(spent),
        "unshared": clock(spent + max(saved, 0.0)),
    }
