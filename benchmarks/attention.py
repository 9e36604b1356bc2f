#!/usr/bin/env python3
"""What reading attention costs: time and memory of reads beside the kernel, over those of the plain fused call.

    .venv/bin/python benchmarks/attention.py [--quick] [--device cpu|cuda] [--json FILE]

Workload (fixed): self-attention of 12 heads x 128, float32, one thread, over 13 frames of 240 and of 480 tokens (N = 3,120 and
6,240); cross-attention of 1,560 queries to 512 text tokens of which 491 are identical padding. On cuda N = 32,760 (21 frames),
bfloat16. No gradients.

    what                                                       --quick     full
    frame profile, bit-identical and with split keys, N 3,120  5 rounds    15
    the same, N 6,240                                          3 rounds    9
    entropy, N 3,120                                           5 rounds    15
    eight words and padding of cross-attention                 15 rounds   60
    extra peak memory                                          1 fresh process each
    explorer, slider to repaint (benchmarks/explorer.py)       30 moves    150

The frame profile is the mean over the queries of each frame of their mass on each frame (k f f). "Bit-identical" gives the
output of the plain call; "split keys" computes the output itself in parts, and rounds otherwise (`split_keys`). Each subject
gives the output and the read. In every round each subject has its turn, in an order drawn anew; times are seconds of this
process's CPU, on cuda of the wall. Ratios are taken within a round; a target is met when the lower end of the 95 % interval of
the median (bootstrap over rounds) is at or below it. Extra memory is the peak of a fresh process above that of one that runs
the plain call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import explorer
from harness import Row, fresh, interleaved, main, measured, ratios, repeated

HEADS, WIDTH = 12, 128
CPU_SIZES = {"N 3,120": (13, 240), "N 6,240": (13, 480)}        # frames, tokens of each
CUDA_SIZES = {"N 32,760": (21, 1560)}
ROUNDS = {"N 3,120": (5, 15), "N 6,240": (3, 9), "N 32,760": (10, 30)}
QUERIES, TEXT, WORDS = 1560, 512, 21                            # of cross-attention; padding fills the text up
SPLIT_TARGET, EXACT_TARGET, ENTROPY_TARGET, WORD_TARGET = 1.20, 2.1, 2.2, 1.15
CUDA_TARGET, TRITON_TARGET = 1.25, 1.10
MEMORY_TARGET, CUDA_MEMORY_TARGET = 150.0, 1500.0               # MB

PEAK = """
import re, sys
import torch
from attention import HEADS, subjects
frames, tokens, way = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
with torch.no_grad():
    subjects(frames, tokens, "cpu")[way]()
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""

Action = Callable[[], Any]


def subjects(frames: int, tokens: int, device: str) -> dict[str, Action]:
    """The plain call, and the call with a read beside it, by name."""
    import torch
    import torch.nn.functional as F

    from wanlab.nn.reads import Call

    torch.manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    q, k, v = (torch.randn(1, HEADS, frames * tokens, WIDTH, device=device, dtype=dtype) for _ in range(3))
    groups = torch.arange(frames, device=device).repeat_interleave(tokens)

    def profile(read: Callable[[Call], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        call = Call(q, k, v)
        mass = read(call)
        return call.out, mass.unflatten(2, (frames, tokens)).mean(3)

    def entropy() -> tuple[torch.Tensor, torch.Tensor]:
        call = Call(q, k, v)
        return call.out, call.entropy

    return {"plain": lambda: F.scaled_dot_product_attention(q, k, v),
            "bit-identical": lambda: profile(lambda call: call.mass(groups, frames)),
            "split keys": lambda: profile(lambda call: call.split(groups, frames)), "entropy": entropy}


def reading(device: str) -> dict[str, Action]:
    """Cross-attention to padded text, plain and with the maps of eight words and the mass on the padding."""
    import torch
    import torch.nn.functional as F

    from wanlab.nn.reads import Call

    torch.manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    q = torch.randn(1, HEADS, QUERIES, WIDTH, device=device, dtype=dtype)
    k, v = (torch.randn(1, HEADS, TEXT, WIDTH, device=device, dtype=dtype) for _ in range(2))
    k[..., WORDS:, :], v[..., WORDS:, :] = k[..., WORDS: WORDS + 1, :], v[..., WORDS: WORDS + 1, :]
    padding = (torch.arange(TEXT, device=device) >= WORDS).long()

    def words() -> tuple[torch.Tensor, ...]:
        call = Call(q, k, v)
        maps = call.entries(columns=range(1, 9))
        return call.out, maps

    def padded() -> tuple[torch.Tensor, ...]:
        call = Call(q, k, v)
        mass = call.mass(padding, 2)
        return call.out, mass

    return {"plain": lambda: F.scaled_dot_product_attention(q, k, v), "eight words": words, "padding": padded}


def self_attention(quick: bool, device: str) -> Iterator[Row]:
    """Frame profiles and entropy."""
    for size, (frames, tokens) in (CPU_SIZES if device == "cpu" else CUDA_SIZES).items():
        ways = subjects(frames, tokens, device)
        if device == "cpu" and size != next(iter(CPU_SIZES)):
            ways.pop("entropy")
        took = interleaved(ways, ROUNDS[size][not quick], device)
        yield measured(f"plain call, {size}", took["plain"], "s")
        split = SPLIT_TARGET if device == "cpu" else CUDA_TARGET
        for way, target in (("split keys", split), ("bit-identical", EXACT_TARGET), ("entropy", ENTROPY_TARGET)):
            if way in took:
                name = f"{way}, {size}" if way == "entropy" else f"frame profile, {way}, {size}"
                yield measured(f"{name} / plain", ratios(took[way], took["plain"]), "ratio", target)


def cross_attention(quick: bool, device: str) -> Iterator[Row]:
    """Eight words of cross-attention; the mass on the padding."""
    took = interleaved({way: repeated(run, 2) for way, run in reading(device).items()}, 15 if quick else 60, device)
    yield measured("eight words of cross-attention / plain", ratios(took["eight words"], took["plain"]), "ratio", WORD_TARGET)
    yield measured("padding of cross-attention / plain", ratios(took["padding"], took["plain"]), "ratio")


def memory(quick: bool) -> Iterator[Row]:
    """Peak of a fresh process above that of the plain call."""
    for size, (frames, tokens) in CPU_SIZES.items():
        if quick and size != list(CPU_SIZES)[-1]:
            continue
        peak = {way: int(fresh(PEAK, str(frames), str(tokens), way, PYTHONPATH=paths())) / 1000
                for way in ("plain", "bit-identical", "split keys", "entropy")}
        for way in ("bit-identical", "split keys"):
            yield Row.of(f"frame profile, {way}, {size}, extra memory", peak[way] - peak["plain"], "MB", MEMORY_TARGET)
        yield Row.of(f"entropy, {size}, extra memory", peak["entropy"] - peak["plain"], "MB")


def paths() -> str:
    """Where a fresh process finds this file and the package."""
    here = Path(__file__).resolve()
    return f"{here.parent}:{here.parents[1]}"


def cuda_memory(actions: Mapping[str, Action]) -> Iterator[Row]:
    """Peak on the device above that of the plain call."""
    import torch

    peak = {}
    for way, action in actions.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        action()
        torch.cuda.synchronize()
        peak[way] = torch.cuda.max_memory_allocated() / 1e6
    for way in ("bit-identical", "split keys"):
        yield Row.of(f"frame profile, {way}, extra memory", peak[way] - peak["plain"], "MB", CUDA_MEMORY_TARGET)


def triton(quick: bool) -> Iterator[Row]:
    """The kernel that writes its row sums at the borders of the frames."""
    import torch

    from wanlab.nn.flush import attend_mass

    (size, (frames, tokens)), = CUDA_SIZES.items()
    q, k, v = (torch.randn(1, HEADS, frames * tokens, WIDTH, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    plain = partial(torch.nn.functional.scaled_dot_product_attention, q, k, v)
    ways = {"plain": plain, "triton": partial(attend_mass, q, k, v, [tokens] * frames)}
    took = interleaved(ways, ROUNDS[size][not quick], "cuda")
    yield measured(f"frame profile, Triton kernel, {size} / plain", ratios(took["triton"], took["plain"]), "ratio", TRITON_TARGET)


def rows(quick: bool, device: str) -> Iterator[Row]:
    """All rows; those of a device that is not there are skipped, and say so."""
    import torch

    with torch.no_grad():
        if device == "cpu":
            yield from self_attention(quick, device)
            yield from cross_attention(quick, device)
            yield from memory(quick)
            yield from explorer.rows(quick)
        if not torch.cuda.is_available():
            for name in ("stock kernels", "Triton kernel"):
                yield Row(f"frame profile on cuda, {name}, N 32,760", None, "ratio", skipped="no CUDA device on this machine")
            return
        (frames, tokens), = CUDA_SIZES.values()
        yield from self_attention(quick, "cuda")
        yield from cross_attention(quick, "cuda")
        yield from cuda_memory(subjects(frames, tokens, "cuda"))
        yield from triton(quick)


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
