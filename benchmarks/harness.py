"""What all benchmarks here share: rows, interleaved rounds, medians with intervals, fresh processes, the machine, the command line.

A benchmark is a docstring that states its workload and a generator `rows(quick, device)`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# benchmarks/metrics.py has the name of the package that it measures: this folder is looked through last
sys.path.sort(key=lambda entry: Path(entry or ".").resolve() == ROOT / "benchmarks")
HELD = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # for `fresh`: glibc then returns what is freed; left alone it keeps some of it


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


def interval(values: list[float]) -> tuple[float, float]:
    """95 % interval of the median by a seeded bootstrap."""
    import numpy as np

    draws = np.random.default_rng(0).choice(values, (4000, len(values)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(low), float(high)


@dataclass
class Median(Row):
    """A median over rounds with its interval."""

    interval: tuple[float, float] | None = None


def measured(name: str, values: list[float], unit: str, target: float | None = None) -> Median:
    """The row of a figure that was measured in every round."""
    low, high = interval(values)
    met = None if target is None else low <= target
    return Median(name, statistics.median(values), unit, target, met, interval=(low, high))


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def timed(action: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds of one call: of this process's CPU; on cuda of the wall, until the device is done."""
    if not device.startswith("cuda"):
        start = time.process_time()
        action()
        return time.process_time() - start
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def interleaved(subjects: Mapping[str, Callable[[], Any]], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each subject in each round, after one turn each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(-1, rounds):
        for name in random.Random(turn).sample(list(subjects), len(subjects)):
            spent = timed(subjects[name], device)
            if turn >= 0:
                seconds[name].append(spent)
    return seconds


def repeated(action: Callable[[], Any], count: int) -> Callable[[], None]:
    """The action as a loop."""
    def loop() -> None:
        for _ in range(count):
            action()

    return loop


def peers(wanted: Mapping[str, str]) -> dict[str, str]:
    """Versions of the peers (package -> start of the version that is meant); one that is absent, or another, ends the benchmark."""
    found = {}
    for name, start in wanted.items():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            sys.exit(f"this measures beside {name}, which is not installed: pip install -c constraints.txt -e .[bench]")
        if not found[name].startswith(start):
            sys.exit(f"this measures beside {name} {start}*, but {found[name]} is installed")
    return found


def shown(row: Row) -> str:
    """One line for the terminal."""
    if row.value is None:
        return f"{row.name:<50}    skipped: {row.skipped}"
    spread = getattr(row, "interval", None)
    note = f"   [{spread[0]:.4g}, {spread[1]:.4g}]" if spread else ""
    note += "" if row.met is None else f"   target {row.target:g}: {'met' if row.met else 'NOT met'}"
    return f"{row.name:<50} {row.value:10.4f} {row.unit}{note}"


def main(doc: str | None, rows: Callable[[bool, str], Iterator[Row]], wanted: Mapping[str, str] | None = None) -> int:
    """The command line of a benchmark: measure on one thread, print as a table, write the JSON file if asked."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 5 minutes on 2 cores")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows and the machine here")
    options = parser.parse_args()
    versions = {"peers": peers(wanted)} if wanted else {}
    import torch

    torch.set_num_threads(1)
    workload = "quick" if options.quick else "full"
    result: dict[str, Any] = {"machine": machine(options.device) | versions, "workload": workload, "rows": []}
    for row in rows(options.quick, options.device):
        result["rows"].append(asdict(row))
        print(shown(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0
