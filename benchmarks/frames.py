#!/usr/bin/env python3
"""LPIPS to a reference, tLP and adherence to the first image: features shared by one pass against separate calls.

    .venv/bin/python benchmarks/frames.py [--quick] [--device cpu|cuda] [--json FILE]

Workload (fixed): one clip of 16 frames of 128 x 128, its reference and its conditioning image, float32, one thread, no
gradients, trunks never trained (their speed is that of trained ones).

    what                                               --quick          full
    shared pass, our separate functions, the package   alex, squeeze    alex, squeeze, vgg
    rounds                                             7                15
    peak memory of 64 frames over that of 16           1 process each   3

All in one process; in every round each subject has its turn, in an order drawn anew, and times are seconds of this process's
CPU. The separate calls are our functions asked one by one, and `lpips.LPIPS` itself under no_grad, called for (clip,
reference), for neighbouring frames of either, and for (clip, image), in batches as large as the shared pass's. All three give
the same numbers; that is checked before anything is timed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import HELD, Row, fresh, interleaved, main, measured, ratios

TARGET = 0.6            # time of the shared pass over that of separate calls
MEMORY_TARGET = 1.1     # peak memory of a clip of 64 frames over that of one of 16, the clips themselves taken off
FRAMES, SIZE = 16, 128
LONG = 64

PEAK = """
import re, sys
from pathlib import Path
import torch
from metrics.lpips import random_trunk
from metrics.perceptual import perceptual_curves
torch.set_num_threads(1)
judge, frames = random_trunk("alex"), int(sys.argv[1])
perceptual_curves(torch.rand(1, 2, 3, 128, 128), judge=judge)   # what the first call loads is not the clip's
video, reference = torch.rand(2, 1, frames, 3, 128, 128)
def high(): return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")   # the high-water mark starts anew
before = high()
perceptual_curves(video, reference, video[:, 0], judge=judge)
print(high() - before - 2 * 4 * video.nelement())   # the checked copies of both clips grow with them, nothing else may
"""


def subjects(net: str, device: str) -> dict[str, Callable[[], Any]]:
    """The three ways to the same numbers: LPIPS `b`, tLP `b`, adherence curve `b f`."""
    import torch

    from metrics.adherence import image_lpips
    from metrics.lpips import lpips_distance, random_trunk
    from metrics.perceptual import perceptual_curves, tlp, tlp_of

    judge = random_trunk(net)
    judge.model.to(device)
    torch.manual_seed(0)
    reference = torch.rand(1, FRAMES, 3, SIZE, SIZE).to(device)
    video = (reference + 0.1 * torch.randn_like(reference)).clamp(0, 1)
    image, chunk = reference[:, 0], max(1, judge.chunk_pixels // SIZE**2)

    def shared() -> tuple[Any, ...]:
        curves = perceptual_curves(video, reference, image, judge=judge)
        return curves.reference.mean(1), tlp_of(curves), curves.image

    def separate() -> tuple[Any, ...]:
        return (lpips_distance(video, reference, judge), tlp(video, reference, judge, crop=False),
                image_lpips(video, image, judge).curve)     # fmt: skip

    def pairs(a: Any, b: Any) -> Any:
        with torch.no_grad():
            parts = zip(a[0].split(chunk), b[0].split(chunk), strict=True)
            return torch.cat([judge.model(x, y, normalize=True).flatten() for x, y in parts])[None]

    def package() -> tuple[Any, ...]:
        steps = 100 * (pairs(video[:, :-1], video[:, 1:]) - pairs(reference[:, :-1], reference[:, 1:])).abs()
        return pairs(video, reference).mean(1), steps[:, 2:-2].mean(1), pairs(video, image[:, None].expand_as(video))

    return {"shared": shared, "our functions": separate, "lpips.LPIPS": package}


def rows(quick: bool, device: str = "cpu") -> Iterator[Row]:
    """All rows; `benchmarks/metrics.py` takes them in.

    Raises:
        AssertionError: the three ways differ.
    """
    import torch

    for net in ("alex", "squeeze") if quick else ("alex", "squeeze", "vgg"):
        ways = subjects(net, device)
        wanted = ways["lpips.LPIPS"]()
        for name in ("shared", "our functions"):
            for found, expected in zip(ways[name](), wanted, strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        took = interleaved(ways, 7 if quick else 15, device)
        for name, seconds in took.items():
            yield measured(f"LPIPS + tLP + adherence, {net}, {name}", seconds, "s")
        for name in ("our functions", "lpips.LPIPS"):
            yield measured(f"LPIPS + tLP + adherence, {net}, shared / {name}", ratios(took["shared"], took[name]), "ratio", TARGET)
    yield from memory(quick, device)


def memory(quick: bool, device: str) -> Iterator[Row]:
    """How peak memory grows with the number of frames; read from /proc, so on Linux only."""
    names = [f"shared pass, alex, peak memory of {n} frames" for n in (FRAMES, LONG)]
    if device != "cpu" or not Path("/proc/self/clear_refs").exists():
        for name in names:
            yield Row(name, None, "MiB", skipped="read from /proc of Linux, on the CPU")
        return
    peaks = [statistics.median(float(fresh(PEAK, str(n), **HELD)) for _ in range(1 if quick else 3)) for n in (FRAMES, LONG)]
    for name, peak in zip(names, peaks, strict=True):
        yield Row.of(name, peak / 2**20, "MiB")
    yield Row.of(f"shared pass, peak memory of {LONG} frames / of {FRAMES}", peaks[1] / peaks[0], "ratio", MEMORY_TARGET)


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
