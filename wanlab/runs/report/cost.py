"""What a run cost and what sharing saved, from the logs of its cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import Any

from ..logs import finished, spent
from ..progress import clock
from ..store import CellFolder


def seconds_per_sample(cells: Mapping[str, CellFolder]) -> dict[str, float]:
    """Seconds that a sample of each cell takes where nothing is shared: of stages that a cell found in the cache, those of
    the cells that ran the same weights under the same sampler (the median), else of all cells that ran the stage."""
    own: dict[tuple[str, str], float] = {}
    alike: dict[tuple[str, str, str], list[float]] = {}
    kinds: dict[tuple[str, str], tuple[str, str, str]] = {}
    for name, cell in cells.items():
        said = cell.description()
        _, rows, seconds = spent(finished(cell.attempts()))
        for stage, weights in said["weights"].items():
            kinds[name, stage] = (stage, str(weights), str(said["sampler"]))
            if rows[stage]:
                own[name, stage] = seconds[stage] / rows[stage]
                alike.setdefault(kinds[name, stage], []).append(own[name, stage])
    anywhere: dict[str, list[float]] = {}
    for (_, stage), value in own.items():
        anywhere.setdefault(stage, []).append(value)
    usual = {kind: median(values) for kind, values in alike.items()}
    somewhere = {stage: median(values) for stage, values in anywhere.items()}
    found = dict.fromkeys(cells, 0.0)
    for (name, stage), kind in kinds.items():
        found[name] += own.get((name, stage)) or usual.get(kind) or somewhere.get(stage, 0.0)
    return found


def sharing(cells: Mapping[str, CellFolder]) -> dict[str, Any]:
    """Stage runs that would have been needed without sharing and those that were made, with the time of both.

    A stage that forks runs in pieces (some denoising steps each), so the share of its work says more than its runs.
    """
    lines = {name: finished(cell.attempts()) for name, cell in cells.items()}
    runs, rows, seconds = spent(line for done in lines.values() for line in done)
    metrics, samples = seconds.pop("metrics", 0.0), rows.pop("metrics", 0)
    alone = Counter[str]()
    for name, cell in cells.items():
        alone.update({stage: len(lines[name]) for stage in cell.description()["weights"]})
    order = list(alone)
    each = {stage: seconds[stage] / rows[stage] if rows[stage] else 0.0 for stage in order}
    made, saved = sum(seconds.values()), sum(each[stage] * samples - seconds[stage] for stage in order)
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
        "spent": clock(made),
        "unshared": clock(made + max(saved, 0.0)),
    }
