#!/usr/bin/env python3
"""What sharing saves in a study, what the runner costs, and whether memory stays flat.

    .venv/bin/python benchmarks/studies.py [--quick] [--device cpu|cuda] [--json FILE]

Workload (fixed): 30 cells on preset tiny, 32 steps with guidance 1.5; 23 of them leave denoising alone. 12 edit the detail stage
and its GAN head, 8 the second super-resolution stage, 3 the first, 6 the last one to four denoising steps, and one is the
baseline. Plainly: each cell by itself, cache, forks and packs off. Shared: as a study runs by itself (on cuda with packs of 4).

    what                                         --quick              full
    generation, plain and shared, in turn        2 rounds, 1 sample   3 rounds, 8 samples in batches of 4
    the same with packs of 4                     1 round              3
    the runner beside pipe.generate, 8 steps     30 cells, 1 sample   30 cells, 3 rounds
    the whole run beside pipe.generate, 8 steps  30 cells, 1 sample   30 cells, 3 rounds
    peak memory, few and many cells, samples     1 fresh process each 3
    ray beside inline                            1 round, 4 samples   3, where ray is installed

The row of ray compares wall time on the same work, metrics included: two workers of one thread each beside this process on one
thread, from the third group on, when ray and both workers are up. It needs two cores that nobody else uses, and an environment
with ray and without JupyterLab: python3.11 dev.py env --venv .venv-ray --extras dev,ray

The runner is what stands between a cell and its video; the whole run is `wanlab run` from the study file to results.csv: weights
read, keys, rows, folders and statistics beside 30 short cells, so that what is paid once weighs more than in a real study.

Times are seconds of this process's CPU (other work on the machine does not count), on cuda and for ray of the wall. Metrics and
the encoding of videos are outside the clock. Shared and plain must give the same bytes, and as many stage runs as planned, or
the benchmark ends.
"""

from __future__ import annotations

import io
import random
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness import HELD, Row, fresh, main, measured, ratios, timed
from rich.console import Console

SPEED_TARGET = 1 / 4        # shared over plain
RUNNER_TARGET = 1.03        # the runner over the bare calls
MEMORY_TARGET = 1.05        # many over few
RAY_TARGET = 1.15           # two workers over inline
PIXEL_TARGET = 1e-5         # packed and not

DETAIL = {
    "gan": "zero, at: detail.gan", "gan_half": "scale, at: detail.gan, factor: 0.5",
    "gan_more": "scale, at: detail.gan, factor: 1.5", "gan_late": "zero, at: detail.gan, frames: '4:'",
    "gan_still": "freeze_frame, at: detail.gan", "gan_slow": "low_pass_frames, at: detail.gan, window: 3",
    "gan_mixed": "shuffle_frames, at: detail.gan", "noise": "zero, at: detail.noise", "detail": "bypass, at: detail.out",
    "content": "zero, at: detail.content", "content_half": "scale, at: detail.content, factor: 0.5",
    "content_more": "scale, at: detail.content, factor: 1.5",
}  # fmt: skip
SECOND = {
    "skip": "zero, at: upsample.1.residual.skip", "skip_half": "scale, at: upsample.1.residual.skip, factor: 0.5",
    "branch": "zero, at: upsample.1.residual.branch", "branch_half": "scale, at: upsample.1.residual.branch, factor: 0.5",
    "block0": "zero, at: upsample.1.blocks.0.branch", "block1": "zero, at: upsample.1.blocks.1.branch",
    "block2": "zero, at: upsample.1.blocks.2.branch", "frames": "bypass, at: upsample.1.blocks.*.temporal.out",
}  # fmt: skip
FIRST = {
    "skip0": "zero, at: upsample.0.residual.skip", "branch0": "zero, at: upsample.0.residual.branch",
    "frames0": "bypass, at: upsample.0.blocks.*.temporal.out",
}  # fmt: skip
LATE = {
    f"{name}_{left}": f"{what}, steps: '-{left}:'" for left in (1, 2, 4)
    for name, what in (("mid", "zero, at: generator.mid.temporal.attn.z"), ("temporal", "bypass, at: generator.**.temporal.out"))
}  # fmt: skip
EDITS = {**DETAIL, **SECOND, **FIRST, **LATE}
CELLS = "".join(f"  {name}: {{edits: [{{kind: {edit}}}]}}\n" for name, edit in EDITS.items())
STUDY = f"""
name: benchmark
pipeline: tiny
data: {{kind: procedural, split: test, n: 1}}
sampler: {{steps: 32, guidance: 1.5}}
batch: 4
metrics: [psnr]
report: {{videos: 0}}
cells:
  baseline:
{CELLS}"""
PLAIN = ("share.cache=false", "share.fork=false", "share.pack=1")

MEMORY = """
import json, re, resource, sys
import torch
from wanlab.runs.cell import open_workbench
from wanlab.runs.reading import parse_study
torch.set_num_threads(1)
cells, samples = int(sys.argv[1]), int(sys.argv[2])
edits = {f"c{i}": {"edits": [{"kind": "scale", "at": "detail.gan", "factor": 1 + i / 100}]} for i in range(cells)}
study = {"name": "m", "data": {"kind": "procedural", "n": samples}, "sampler": {"steps": 1}, "batch": 1, "metrics": ["psnr"],
         "cells": {"baseline": None, **edits}}
bench = open_workbench(*parse_study(json.dumps(study)))

def bytes_of(what):
    return 1024 * int(re.search(what + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1])

linux = sys.platform == "linux"
if linux:
    open("/proc/self/clear_refs", "w").write("5")       # the peak of what comes, not of reading the weights
before = bytes_of("VmRSS") if linux else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for group in bench.plan.groups():
    for task, part in bench.evaluate(group):
        assert hasattr(part, "values"), part
print((bytes_of("VmHWM") if linux else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) - before)
"""


def opened(*sets: str, device: str = "cpu") -> Any:
    """The workbench of the study."""
    from wanlab.runs.cell import open_workbench
    from wanlab.runs.reading import parse_study

    study, document = parse_study(STUDY, sets)
    return open_workbench(study, document, device)


def made(bench: Any) -> dict[Any, Any]:
    """Every cell on every batch by the runner, without metrics: task -> video."""
    videos: dict[Any, Any] = {}
    names = iter([task for group in bench.plan.groups() for task in group])

    def kept(video: Any, *_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        videos[next(names)] = video
        return {}, {}

    bench._measure = kept       # metrics are outside the clock
    for group in bench.plan.groups():
        for task, result in bench.evaluate(group):
            if hasattr(result, "traceback"):
                raise RuntimeError(f"{task}: {result.traceback}")
    return videos


def clocked(device: str, *sets: str) -> tuple[float, Any, dict[Any, Any]]:
    """Seconds of one study's generation, its workbench and its videos. Raises where not exactly what was planned has run."""
    bench, videos = opened(*sets, device=device), {}
    planned = bench.plan.stage_runs()
    seconds = timed(lambda: videos.update(made(bench)), device)
    tally = bench.cache.tally
    if tally.runs != planned.shared or +tally.steps != +planned.steps:
        raise RuntimeError(f"planned {dict(planned.shared)}, steps {dict(planned.steps)}; ran {tally.to_dict()}")
    return seconds, bench, videos


def apart(one: dict[Any, Any], other: dict[Any, Any]) -> float:
    """The largest difference of a pixel."""
    return max(float((one[task] - other[task]).abs().max()) for task in one)


def sharing(quick: bool, device: str) -> Iterator[Row]:
    """The study plainly, shared, and with packs, in turn."""
    size = ("data.n=1",) if quick else ("data.n=8",)
    ways = {"plain": PLAIN, "shared": ("share.pack=1",), "packed": ("share.pack=4",)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    differences: list[float] = []
    clocked(device, *size, "sampler.steps=1")       # a turn that does not count
    planned: Any = None
    for turn in range(2 if quick else 3):
        found = {}
        for way in random.Random(turn).sample(list(ways), len(ways)):
            if way == "packed" and quick and turn:
                continue
            spent, bench, found[way] = clocked(device, *size, *ways[way])
            seconds[way].append(spent)
            planned = bench.plan.stage_runs() if way == "shared" else planned
        if device == "cpu" and apart(found["plain"], found["shared"]) > 0:
            raise RuntimeError("shared and plain cells differ")
        differences += [apart(found["plain"], found[way]) for way in found if way != "plain"]
    everything = "packed" if device.startswith("cuda") else "shared"
    yield measured("30 cells, plain", seconds["plain"], "s")
    yield measured("30 cells, shared", seconds["shared"], "s")
    yield measured("30 cells, shared / plain", ratios(seconds[everything], seconds["plain"]), "ratio", SPEED_TARGET)
    yield Row.of("stage runs alone", sum(planned.alone.values()), "runs")
    yield Row.of("stage runs shared, as planned", sum(planned.shared.values()), "runs")
    yield Row.of("denoising steps alone", sum(planned.steps_alone.values()), "steps")
    yield Row.of("denoising steps shared, as planned", sum(planned.steps.values()), "steps")
    pairs = ratios(seconds["packed"], seconds["shared"][:len(seconds["packed"])])
    yield measured("30 cells, shared and packed by 4 / shared", pairs, "ratio")
    yield Row.of("packed, largest difference of a pixel", max(differences), "of [0, 1]", PIXEL_TARGET)


def runner(quick: bool, device: str) -> Iterator[Row]:
    """Each cell by itself through the runner, and by pipe.generate, in turn."""
    import torch

    from wanlab.runs.plan import Group

    bench = opened(*PLAIN, "sampler.steps=8", device=device)
    chunk = bench.plan.chunks[0]
    first, prompts = bench.source.clips(chunk.indices).first, bench.source.prompts(chunk.indices)
    given: dict[Any, Any] = {}

    def ours(name: str) -> None:
        bench._measure = lambda video, *_: given.update({ours: video}) or ({}, {})
        [(_, part)] = bench.evaluate(Group(0, (name,)))
        if hasattr(part, "traceback"):
            raise RuntimeError(part.traceback)

    def bare(name: str) -> None:
        cell = bench.plan.cells[name]
        given[bare] = cell.pipe.generate(first, prompts, chunk.noise_seeds, steps=cell.sampler.steps,
                                         guidance=cell.sampler.guidance, edits=cell.edits).video

    shares = []
    for turn in range(-1, 1 if quick else 3):
        for name in list(bench.plan.cells)[:2] if turn < 0 else bench.plan.cells:
            spent = {}
            for way in random.Random(f"{turn}{name}").sample([ours, bare], 2):
                spent[way] = timed(lambda way=way, name=name: way(name), device)
            if not torch.equal(given[ours], given[bare]):
                raise RuntimeError(f"{name}: the runner and the bare call differ")
            if turn >= 0:
                shares.append(spent[ours] / spent[bare])
    yield measured("a cell by the runner / by pipe.generate", shares, "ratio", RUNNER_TARGET)


def whole(quick: bool, device: str) -> Iterator[Row]:
    """All that a run does but measuring and the report, beside the bare calls on a pipeline that is there."""
    from wanlab.runs.cell import Workbench
    from wanlab.runs.study import run_study

    bench = opened(*PLAIN, "sampler.steps=8", device=device)
    chunk, measure = bench.plan.chunks[0], Workbench._measure
    first, prompts = bench.source.clips(chunk.indices).first, bench.source.prompts(chunk.indices)
    measuring: list[float] = []

    def clocked_measure(*given: Any) -> Any:
        found: list[Any] = []
        measuring.append(timed(lambda: found.append(measure(*given)), device))
        return found[0]

    def ours(folder: Path) -> None:
        (folder / "study.yaml").write_text(STUDY)
        _, outcome = run_study(folder / "study.yaml", folder / "run", (*PLAIN, "sampler.steps=8"), device, report=False,
                               console=Console(file=io.StringIO()))
        if outcome.failed or len(outcome.done) != len(bench.plan.cells):
            raise RuntimeError(f"{len(outcome.done)} cells done, {len(outcome.failed)} failed")

    def bare() -> None:
        for cell in bench.plan.cells.values():
            cell.pipe.generate(first, prompts, chunk.noise_seeds, steps=cell.sampler.steps, guidance=cell.sampler.guidance,
                               edits=cell.edits)

    shares = []
    Workbench._measure = clocked_measure        # metrics are outside the clock
    try:
        for turn in range(1 if quick else 3):
            spent: dict[str, float] = {}
            for way in random.Random(turn).sample(["ours", "bare"], 2):
                with TemporaryDirectory() as folder:
                    measuring.clear()
                    taken = timed((lambda: ours(Path(folder))) if way == "ours" else bare, device)
                    spent[way] = taken - sum(measuring)
            shares.append(spent["ours"] / spent["bare"])
    finally:
        Workbench._measure = measure
    yield measured("a study by wanlab run, without metrics and report / by pipe.generate", shares, "ratio")


def memory(quick: bool) -> Iterator[Row]:
    """Peak memory over that of the opened workbench, with few and many cells and samples."""
    sizes = {"few": (4, 2), "cells": (24, 2), "samples": (4, 12)}
    peaks: dict[str, list[float]] = {name: [] for name in sizes}
    for _ in range(1 if quick else 3):
        for name, (cells, samples) in sizes.items():
            peaks[name].append(float(fresh(MEMORY, str(cells), str(samples), **HELD)) / 2**20)
    yield measured("peak memory, 5 cells, 2 samples", peaks["few"], "MiB")
    yield measured("peak memory, 25 cells / 5", ratios(peaks["cells"], peaks["few"]), "ratio", MEMORY_TARGET)
    yield measured("peak memory, 12 samples / 2", ratios(peaks["samples"], peaks["few"]), "ratio", MEMORY_TARGET)


def engines(quick: bool, device: str) -> Iterator[Row]:
    """Two ray workers of one thread beside inline, from the workers' being ready to the last cell, metrics included."""
    name = "ray, two workers of one thread / inline, beyond its start"
    if find_spec("ray") is None:
        yield Row(name, None, "ratio", RAY_TARGET, skipped="ray is not installed here: pip install -e .[ray]")
        return
    from wanlab.runs.engine import make_engine

    size = ("data.n=4", "batch=1", "sampler.steps=8")
    shares = []
    for _ in range(1 if quick else 3):
        seconds = {}
        for kind, options in (("inline", {}), ("ray", {"workers": 2})):
            bench, engine = opened(*size, device=device), make_engine(kind, **options)
            engine.prepare(device)
            begun: list[float] = []
            cells: list[Any] = []
            try:
                groups = list(bench.plan.groups())
                engine.run(bench, groups[:2], lambda task, result: None)      # starts the workers, and wakes them
                begun.append(time.perf_counter())
                engine.run(bench, groups[2:], lambda task, result, cells=cells: cells.append(result))
                seconds[kind] = time.perf_counter() - begun[0]
            finally:
                engine.close()
            if any(hasattr(result, "traceback") for result in cells):
                raise RuntimeError(f"{kind}: a cell failed")
        shares.append(seconds["ray"] / seconds["inline"])
    yield measured(name, shares, "ratio", RAY_TARGET)


def rows(quick: bool, device: str) -> Iterator[Row]:
    """All rows; where there is no such device, one that says so."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        yield Row("30 cells, shared / plain", None, "ratio", SPEED_TARGET, skipped="no CUDA device on this machine")
        return
    yield from sharing(quick, device)
    yield from runner(quick, device)
    yield from whole(quick, device)
    yield from memory(quick)
    yield from engines(quick, device)


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
