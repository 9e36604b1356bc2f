#!/usr/bin/env python3
"""What sites cost: idle, tapped, captured, streamed.

    .venv/bin/python benchmarks/hooks.py [--quick] [--device cpu|cuda] [--json FILE]

Workload (fixed): calls on a tensor of 8 values, so that only Python is timed; a block of attention and MLP at width
1536 over 1,560 tokens; mean and covariance of a site of 32 x 64 x 256 values, streamed over 5 and over 50 steps. Calls
are timed in seconds of this process's CPU (other work on the machine does not count), the block on the wall.

    what                                              --quick               full
    a site nobody listens to, an identity module      15 rounds x 20,000    60 rounds x 100,000 calls, interleaved
    a site with an edit, with a capture               15 rounds x 500       60 rounds x 2,000 calls
    the block, and the share of its idle sites        3 rounds              10
    peak memory of streaming                          1 fresh process each  3

A cost is that of a loop with the call less that of the loop without it, round by round; a target is met when the lower
end of the 95 % interval of the median (bootstrap over rounds) is at or below it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from demo import Row, fresh, machine, shown

SITE_TARGET = 0.2       # microseconds for a site that nobody listens to
BLOCK_TARGET = 1.01     # time of a block with idle sites over the time without
STREAM_TARGET = 1.05    # peak memory of 50 steps over that of 5
WIDTH, TOKENS = 1536, 1560

STREAM = """
import resource, sys, torch
from wanlab.core import Hookable, clock, trace
torch.set_num_threads(1)

class Stage(Hookable):
    SITES = {"out": "b n c"}
    def forward(self, x): return self.site("out", x)

stage, steps = Stage(), int(sys.argv[1])
with trace(stage, capture=["out -> mean", "out -> covariance"], steps=steps), clock.announce(steps=steps):
    for step in range(steps):
        with clock.at(step=step):
            stage(torch.randn(32, 64, 256))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


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


def timed(action: Callable[[], None]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    action()
    return time.process_time() - start


def subjects() -> tuple[Any, Any, Any]:
    """A module with a site, its name for it, and a tensor."""
    import torch

    from wanlab.core import Hookable

    class Stage(Hookable):
        SITES = {"out": "b c"}

    return Stage(), torch.nn.Identity(), torch.zeros(1, 8)


def calls(quick: bool) -> Iterator[Row]:
    """Microseconds of one call: idle site, identity module, edited site, captured site."""
    from wanlab.core import Scale, trace

    stage, identity, x = subjects()
    rounds, count, tapped = (15, 20_000, 500) if quick else (60, 100_000, 2_000)

    def empty(n: int) -> None:
        for _ in range(n):
            pass

    def site(n: int) -> None:
        for _ in range(n):
            stage.site("out", x)

    def module(n: int) -> None:
        for _ in range(n):
            identity(x)

    costs: dict[str, list[float]] = {"site": [], "module": [], "edit": [], "capture": []}
    for _ in range(rounds):
        bare = timed(lambda: empty(count))
        costs["site"].append(1e6 * (timed(lambda: site(count)) - bare) / count)
        costs["module"].append(1e6 * (timed(lambda: module(count)) - bare) / count)
        with trace(stage, Scale("out", 2.0)):
            costs["edit"].append(1e6 * timed(lambda: site(tapped)) / tapped)
        with trace(stage, capture="out -> device"):
            costs["capture"].append(1e6 * timed(lambda: site(tapped)) / tapped)
    yield measured("idle site", costs["site"], "us/call", SITE_TARGET)
    yield measured("identity module", costs["module"], "us/call")
    ratios = [a / b for a, b in zip(costs["site"], costs["module"], strict=True)]
    yield measured("idle site / identity module", ratios, "ratio", 1.0)
    yield measured("site under an edit (scale)", costs["edit"], "us/call")
    yield measured("site under a capture (copy on the device)", costs["capture"], "us/call")


def block(quick: bool, device: str) -> Iterator[Row]:
    """The share of idle sites in a large block: 1 + calls x cost / time of the block."""
    import torch

    from wanlab.core import Probe
    from wanlab.nn.spacetime import MLP, SpatialAttention

    torch.manual_seed(0)
    layers = torch.nn.ModuleList([SpatialAttention(WIDTH, 12), MLP(WIDTH)]).to(device).eval()
    x = torch.randn(1, 1, TOKENS, WIDTH, device=device)

    @torch.no_grad()
    def forward() -> None:
        y = x
        for layer in layers:
            y = y + layer(y)
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    with Probe(layers) as probe:
        forward()
    fired = sum(site.shape is not None and not site.name.endswith("pattern") for site in probe.sites)
    stage, _, tensor = subjects()
    seconds, shares = [], []
    for _ in range(3 if quick else 10):
        start = time.perf_counter()
        forward()
        seconds.append(time.perf_counter() - start)
        cost = timed(lambda: [stage.site("out", tensor) for _ in range(20_000)]) / 20_000     # type: ignore[arg-type]
        shares.append(1 + fired * cost / seconds[-1])
    yield measured(f"block of width {WIDTH}, {TOKENS} tokens", seconds, "s")
    yield measured(f"block with its {fired} idle sites / without", shares, "ratio", BLOCK_TARGET)


def streaming(quick: bool) -> Iterator[Row]:
    """Peak memory of streamed statistics does not grow with the number of steps."""
    ratios = []
    for _ in range(1 if quick else 3):
        few, many = (float(fresh(STREAM, str(steps))) for steps in (5, 50))
        ratios.append(many / few)
    yield Row.of("peak memory, process streaming 50 steps", many, "MiB")
    yield measured("peak memory, 50 steps / 5 steps", ratios, "ratio", STREAM_TARGET)


def rows(quick: bool, device: str) -> Iterator[Row]:
    """All rows; where there is no such device, the block is skipped with the reason."""
    import torch

    yield from calls(quick)
    if device.startswith("cuda") and not torch.cuda.is_available():
        yield Row(f"block of width {WIDTH}", None, "s", skipped="no CUDA device on this machine")
    else:
        yield from block(quick, device)
    yield from streaming(quick)


def main() -> int:
    """Measure, print as a table, and write the JSON file if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 5 minutes on 2 cores")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the rows and the machine here")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    workload = "quick" if options.quick else "full"
    result: dict[str, Any] = {"machine": machine(options.device), "workload": workload, "rows": []}
    for row in rows(options.quick, options.device):
        result["rows"].append(asdict(row))
        interval = getattr(row, "interval", None)
        spread = f"   [{interval[0]:.4g}, {interval[1]:.4g}]" if interval else ""
        print(shown(row) + spread, flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
