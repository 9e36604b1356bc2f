#!/usr/bin/env python3
"""Speed of the main job on this machine: import, first video, seconds per sample and stage, quickstart, sharing.

    .venv/bin/python benchmarks/demo.py [--quick] [--device cpu|cuda] [--json FILE]

Workload (fixed): preset tiny, 8 frames of 128 x 128, 8 steps with guidance, prompts and first frames of the test split.

    what                                  --quick             full
    import wanlab over import torch       5 fresh processes   15
    wanlab.load over import wanlab        2 fresh processes   5
    first video, from process start       1 fresh process     3
    each stage, batch of 8 and of 1       2 rounds            5       (medians, one warm-up round)
    quickstart, sharing on and off        8 samples, once     48 samples, once
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# benchmarks/metrics.py has the name of the package that it measures: this folder is looked through last
sys.path.sort(key=lambda entry: Path(entry or ".").resolve() == ROOT / "benchmarks")
STUDY = "experiments/quickstart.yaml"
IMPORT_TARGET = 0.3  # seconds over `import torch`
STUDY_TARGET = 300.0  # seconds for the full quickstart on two cores
BATCHES = (8, 1)

IMPORT = "import time, torch; t = time.perf_counter(); import wanlab; print(time.perf_counter() - t)"
LOAD = "import time, wanlab, torch; t = time.perf_counter(); wanlab.load('tiny'); print(time.perf_counter() - t)"
FIRST = """
import sys, wanlab
pipe = wanlab.load("tiny").to(sys.argv[1])
sample = wanlab.World(size=128, split="test")[0]
print(pipe.generate(sample.video[0], sample.caption, seed=0, steps=8).video.shape)
"""


@dataclass
class Row:
    """One measured number. `met` says whether it is at or below `target`; both None where there is no target."""

    name: str
    value: float | None
    unit: str
    target: float | None = None
    met: bool | None = None
    skipped: str | None = None

    @classmethod
    def of(cls, name: str, value: float, unit: str, target: float | None = None) -> Row:
        """A row whose target, if any, is an upper bound."""
        return cls(name, float(value), unit, target, None if target is None else value <= target)


def machine(device: str) -> dict[str, Any]:
    """What the numbers depend on: processor, memory, versions, threads, load before the start."""
    import psutil
    import torch

    import wanlab

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        cpu = models[0] if models else cpu
    return {
        "cpu": cpu, "cores": psutil.cpu_count(), "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") and torch.cuda.is_available() else None,
        "device": device, "threads": torch.get_num_threads(), "system": platform.platform(),
        "python": platform.python_version(), "torch": torch.__version__, "wanlab": wanlab.__version__,
    }  # fmt: skip


def fresh(code: str, *arguments: str, **variables: str) -> str:
    """Standard output of a fresh Python process that ran `code`; its error text in the exception if it failed."""
    run = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, env=os.environ | variables, capture_output=True,
                         text=True)
    if run.returncode:
        raise RuntimeError(f"a fresh process failed:\n{run.stderr}")
    return run.stdout


def timed(action: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def importing(quick: bool) -> Iterator[Row]:
    """How much longer the process takes for `import wanlab` once torch is there."""
    seconds = [float(fresh(IMPORT)) for _ in range(5 if quick else 15)]
    yield Row.of("import wanlab, over import torch", statistics.median(seconds), "s", IMPORT_TARGET)
    seconds = [float(fresh(LOAD)) for _ in range(2 if quick else 5)]
    yield Row.of('wanlab.load("tiny"), over import wanlab', statistics.median(seconds), "s")


def first_video(quick: bool, device: str) -> Iterator[Row]:
    """From the start of a process, imports and weights included, to the first video."""
    seconds = [timed(lambda: fresh(FIRST, device)) for _ in range(1 if quick else 3)]
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


def shown(row: Row) -> str:
    """One line for the terminal."""
    if row.value is None:
        return f"{row.name:<50}    skipped: {row.skipped}"
    note = "" if row.met is None else f"   target {row.target:g}: {'met' if row.met else 'NOT met'}"
    return f"{row.name:<50} {row.value:10.4f} {row.unit}{note}"


def main() -> int:
    """Measure, print as a table, and write the JSON file if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 5 minutes on 2 cores")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows and the machine here")
    options = parser.parse_args()
    workload = "quick" if options.quick else "full"
    result: dict[str, Any] = {"machine": machine(options.device), "workload": workload, "rows": []}
    for row in rows(options.quick, options.device):
        result["rows"].append(asdict(row))
        print(shown(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
