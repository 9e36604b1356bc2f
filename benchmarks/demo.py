#!/usr/bin/env python3
"""Speed of the main job on this machine: import, first video, seconds per sample and stage, quickstart, sharing.

    .venv/bin/python benchmarks/demo.py [--quick] [--device cpu|cuda] [--json FILE]

Workload (fixed): preset tiny, 8 frames of 128 x 128, 8 steps with guidance, prompts and first frames of the test split.

    what                                  --quick             full
    import wanlab over import torch       5 fresh processes   15
    wanlab --help, from process start     5                   15
    wanlab.load over import wanlab        2 fresh processes   5
    first video, from process start       1 fresh process     3
    each stage, batch of 8 and of 1       2 rounds            5       (medians, one warm-up round)
    quickstart, sharing on and off        8 samples, once     48 samples, once
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import ROOT, Row, fresh, main

STUDY = "experiments/quickstart.yaml"
IMPORT_TARGET = 0.3  # seconds over `import torch`
HELP_TARGET = 1.0  # seconds until `wanlab --help` has answered
STUDY_TARGET = 300.0  # seconds for the full quickstart on two cores
BATCHES = (8, 1)

IMPORT = "import time, torch; t = time.perf_counter(); import wanlab; print(time.perf_counter() - t)"
HELP = "import sys; from wanlab.cli import main; sys.argv = ['wanlab', '--help']; main()"
LOAD = "import time, wanlab, torch; t = time.perf_counter(); wanlab.load('tiny'); print(time.perf_counter() - t)"
FIRST = """
import sys, wanlab
pipe = wanlab.load("tiny").to(sys.argv[1])
sample = wanlab.World(size=128, split="test")[0]
print(pipe.generate(sample.video[0], sample.caption, seed=0, steps=8).video.shape)
"""


def waited(action: Callable[[], Any]) -> float:
    """Seconds of the wall for one call, fresh processes included."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def importing(quick: bool) -> Iterator[Row]:
    """How much longer the process takes for `import wanlab` once torch is there; how long the command takes to say what it can."""
    seconds = [float(fresh(IMPORT)) for _ in range(5 if quick else 15)]
    yield Row.of("import wanlab, over import torch", statistics.median(seconds), "s", IMPORT_TARGET)
    seconds = [waited(lambda: fresh(HELP)) for _ in range(5 if quick else 15)]
    yield Row.of("wanlab --help, from process start", statistics.median(seconds), "s", HELP_TARGET)
    seconds = [float(fresh(LOAD)) for _ in range(2 if quick else 5)]
    yield Row.of('wanlab.load("tiny"), over import wanlab', statistics.median(seconds), "s")


def first_video(quick: bool, device: str) -> Iterator[Row]:
    """From the start of a process, imports and weights included, to the first video."""
    seconds = [waited(lambda: fresh(FIRST, device)) for _ in range(1 if quick else 3)]
    yield Row.of("first video, from process start", statistics.median(seconds), "s")


def stages(quick: bool, device: str) -> Iterator[Row]:
    """Seconds per sample of each node of the graph, at two batch sizes."""
    import torch

    import wanlab

    pipe = wanlab.load("tiny").to(device)
    world = wanlab.World(size=128, split="test")
    for b in BATCHES:
        clips = [world[i] for i in range(b)]
        images = torch.stack([clip.video[0] for clip in clips])
        request = pipe.request(images, [clip.caption for clip in clips], list(range(b)), steps=8)
        seconds: dict[str, list[float]] = {node.name: [] for node in pipe.nodes}
        for _ in range(1 + (2 if quick else 5)):
            outputs: dict[str, Any] = {}
            for node in pipe.nodes:
                start = time.perf_counter()
                outputs[node.name] = pipe.run_node(node.name, outputs, request)  # ends with a copy to the CPU
                seconds[node.name].append(time.perf_counter() - start)
        medians = {name: statistics.median(rounds[1:]) / b for name, rounds in seconds.items()}
        for name, value in medians.items():
            yield Row.of(f"{name}, batch {b}", value, "s/sample")
        yield Row.of(f"all stages, batch {b}", sum(medians.values()), "s/sample")


def quickstart(n: int, out: Path, device: str, *settings: str) -> float:
    """Wall-clock seconds of `wanlab run` with `n` samples, report included."""
    command = [str(Path(sys.executable).with_name("wanlab")), "run", STUDY, "--out", str(out), "--device", device]
    for setting in (f"data.n={n}", *settings):
        command += ["--set", setting]
    start = time.perf_counter()
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}")
    return time.perf_counter() - start


def sharing(quick: bool, device: str) -> Iterator[Row]:
    """The whole study, with stage outputs shared between cells and without."""
    n = 8 if quick else 48
    folder = Path(tempfile.mkdtemp(prefix="wanlab-bench-"))
    try:
        shared = quickstart(n, folder / "on", device)
        alone = quickstart(n, folder / "off", device, "cache.memory_gib=0")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    yield Row.of(f"quickstart, {n} samples", shared, "s", None if quick else STUDY_TARGET)
    yield Row.of(f"quickstart, {n} samples, nothing shared", alone, "s")
    yield Row.of(f"quickstart, {n} samples, shared / nothing shared", shared / alone, "ratio", 1.0)


def rows(quick: bool, device: str) -> Iterator[Row]:
    """All rows; where there is no such device, those that need it are skipped with the reason."""
    import torch

    yield from importing(quick)
    if device.startswith("cuda") and not torch.cuda.is_available():
        for name in ("first video, from process start", "all stages", "quickstart"):
            yield Row(name, None, "s", skipped="no CUDA device on this machine")
        return
    yield from first_video(quick, device)
    yield from stages(quick, device)
    yield from sharing(quick, device)


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
