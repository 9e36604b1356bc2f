#!/usr/bin/env python3
"""Two Ray workers of one thread beside this process with two threads, on the same cells.

    .venv-ray/bin/python benchmarks/workers.py [--quick] [--json FILE]

Workload (fixed): preset tiny, 4 steps with guidance, batches of 2 samples, the cells of STUDY, two metrics. A round is 4 batches
that neither has seen, so that nothing is found in a cache; the order of the two changes from round to round; wall time, from
the first group handed out to the last result delivered. The start of the cluster and of its workers is a row of its own.

    what                    --quick    full
    rounds                  3          7
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from demo import Row, machine, shown
from hooks import measured, ratios

TARGET = 1.15  # of this process's time, beyond the start
WORKERS, BATCHES, BATCH = 2, 4, 2
STUDY = """
name: workers
data: {kind: procedural, split: test, n: %d, seed: 3}
sampler: {steps: 4, guidance: 1.5}
batch: %d
cells:
  baseline:
  residual: {ablate: residual}
  detail: {ablate: detail}
  gan_head: {ablate: gan_head}
  text: {ablate: text}
metrics: [psnr, flicker]
reference: data
report: {videos: 0}
"""


def rows(quick: bool) -> Iterator[Row]:
    """The start, both times, and their ratio; skipped where Ray is not installed."""
    if find_spec("ray") is None:
        why = "ray is not installed here: it has an environment of its own (dev.py env --venv .venv-ray --extras dev,ray)"
        yield Row("two workers of one thread / this process with two", None, "ratio", TARGET, skipped=why)
        return
    from wanlab.runs.environment import threads
    from wanlab.runs.inline import Inline
    from wanlab.runs.ray import Ray

    rounds = 3 if quick else 7
    text = STUDY % (BATCH * BATCHES * (rounds + 1), BATCH)
    subjects = {"inline": (Inline(), 2), "ray": (Ray(workers=WORKERS), 1)}
    benches, seconds = {}, {name: [] for name in subjects}
    try:
        for name, (engine, each) in subjects.items():
            with threads(each):
                benches[name] = opened(text, engine)
        for turn in range(rounds + 1):
            for name in random.Random(turn).sample(list(subjects), len(subjects)):
                engine, each = subjects[name]
                with threads(each):
                    seconds[name].append(spent(engine, benches[name], turn))
    finally:
        for engine, _ in subjects.values():
            engine.close()
    yield Row.of("two workers: start, and the first round", seconds["ray"][0], "s")
    inline, ray = seconds["inline"][1:], seconds["ray"][1:]
    yield measured("this process, two threads", inline, "s/round")
    yield measured("two workers of one thread", ray, "s/round")
    yield measured("two workers of one thread / this process with two", ratios(ray, inline), "ratio", TARGET)


def opened(text: str, engine: Any) -> Any:
    """The workbench of the workload, for an engine."""
    from wanlab.runs.cell import open_workbench
    from wanlab.runs.reading import parse_study

    engine.prepare("cpu")
    study, document = parse_study(text)
    return open_workbench(study, document)


def spent(engine: Any, bench: Any, turn: int) -> float:
    """Seconds of one round: its batches, evaluated and delivered."""
    from wanlab.runs.cell import Failure

    groups = [group for group in bench.plan.groups() if turn * BATCHES <= group.chunk < (turn + 1) * BATCHES]
    results: list[Any] = []
    start = time.perf_counter()
    engine.run(bench, iter(groups), lambda task, result: results.append(result))
    seconds = time.perf_counter() - start
    wrong = [result.message for result in results if isinstance(result, Failure)]
    if wrong or len(results) != sum(len(group.cells) for group in groups):
        raise RuntimeError(f"not every cell was made: {wrong[:1]}")
    return seconds


def main() -> int:
    """Measure, print as a table, and write the JSON file if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 5 minutes on 2 cores")
    parser.add_argument("--device", default="cpu", choices=["cpu"], help="threads of a CPU are what is compared")
    parser.add_argument("--json", type=Path, help="write the rows and the machine here")
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(options.device), "workload": "quick" if options.quick else "full", "rows": []}
    for row in rows(options.quick):
        result["rows"].append(asdict(row))
        print(shown(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
