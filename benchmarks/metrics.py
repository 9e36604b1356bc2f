#!/usr/bin/env python3
"""What distances between sets of videos cost: trace term, streamed state, kernels, intervals, memory; and the frames' metrics.

    .venv/bin/python benchmarks/metrics.py [--quick] [--device cpu|cuda] [--json FILE]

Workload (fixed): features drawn from two rotated Gaussians whose deviations fall from 1 to 1/30 over d dimensions, 2 d + 16 of
each where n is not stated; float64 covariances of full rank, on which the three ways agree to 1e-9 (checked). The field's
widths: 400 (I3D), 768, 1408 (VideoMAE v2), 2048. Clips of 81 x 3 x 544 x 960 float32 (508 MB each) from a generator, one in
memory at a time, through a small network of 400 features into both sets, features kept in a bank on disk.

    what                                             --quick                       full
    trace term at d = 400, 768, 1408, 2048           11, 7, 4, 3 rounds            31, 15, 7, 3
      scipy's sqrtm beside it                        at 400, 768                   at all, one round at 2048
    streamed state against stored features           3 rounds, d = 400, 1408       9, also 768, 2048
    KVD, 100 subsets of 1000 of 2048, d = 400        3 rounds                      9
    jackknife interval, n = 2048, d = 400            3 rounds                      9
    peak memory over clips                           16 clips over 4               2,000 over 20
    frames.py                                        as it says                    as it says

One thread everywhere (all peers too), in one process but for the peak memory; in every round each subject has its turn, in an
order drawn anew. Times are seconds of this process's CPU, on cuda of the wall between synchronisations. Rows are medians over
rounds; ratios are taken within a round, the trace term's over the faster of the two peers in that round. A target is met when
the lower end of the 95 % interval of the median (bootstrap over rounds) is at or below it. Peak memory is that of a process
above what it had before the first clip.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

from harness import HELD, Row, fresh, interleaved, main, measured, ratios, timed

TRACE_TARGET = {400: 0.7, 768: 0.7, 1408: 0.5, 2048: 0.5}     # of the faster peer's time
QUICK_ROUNDS = {400: 11, 768: 7, 1408: 4, 2048: 3}
FULL_ROUNDS = {400: 31, 768: 15, 1408: 7, 2048: 3}
SCIPY_QUICK = (400, 768)                # above, a round of it takes from half a minute to more than one
MEMORY_TARGET = 1.05                    # peak memory of many clips over that of few
CLIPS_QUICK, CLIPS_FULL = (4, 16), (20, 2000)
PEERS = {"torchmetrics": "", "scipy": "", "numpy": ""}  # of any version

MEMORY = """
import re, sys, tempfile
import torch
from metrics import FeatureBank, FrechetVideoDistance
torch.set_num_threads(1)

class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv3d(3, 16, 3, stride=2), torch.nn.ReLU(), torch.nn.Conv3d(16, 400, 3, stride=2))
    def forward(self, video):
        small = torch.nn.functional.avg_pool2d(video.flatten(0, 1), 16)
        return self.body(small.unflatten(0, video.shape[:2]).transpose(1, 2)).mean((2, 3, 4))

def clips(n):
    frame = torch.rand(3, 544, 960)
    for i in range(n):
        clip = torch.empty(1, 81, 3, 544, 960)
        for t in range(81):
            clip[0, t] = frame.roll((i % 97) * t, 2)
        yield clip

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

held, n = [], int(sys.argv[1])
with tempfile.TemporaryDirectory() as folder:
    key = {"preset": "benchmark", "weights": "random", "code": 1}
    banks = FeatureBank(folder + "/real", key), FeatureBank(folder + "/fake", key)
    metric = FrechetVideoDistance(Small().eval(), keep=banks)
    before = peak()
    for i, clip in enumerate(clips(n)):
        metric.update(clip, real=i % 2 == 0, ids=[i])
        if sys.argv[2] == "hold":
            held.append(clip[..., ::4, ::4].clone())
    print(peak() - before)
"""


def features(n: int, width: int, seed: int, device: str = "cpu") -> Any:
    """Features (n, d) of the workload, float64."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    spectrum = torch.logspace(0, -math.log10(30), width, dtype=torch.float64)
    rows = torch.randn(n, width, generator=generator, dtype=torch.float64) * spectrum
    return (0.1 * seed + rows @ rotation).to(device)


def trace(quick: bool, device: str) -> Iterator[Row]:
    """The trace term of two covariances: ours, torchmetrics' eigenvalues of the product, scipy's matrix square root."""
    for width, target in TRACE_TARGET.items():
        rounds = (QUICK_ROUNDS if quick else FULL_ROUNDS)[width]
        with_scipy = device == "cpu" and (width in SCIPY_QUICK or (not quick and width < 2048))
        yield from trace_at(width, target, rounds, with_scipy, device)
        if device == "cpu" and width == 2048:
            name = f"trace term, d = {width}, scipy sqrtm"
            if quick:
                yield Row(name, None, "s", skipped="over a minute for one call: in the full run only")
            else:
                yield measured(name, [timed(trace_ways(width, True, device)["scipy sqrtm"])], "s")


def trace_ways(width: int, with_scipy: bool, device: str) -> dict[str, Callable[[], float]]:
    """The ways to the trace term by name."""
    import numpy as np
    import scipy.linalg
    import torch

    from metrics.frechet import trace_of_root

    a, b = (features(2 * width + 16, width, seed, device).T.cov() for seed in (0, 1))
    ways = {
        "ours": lambda: float(trace_of_root(a, b)),
        "torchmetrics eigvals": lambda: float(torch.linalg.eigvals(a @ b).sqrt().real.sum()),    # image/fid.py, _compute_fid
    }
    if with_scipy:
        product = a.numpy() @ b.numpy()
        ways["scipy sqrtm"] = lambda: float(np.trace(np.real(scipy.linalg.sqrtm(product))))
    return ways


def trace_at(width: int, target: float, rounds: int, with_scipy: bool, device: str) -> Iterator[Row]:
    """One width: seconds of each way, and ours over the faster of the others."""
    ways = trace_ways(width, with_scipy, device)
    values = {name: way() for name, way in ways.items()}
    if max(values.values()) - min(values.values()) > 1e-9 * values["ours"]:
        raise RuntimeError(f"the ways to the trace term differ at d = {width}: {values}")
    took = interleaved(ways, rounds, device)
    for name, seconds in took.items():
        yield measured(f"trace term, d = {width}, {name}", seconds, "s")
    faster = [min(round) for round in zip(*(took[name] for name in took if name != "ours"), strict=True)]
    yield measured(f"trace term, d = {width}, ours / the faster of {len(took) - 1}", ratios(took["ours"], faster), "ratio", target)


def exactness() -> Iterator[Row]:
    """The distance of four samples to themselves, d = 400: no way but ours knows that it is 0."""
    import torch
    from torchmetrics.image.fid import _compute_fid

    from metrics import Moments, frechet_distance, frechet_from_moments

    x = features(4, 400, 0)
    mean, covariance = x.mean(0), x.T.cov()
    ways = {"features": frechet_distance(x, x), "moments": frechet_from_moments(Moments.of(x), Moments.of(x)),
            "torchmetrics": _compute_fid(mean, covariance, mean, covariance)}     # fmt: skip
    for name, value in ways.items():
        yield Row(f"4 samples to themselves, d = 400, {name}", float(torch.as_tensor(value)), "distance")


def streamed(quick: bool, device: str) -> Iterator[Row]:
    """2,048 features in batches of 16: moments as they come, against features kept and measured at the end."""
    import torch

    from metrics import Moments

    for width in (400, 1408) if quick else (400, 768, 1408, 2048):
        batches = features(2048, width, 0, device).float().split(16)

        def state(batches: Any = batches) -> Any:
            moments = Moments(torch.zeros(2, dtype=torch.float64, device=device))
            for batch in batches:
                moments.add(batch)
            return moments.covariance()

        def stored(batches: Any = batches) -> Any:
            return torch.cat([batch.double() for batch in batches]).T.cov()

        apart = float((state() - stored()).abs().max() / stored().abs().max())
        took = interleaved({"state": state, "stored": stored}, 3 if quick else 9, device)
        yield measured(f"moments of 2,048 features, d = {width}, streamed", took["state"], "s")
        yield measured(f"moments of 2,048 features, d = {width}, streamed / stored", ratios(took["state"], took["stored"]), "ratio")
        yield Row(f"moments of 2,048 features, d = {width}, greatest relative difference", apart, "ratio")
        size = 8 * Moments.of(batches[0]).flat.numel()
        yield Row(f"state of one set, d = {width}, at any n", size / 2**20, "MiB")
        yield Row(f"features of one set, d = {width}, n = 50,000, float32", 4 * width * 50_000 / 2**20, "MiB")


def kernels(quick: bool, device: str) -> Iterator[Row]:
    """KVD: a hundred subsets as sums over one kernel matrix, against each by itself as torchmetrics does."""
    import torch
    from torchmetrics.image.kid import poly_mmd

    from metrics import kernel_distance

    x, y = features(2048, 400, 0, device), features(2048, 400, 1, device)
    chosen = torch.randperm(2048, generator=torch.Generator().manual_seed(0))[:1000].to(device)
    ways = {"ours": partial(kernel_distance, x, y), "peer": lambda: poly_mmd(x[chosen], y[chosen])}
    took = interleaved(ways, 3 if quick else 9, device)
    yield measured("KVD, 100 subsets of 1,000, ours", took["ours"], "s")
    yield measured("KVD, 1 subset of 1,000, torchmetrics", took["peer"], "s")
    yield measured("KVD, ours, 100 subsets / 100 x torchmetrics, 1", [r / 100 for r in ratios(took["ours"], took["peer"])], "ratio")


def intervals(quick: bool, device: str) -> Iterator[Row]:
    """The jackknife over 16 blocks: by what blocks take away, against every distance anew."""
    from metrics import frechet_distance, jackknife_interval

    for n, width in ((256, 400), (2048, 400)):
        x, y = features(n, width, 0, device), features(n, width, 1, device)
        ways = {"ours": partial(jackknife_interval, x, y, frechet_distance),
                "anew": partial(jackknife_interval, x, y, lambda a, b: frechet_distance(a, b)),     # unknown to the jackknife
                "one": partial(frechet_distance, x, y)}     # fmt: skip
        took = interleaved(ways, 3 if quick else 9, device)
        name = f"jackknife interval, n = {n}, d = {width}"
        yield measured(name, took["ours"], "s")
        yield measured(f"{name}, / every distance anew", ratios(took["ours"], took["anew"]), "ratio")
        yield measured(f"{name}, / one distance", ratios(took["ours"], took["one"]), "ratio")


def memory(quick: bool) -> Iterator[Row]:
    """Peak memory while long clips stream past does not grow with their number."""
    few, many = CLIPS_QUICK if quick else CLIPS_FULL
    few_peak, many_peak = (float(fresh(MEMORY, str(n), "stream", **HELD)) / 2**20 for n in (few, many))
    held = float(fresh(MEMORY, str(CLIPS_QUICK[1]), "hold", **HELD)) / 2**20
    if held < 1.2 * few_peak:
        raise RuntimeError(f"a sixteenth of each of {CLIPS_QUICK[1]} clips was held, and the peak rose only from {few_peak:.0f} to "
                           f"{held:.0f} MiB: this machine's peak memory cannot be measured so")
    yield Row.of(f"peak memory, {many:,} clips of 508 MB", many_peak, "MiB")
    yield Row.of(f"peak memory, {many:,} clips over {few}", many_peak / few_peak, "ratio", MEMORY_TARGET)
    yield Row.of(f"peak memory, a sixteenth of {CLIPS_QUICK[1]} clips held, over {few}", held / few_peak, "ratio")


def rows(quick: bool, device: str) -> Iterator[Row]:
    """All rows; where there is no such device, those that need it are skipped with the reason."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        for name in ("trace term", "moments", "KVD", "jackknife interval", "frames"):
            yield Row(name, None, "s", skipped="no CUDA device on this machine")
    else:
        yield from trace(quick, device)
        yield from exactness()
        for part in (streamed, kernels, intervals):
            yield from part(quick, device)
        if find_spec("frames"):
            import frames

            yield from frames.rows(quick, device)
    yield from memory(quick)


if __name__ == "__main__":
    sys.exit(main(__doc__, rows, PEERS))
