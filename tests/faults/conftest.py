"""A small study as users run one: files on disk, `python -m wanlab run` as a process of its own, which can be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wanlab.pipelines.load import PRESETS
from wanlab.runs.logs import records

ROOT = Path(__file__).resolve().parents[2]
STUDY = """
name: faults
pipeline: {pipeline}
init: random
data: {{kind: procedural, split: test, n: 6, seed: 0}}
sampler: {{steps: 2}}
seeds: [0, 1]
batch: 1
cells:
  baseline:
  text: {{ablate: text}}
  residual: {{ablate: residual}}
  detail: {{ablate: detail}}
  late: {{edits: [{{kind: scale, at: detail.out, factor: 0.9}}]}}
metrics: [psnr, flicker]
report: {{videos: 1}}
"""
CELLS, TASKS = 5, 5 * 12


@dataclass
class Wanlab:
    """Starts runs of one study. `started` are the processes, all of which end with the test."""

    study: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, out: Path, *more: str) -> list[str]:
        """The command line of a run into `out`."""
        return [sys.executable, "-m", "wanlab", "run", str(self.study), "--out", str(out), "--threads", "1", *more]

    def start(self, out: Path, *more: str) -> subprocess.Popen[str]:
        """A run that goes on beside the test."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        process = subprocess.Popen(
            self.command(out, *more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a job in the background has not
        )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, out: Path, *more: str) -> tuple[int, str]:
        """A whole run: its exit code and what it said."""
        process = self.start(out, *more)
        said = process.communicate(timeout=600)[0]
        return process.returncode, said


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cascade like `tiny`, small enough to run many times: 4 frames of 32 x 32, random weights."""
    preset = json.loads((PRESETS / "tiny" / "pipeline.json").read_text())
    preset |= {"name": "small", "size": 32, "frames": 4, "sampler": {"steps": 2, "guidance": 2.0}}
    for stage in preset["stages"].values():
        for variant in stage["variants"].values():
            for key in ("file", "sha256", "provenance"):
                variant.pop(key, None)
            variant["config"] |= {key: size for key, size in (("size", 8), ("output", 32)) if key in variant["config"]}
    folder = tmp_path_factory.mktemp("small")
    (folder / "pipeline.json").write_text(json.dumps(preset))
    return folder


@pytest.fixture
def wanlab(pipeline: Path, tmp_path: Path) -> Iterator[Wanlab]:
    """Runs of the study as processes; whatever still goes at the end of the test is ended."""
    file = tmp_path / "faults.yaml"
    file.write_text(STUDY.format(pipeline=pipeline))
    runs = Wanlab(file)
    yield runs
    for process in runs.started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        if process.stdout is not None and not process.stdout.closed:
            process.communicate()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 300.0) -> None:
    """Until something has come to be, as long as the process goes on."""
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.fixture(scope="session")
def undisturbed(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "faults.yaml").write_text(STUDY.format(pipeline=pipeline))
    code, said = Wanlab(folder / "faults.yaml").run(folder / "out")
    assert code == 0, said
    return folder / "out"


def parts(root: Path) -> list[Path]:
    """What a run has saved of cells that are not finished."""
    return sorted(root.glob("cells/*/parts/[!.]*"))


def logs(root: Path) -> dict[str, list[dict]]:
    """The attempts of each cell."""
    return {path.parent.name: records(path) for path in sorted(root.glob("cells/*/attempts.jsonl"))}
