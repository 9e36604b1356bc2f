"""What a long run holds on to: memory, open files, threads and processor time, batch by batch, and the lines through them."""

from __future__ import annotations

import gc
import io
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from rich.console import Console

from tests.runs.toy import Toy, load_toy, resolve_toy
from wanlab.runs.cell import Workbench
from wanlab.runs.study import run_study

STUDY = """
name: soak
pipeline: toy
data: {{kind: procedural, split: test, n: {samples}, seed: 0}}
batch: 8
cells: {{{cells}}}
metrics: [psnr, flicker]
report: {{videos: 1, figures: []}}
"""
WARM = 0.5  # of the batches, before memory is looked at


@dataclass
class Readings:
    """One reading for each cell on each batch: MiB that are resident, open files, threads, and seconds of the processor so far."""

    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)

    def take(self) -> None:
        """Read all four."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        self.files.append(len(os.listdir("/proc/self/fd")))
        self.threads.append(threading.active_count())
        self.moments.append(time.process_time())    # not the clock: other work on the machine is not the run's

    def growth(self) -> tuple[float, float]:
        """MiB that a thousand further readings would add, and the standard error: least squares, after the warm-up."""
        return slope(np.array(self.memory[int(WARM * len(self.memory)) :]), 1000.0)

    def slowing(self) -> tuple[float, float]:
        """How much longer the last of the readings took than the first, as a share, and the standard error."""
        spans = np.diff(self.moments[int(WARM * len(self.moments)) :])
        rise, error = slope(np.minimum(spans, np.quantile(spans, 0.95)), float(len(spans)))
        return rise / spans.mean(), error / spans.mean()


def slope(values: np.ndarray, per: float) -> tuple[float, float]:
    """Least-squares slope of values over their places, and its standard error, both times `per`."""
    x = np.arange(len(values)) - (len(values) - 1) / 2
    rise = (x * (values - values.mean())).sum() / (x**2).sum()
    left = values - values.mean() - rise * x
    error = np.sqrt((left**2).sum() / (len(values) - 2) / (x**2).sum())
    return float(per * rise), float(per * error)


def soak(samples: int, cells: int, out: Path) -> Readings:
    """Run so many samples through so many cells of a small pipeline into `out`, all different in what they compute."""
    readings, part = Readings(), Workbench.part
    pyarrow.parquet.write_table(pyarrow.table({"one": [1.0]}), out.parent / "one.parquet")   # the first takes memory, once
    edits = [f"c{i}: {{edits: [{{kind: scale, at: generator.out, factor: {1 - i / 100}}}]}}" for i in range(1, cells)]
    (out.parent / "soak.yaml").write_text(STUDY.format(samples=samples, cells=", ".join(["baseline: ", *edits])))

    def watched(self: Workbench, task: object) -> object:
        found = part(self, task)
        if len(readings.memory) % 50 == 0:
            gc.collect()
        readings.take()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workbench, "part", watched)
        quiet = Console(file=io.StringIO())
        _, outcome = run_study(
            out.parent / "soak.yaml", out, (), "cpu", console=quiet, load=load_toy(Toy()), resolve=resolve_toy, report=False
        )
    assert len(outcome.done) == cells and not outcome.failed, outcome
    return readings
