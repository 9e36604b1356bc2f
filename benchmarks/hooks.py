#!/usr/bin/env python3
"""What sites cost: idle, tapped, captured beside TransformerLens and nnsight, streamed.

    .venv/bin/python benchmarks/hooks.py [--quick] [--device cpu|cuda] [--json FILE]

Workload (fixed): twelve sites in a row on a tensor of 8 values, so that only Python is timed; one block of self-attention
and MLP of Wan2.1-1.3B's size (width 1536, 12 heads of 128, MLP 8960, 1,560 tokens, float32, one thread, no gradients); the
same block small (width 64, 4 heads, MLP 256, 16 tokens); mean and covariance of a site of 1,560 x 1536, streamed over 5 and
over 50 steps.

    what                                              --quick               full
    idle sites, the same code without, a module       15 rounds x 2,000     60 rounds x 10,000 passes of 12
    a site with an edit, with a capture               15 rounds x 500       60 rounds x 2,000 calls
    the large block: idle sites, guards compiled out  8 rounds              20
    the large block: 12 tensors captured, 6 ways      8 rounds              20
    the small block: all of these                     25 rounds x 50        60 rounds x 100 forwards
    peak memory of streaming                          1 fresh process each  3

All in one process but for the peak memory; in every round each subject has its turn, in an order drawn anew. Times are
seconds of this process's CPU (other work on the machine does not count), on cuda of the wall between synchronisations. Rows
are medians over rounds; ratios are taken within a round. A target is met when the lower end of the 95 % interval of the
median (bootstrap over rounds) is at or below it.

"Compiled out" is the same code without its sites, removed from the syntax tree (blocks.py). Captures are compared like with
like: by reference (ours `-> graph`, run_with_cache, `.output`), which is wrong as soon as a later operation writes in
place, and copied (ours `-> device`, a hook that clones, `.output.clone()`), which is not. Peak memory is that of a process
above what it had before the run, with an allocator that returns what is freed; a row says what glibc's own caching adds.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from harness import HELD, Row, fresh, interleaved, main, measured, ratios, repeated

SITE_TARGET = 0.2       # microseconds for a site that nobody listens to
BLOCK_TARGET = 1.01     # time of a block with idle sites over the time without
PEER_TARGET = 1.0       # time of a block with captures over the same under a peer
STREAM_TARGET = 1.05    # peak memory of 50 steps over that of 5
LARGE = {"width": 1536, "heads": 12, "hidden": 8960}, 1560
SMALL = {"width": 64, "heads": 4, "hidden": 256}, 16
PEERS = {"transformer-lens": "4.", "nnsight": "0.8."}     # and the versions that are meant
STEPS = (5, 50)
STATISTICS = "out -> mean,out -> covariance"

STREAM = """
import re, resource, sys, tracemalloc
import psutil, torch
from wanlab.core import Hookable, clock, trace
torch.set_num_threads(1)

class Stage(Hookable):
    SITES = {"out": "b n c"}
    def forward(self, x): return self.site("out", x)

stage, steps, capture = Stage(), int(sys.argv[1]), sys.argv[2].split(",")
before = psutil.Process().memory_info().rss
tracemalloc.start()
with trace(stage, capture=capture, steps=steps), clock.announce(steps=steps):
    for step in range(steps):
        with clock.at(step=step):
            stage(torch.randn(1, 1560, 1536))
if sys.platform == "linux":     # not ru_maxrss, which starts at what the parent process had
    peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak - before, tracemalloc.get_traced_memory()[0])
"""


def calls(quick: bool) -> Iterator[Row]:
    """Microseconds of one call: idle site, identity module, edited site, captured site."""
    import torch
    from blocks import Chain, bare

    from wanlab.core import Scale, trace

    rounds, passes, tapped = (15, 2_000, 500) if quick else (60, 10_000, 2_000)
    chain, identity, x = Chain(), torch.nn.Identity(), torch.zeros(1, 8)
    plain, sites = bare(chain), len(chain.SITES)

    def site() -> None:
        for _ in range(tapped):
            chain.site("a", x)

    def edited() -> None:
        with trace(chain, Scale("a", 2.0)):
            site()

    def captured() -> None:
        with trace(chain, capture="a -> device"):
            site()

    took = interleaved({
        "site": repeated(lambda: chain.forward(x), passes), "none": repeated(lambda: plain.forward(x), passes),
        "module": repeated(lambda: identity(x), passes), "empty": repeated(lambda: x, passes),
        "edit": edited, "capture": captured}, rounds)     # fmt: skip
    idle = [1e6 * (a - b) / (passes * sites) for a, b in zip(took["site"], took["none"], strict=True)]
    module = [1e6 * (a - b) / passes for a, b in zip(took["module"], took["empty"], strict=True)]
    yield measured("idle site", idle, "us/call", SITE_TARGET)
    yield measured("identity module", module, "us/call")
    yield measured("idle site / identity module", ratios(idle, module), "ratio", 1.0)
    yield measured("site under an edit (scale)", [1e6 * t / tapped for t in took["edit"]], "us/call")
    yield measured("site under a capture (copy on the device)", [1e6 * t / tapped for t in took["capture"]], "us/call")


def sizes(quick: bool) -> Iterator[tuple[str, dict[str, int], int, int, int]]:
    """The two blocks: name, sizes, tokens, rounds, forwards in a round."""
    yield "large", *LARGE, 8 if quick else 20, 1
    yield "small", *SMALL, *((25, 50) if quick else (60, 100))


def guards(forward: Callable[[], Any]) -> int:
    """How many guards one forward passes: calls of `site` and of `listening`."""
    from wanlab.core import Hookable

    wanted, calls = (Hookable.site.__code__, Hookable.listening.__code__), []
    sys.setprofile(lambda frame, event, _: calls.append(0) if event == "call" and frame.f_code in wanted else None)
    try:
        forward()
    finally:
        sys.setprofile(None)
    return len(calls)


def blocks(quick: bool, device: str, cost: float) -> Iterator[Row]:
    """Two blocks: with idle sites (of `cost` microseconds each) beside the twin without; with captures beside the peers'."""
    import torch
    from captures import subjects

    with torch.no_grad():
        for kind, shape, tokens, rounds, count in sizes(quick):
            block, plain, x, captures = subjects(shape, tokens, device)
            passed = guards(partial(block, x))
            ways = {"sites": partial(block, x), "none": partial(plain, x)}
            ways |= {way: partial(run, x) for way, run in captures.items()}
            took = interleaved({way: repeated(run, count) for way, run in ways.items()}, rounds, device)
            seconds = {way: [t / count for t in each] for way, each in took.items()}
            target = BLOCK_TARGET if kind == "large" else None
            yield measured(f"{kind} block, sites idle", seconds["sites"], "s")
            shares = [1 + 1e-6 * passed * cost / t for t in seconds["none"]]
            yield measured(f"{kind} block, 1 + {passed} guards x cost / its time", shares, "ratio", target)
            yield measured(f"{kind} block, sites idle / compiled out", ratios(seconds["sites"], seconds["none"]), "ratio", target)
            yield from beside(seconds) if kind == "large" else apiece(seconds)


def beside(seconds: Mapping[Any, list[float]]) -> Iterator[Row]:
    """The large block with twelve tensors captured: the whole time of ours over that of each peer."""
    from captures import HOW, LENS, OURS, SIGHT

    for how in HOW:
        yield measured(f"large block, 12 tensors {how}", seconds[OURS, how], "s")
        for other in (LENS, SIGHT):
            both = ratios(seconds[OURS, how], seconds[other, how])
            yield measured(f"large block, 12 tensors {how}, {OURS} / {other}", both, "ratio", PEER_TARGET)


def apiece(seconds: Mapping[Any, list[float]]) -> Iterator[Row]:
    """The small block, where the libraries show: what capturing one tensor adds, each trace opened for one forward."""
    from captures import HOW, LENS, OURS, SIGHT

    for how in HOW:
        for library in (OURS, LENS, SIGHT):
            each = [1e6 * (a - b) / 12 for a, b in zip(seconds[library, how], seconds["none"], strict=True)]
            yield measured(f"small block, a tensor {how}, {library}", each, "us")


def streaming(quick: bool) -> Iterator[Row]:
    """Peak memory of streamed statistics does not grow with the number of steps; that of kept values shows that it would."""
    ways = {"streamed": (STATISTICS, HELD), "kept": ("out", HELD), "cached": (STATISTICS, {})}
    peaks: dict[tuple[str, int], list[float]] = {(way, steps): [] for way in ways for steps in STEPS}
    objects: dict[int, list[float]] = {steps: [] for steps in STEPS}
    for _ in range(1 if quick else 3):
        for way, steps in peaks:
            capture, variables = ways[way]
            peak, python = fresh(STREAM, str(steps), capture, **variables).split()
            peaks[way, steps].append(float(peak) / 2**20)
            if way == "streamed":
                objects[steps].append(float(python) / 2**10)
    few, many = STEPS
    grown = {way: ratios(peaks[way, many], peaks[way, few]) for way in ways}
    if min(grown["kept"]) < 2:
        raise RuntimeError(f"values kept for {many} steps took only {min(grown['kept']):.2f} times the memory of {few}: this "
                           "machine's peak memory cannot be measured so")
    yield measured(f"streamed, peak memory of {many} steps", peaks["streamed", many], "MiB")
    yield measured(f"streamed, peak memory, {many} steps / {few}", grown["streamed"], "ratio", STREAM_TARGET)
    yield measured(f"streamed, the allocator caching, {many} steps / {few}", grown["cached"], "ratio")
    yield measured(f"kept instead, peak memory, {many} steps / {few}", grown["kept"], "ratio")
    extra = [a - b for a, b in zip(objects[many], objects[few], strict=True)]
    yield measured(f"streamed, Python objects, {many} steps less {few}", extra, "KiB")


def rows(quick: bool, device: str) -> Iterator[Row]:
    """All rows; where there is no such device, the blocks are skipped with the reason."""
    import torch

    cost = 0.0
    for row in calls(quick):
        cost = row.value or 0.0 if row.name == "idle site" else cost
        yield row
    if device.startswith("cuda") and not torch.cuda.is_available():
        yield Row("large and small block", None, "s", skipped="no CUDA device on this machine")
    else:
        yield from blocks(quick, device, cost)
    yield from streaming(quick)


if __name__ == "__main__":
    sys.exit(main(__doc__, rows, PEERS))
