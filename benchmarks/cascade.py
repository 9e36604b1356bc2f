#!/usr/bin/env python3
"""The cascade: its UNet beside diffusers', super-resolution in tiles, the article's preset on a GPU.

    .venv/bin/python benchmarks/cascade.py [--quick] [--device cpu|cuda] [--json FILE]

Workload (fixed). The UNet of the preset tiny (1.5 M parameters, 0.66 GFLOP a video) beside diffusers' UNet3DConditionModel of the
same levels (48 and 96 channels on 8 frames of 8 x 8 places, the size of its patches; heads of 12, text of 64; 4.3 M, 1.8 GFLOP):
batch 8, float32, one thread, a forward without gradients and a training step (forward, backward, AdamW); seconds are compared per
operation (torch.utils.flop_counter). Tiles: the article's last level and detail stage, 16 frames, tiles of 256 pixels, in a fresh
process for each size. On cuda: every node of `article`, random weights in float32 under autocast to bfloat16, batch 1.

    what                                              --quick         full
    UNet, ours and diffusers'                         7 rounds        25
    peak memory of super-resolution in tiles          512 over 256    1024 over 512
    seconds of super-resolution in tiles              at 512          at 1024
    on cuda: article forward per node, compiled UNet  5 rounds        15

--quick leaves out 1024 pixels, the article's own size: 512 over 256 stands in for 1024 over 512. The rest it only repeats less.
Without CUDA the rows of `article` are skipped, in both.

In every round each has its turn, in an order drawn anew; times are seconds of this process's CPU, on cuda of the wall. Ratios are
taken within a round; a target is met when the lower end of the 95 % interval of the median is at or below it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from harness import HELD, Median, Row, fresh, interleaved, main, measured, ratios

FLOP_TARGET = 1.05      # our seconds per operation over diffusers'
MEMORY_TARGET = 1.25    # peak beyond the videos in and out, over that of a quarter of the pixels
PEAK = 790e12           # operations per second of an H200 in bfloat16
BATCH = 8
ARTICLE_ROWS = (("article, samples per second (30 steps, guided)", "1/s"), ("article, UNet, share of peak operations", "ratio"),
                ("article, UNet, compiled / not", "ratio"))

TILES = """
import sys, time, torch
from wanlab.nn.layers import Window
from wanlab.pipelines.guide import Guide
from wanlab.pipelines.tiles import Tiling, tiled
from wanlab.stages.detail import Config as DetailConfig, Detail
from wanlab.stages.upsample import Config, Upsample
torch.set_num_threads(1)
side, f = int(sys.argv[1]), 16
level, detail = Upsample(Config(32, 2)).eval(), Detail(DetailConfig(32, 2, 32, 2)).eval()
def peak():                         # of this process alone: ru_maxrss begins with what its parent had
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
def run(video, side, stage, scale):
    guide = Guide({"motion": torch.zeros(1, f, 3, 5), "masks": torch.full((1, 3, 64, 64), 1 / 3), "scope": torch.ones(1, f)},
                  {"reference": torch.zeros(1, 3, side, side), "present": torch.ones(1)}, side)
    def part(x, small, large): return stage(x, *guide.part(large))
    return tiled(part, video, scale, stage.reach, Tiling(256, 16, 8))
with torch.no_grad():
    small, before, start = torch.zeros(1, f, 3, side // 2, side // 2), peak(), time.process_time()
    large = run(small, side, level, 2)
    out = run(large, side, detail, 1)
videos = (large.nbytes + out.nbytes) / 2**20
print(peak() - before - videos, time.process_time() - start)
"""


def per_operation(name: str, ours: list[float], theirs: list[float], operations: tuple[int, int]) -> Median:
    """Our seconds per operation over theirs."""
    scale = operations[1] / operations[0]
    return measured(name, [ratio * scale for ratio in ratios(ours, theirs)], "ratio", FLOP_TARGET)


def counted(action: Callable[[], Any]) -> int:
    """Operations of one call."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        action()
    return int(counter.get_total_flops())


def unets(quick: bool) -> Iterator[Row]:
    """The UNet of tiny beside an equal one of diffusers."""
    import torch
    from diffusers import UNet3DConditionModel

    from wanlab.stages.fusion import Condition
    from wanlab.stages.generator import Config, Generator

    torch.manual_seed(0)
    ours = Generator(Config())
    kind = ("CrossAttnDownBlock3D", "CrossAttnUpBlock3D")
    theirs = UNet3DConditionModel(
        sample_size=8, in_channels=96, out_channels=64, down_block_types=(kind[0],) * 2, up_block_types=(kind[1],) * 2,
        block_out_channels=(48, 96), layers_per_block=1, cross_attention_dim=64, attention_head_dim=12, norm_num_groups=8)
    video, motion, frame = torch.randn(BATCH, 8, 3, 32, 32), torch.randn(BATCH, 8, 3, 5), torch.randn(BATCH, 3, 32, 32)
    context = torch.randn(BATCH, 91, 64)
    told = Condition(context, torch.zeros(BATCH, 91), torch.randn(BATCH, 64, 64), torch.randn(BATCH, 3, 64), torch.randn(BATCH, 64))
    places, time = torch.randn(BATCH, 96, 8, 8, 8), torch.arange(BATCH)
    forwards: dict[str, Callable[[], Any]] = {
        "ours": lambda: ours(video, motion, frame, told).paint, "theirs": lambda: theirs(places, time, context).sample}
    optimizers = {"ours": torch.optim.AdamW(ours.parameters()), "theirs": torch.optim.AdamW(theirs.parameters())}

    def sampling(who: str) -> None:
        with torch.no_grad():
            forwards[who]()

    def training(who: str) -> None:
        forwards[who]().square().mean().backward()
        optimizers[who].step()
        optimizers[who].zero_grad()

    for name, action in (("sampling", sampling), ("training step", training)):
        ours_once, theirs_once = partial(action, "ours"), partial(action, "theirs")
        operations = counted(ours_once), counted(theirs_once)
        took = interleaved({"ours": ours_once, "theirs": theirs_once}, 7 if quick else 25)
        yield measured(f"UNet of tiny, {name}: ours", [seconds / BATCH for seconds in took["ours"]], "s/video")
        yield measured(f"UNet of tiny, {name}: diffusers", [seconds / BATCH for seconds in took["theirs"]], "s/video")
        yield per_operation(f"UNet of tiny, {name}, per operation, ours / diffusers", took["ours"], took["theirs"], operations)


def tiles(quick: bool) -> Iterator[Row]:
    """Peak memory and seconds of the last level and the detail stage in tiles."""
    sides = (256, 512) if quick else (512, 1024)
    found = {side: tuple(map(float, fresh(TILES, str(side), **HELD).split())) for side in sides}
    for side in sides:
        yield Row.of(f"tiles, {side} pixels, peak beyond the videos", found[side][0], "MiB")
    small, large = sides
    yield Row.of(f"tiles, peak at {large} / at {small}", found[large][0] / found[small][0], "ratio", MEMORY_TARGET)
    yield Row.of(f"tiles, last level and detail at {large}", found[large][1], "s")


def full_size(quick: bool, device: str) -> Iterator[Row]:
    """The article's preset at its own size, on cuda."""
    import torch

    if device.startswith("cuda") and torch.cuda.is_available():
        yield from article("article", device, 5 if quick else 15)
        return
    for name, unit in (("article, each node", "s"), *ARTICLE_ROWS):
        yield Row(name, None, unit, skipped="no CUDA device")


def article(preset: str, device: str, rounds: int) -> Iterator[Row]:
    """Every node of a preset with random weights in float32 (a cascade takes no others), products and convolutions in bfloat16."""
    import torch

    import wanlab

    pipe = wanlab.load(preset, init="random").to(device)
    side, steps = pipe.config["size"], pipe.config["sampler"]["steps"]
    request = pipe.request(torch.rand(3, side, side), "a red circle moves left", 0, steps=1)
    outputs: dict[str, Any] = {}
    given: list[tuple[Any, ...]] = []
    spent: dict[str, list[float]] = {}
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        with pipe.generator.register_forward_pre_hook(lambda _, inputs: given.append(inputs)):
            for node in pipe.nodes:
                outputs[node.name] = pipe.run_node(node.name, outputs, request)
        for node in pipe.nodes:
            spent[node.name] = interleaved({"node": partial(pipe.run_node, node.name, outputs, request)}, rounds, device)["node"]
            yield measured(f"article, {node.name}", spent[node.name], "s")
        totals = [sum(spent[node.name][i] * (steps if node.steps else 1) for node in pipe.nodes) for i in range(rounds)]
        yield measured(ARTICLE_ROWS[0][0], [1 / total for total in totals], ARTICLE_ROWS[0][1])
        yield from _unet(pipe.generator, given[0], rounds, device)


def _unet(unet: Any, given: tuple[Any, ...], rounds: int, device: str) -> Iterator[Row]:
    """The UNet by itself, on what a run gave it."""
    import torch

    ways = {"plain": partial(unet, *given), "compiled": partial(torch.compile(unet), *given)}
    operations, took = counted(ways["plain"]), interleaved(ways, rounds, device)
    (share, unit), (quicker, ratio) = ARTICLE_ROWS[1:]
    yield measured(share, [operations / seconds / PEAK for seconds in took["plain"]], unit)
    yield measured(quicker, ratios(took["compiled"], took["plain"]), ratio, 1.0)


def rows(quick: bool, device: str) -> Iterator[Row]:
    """All rows."""
    import torch

    yield from unets(quick)
    yield from tiles(quick)
    with torch.no_grad():
        yield from full_size(quick, device)


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
