"""Packs on the shipped pipeline and on a small Wan: what they give on a CPU beside what each cell gives by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import wanlab
from tests.pipelines.wan import made
from wanlab.runs.cell import open_workbench
from wanlab.runs.reading import parse_study

TINY = """
  late: {edits: [{kind: zero, at: generator.mid.temporal.attn.z, steps: "-1:"}]}
  conditional: {edits: [{kind: bypass, at: "generator.**.temporal.out", branch: cond}]}
  text: {ablate: text}
  detail: {edits: [{kind: zero, at: detail.gan}]}
"""
WAN = """
  block: {edits: [{kind: bypass, at: dit.blocks.1.resid_post}]}
  head: {edits: [{kind: zero, at: dit.blocks.0.self_attn.z, heads: [0]}]}
"""
MASKED = """
  temporal: {ablate: temporal}
"""
STUDY = """
name: packs
pipeline: PIPE
data: {kind: procedural, split: test, n: 2}
sampler: {steps: STEPS, guidance: GUIDANCE}
batch: BATCH
metrics: [psnr]
cells:
  baseline:"""


def videos(pipe: Any, cells: str, pack: int, **settings: Any) -> list[torch.Tensor]:
    text = STUDY + cells
    for key, value in {"pipe": pipe.config["name"], **settings}.items():
        text = text.replace(key.upper(), str(value))
    study, document = parse_study(text, ["share.fork=false", f"share.pack={pack}"])
    bench = open_workbench(study, document, load=lambda name, init: pipe)
    packs = [len(pieces) for _, pieces in bench.plan.work(0, bench.plan.cells).runs(bench.plan.cells)]
    assert max(packs) == min(pack, len(bench.plan.cells))
    found = []
    for group in bench.plan.groups():
        bench._videos = bench._open(bench.plan.chunks[group.chunk], group.cells)
        found += [bench.generate(task) for task in group]
        bench._videos.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("pack", "batch", "guidance"), [(3, 1, 1.5), (2, 2, 1.5), (5, 1, 1.0)])
def test_packed_videos_are_bit_equal(pack: int, batch: int, guidance: float) -> None:
    settings = {"steps": 2, "batch": batch, "guidance": guidance}
    tiny = wanlab.load("tiny")
    packed, plain = videos(tiny, TINY, pack, **settings), videos(tiny, TINY, 1, **settings)
    assert all(torch.equal(one, other) for one, other in zip(packed, plain, strict=True))
    assert not torch.equal(plain[0], plain[1])


@pytest.mark.slow
@pytest.mark.parametrize(("cells", "batch", "most"), [(WAN, 2, 0.0), (WAN, 1, 1e-5), (MASKED, 2, 1e-5)])
def test_packed_videos_of_wan_are_bit_equal_or_within_rounding(cells: str, batch: int, most: float) -> None:
    """Not equal: of one sample, as the autoencoder convolves a single picture by its strides, which say nothing along an axis of
    one; and where a cell of the pack masks attention, as all rows then take the kernel with a mask."""
    settings = {"steps": 2, "batch": batch, "guidance": 3.0}
    pipe = made("t2v")
    packed, plain = videos(pipe, cells, 3, **settings), videos(pipe, cells, 1, **settings)
    assert max(float((one - other).abs().max()) for one, other in zip(packed, plain, strict=True)) <= most
