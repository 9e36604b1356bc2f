"""Super-resolution in tiles: what it gives is what the whole video gives, and what cannot be had of it is said at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import wanlab
from wanlab.core import Bypass, LedgerError, Zero, trace
from wanlab.nn.layers import Window, compose, scene, view
from wanlab.nn.residual import Reach
from wanlab.pipelines.cascade import Cascade
from wanlab.pipelines.guide import Guide
from wanlab.pipelines.tiles import Tiling, TilingError, cuts, tiled
from wanlab.stages import detail, upsample

TOLERANCE = 1e-5        # of videos in [-1, 1]: rounding alone
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tiny() -> Cascade:
    return wanlab.load("tiny")


@pytest.fixture(scope="module")
def image() -> Tensor:
    return wanlab.World(size=128, split="test")[2].video[0]


def level(width: int = 8, blocks: int = 2) -> upsample.Upsample:
    torch.manual_seed(0)
    stage = upsample.Upsample(upsample.Config(width, blocks)).eval()
    return _stirred(stage)


def enhancer() -> detail.Detail:
    torch.manual_seed(0)
    return _stirred(detail.Detail(detail.Config(8, 1, 8, 2)).eval())


def _stirred(stage):
    """Without layers of zeros and the identity of blocks, which would hide how far the stage looks."""
    for parameter in stage.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return stage


def test_the_guide_is_as_exact_under_autocast() -> None:
    """In eight bits neighbouring positions at 1024 pixels lie four of them apart."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(1, 3, 16, 16, generator=generator).softmax(1)
    motion = 0.1 * torch.randn(1, 3, 3, 5, generator=generator)
    denoised = {"motion": motion, "masks": masks, "scope": torch.ones(1, 3)}
    still = {"reference": torch.rand(1, 3, 256, 256, generator=generator), "present": torch.ones(1)}
    window = Window(slice(1, 3), slice(40, 200), slice(8, 256))
    exact = Guide(denoised, still, 256).part(window)
    with torch.autocast("cpu", torch.bfloat16):
        found = Guide(denoised, still, 256).part(window)
        composed = compose(still["reference"], torch.nn.functional.interpolate(masks, (256, 256)), motion)
    assert all(torch.equal(a, b) for a, b in zip(found, exact, strict=True))
    assert composed.flow.dtype == torch.float32


@pytest.mark.parametrize("tiling", [Tiling(96, 16, 8), pytest.param(Tiling(48, 3, 8), marks=pytest.mark.slow),
                                    pytest.param(Tiling(32, 16, 0), marks=pytest.mark.slow)], ids=str)
def test_the_shipped_pipeline_gives_the_same_video_in_tiles(tiny: Cascade, image: Tensor, tiling: Tiling) -> None:
    prompt = "a red circle moves left"
    whole = tiny.generate(image, prompt, seed=0, steps=1)
    parts = tiny.tiled(tiling).generate(image, prompt, seed=0, steps=1)
    for node in ("upsample.0", "upsample.1"):
        assert (parts.nodes[node]["video"] - whole.nodes[node]["video"]).abs().max() <= TOLERANCE
    assert (parts.video - whole.video).abs().max() <= TOLERANCE
    assert torch.equal(parts.nodes["denoise"]["video"], whole.nodes["denoise"]["video"])


@pytest.mark.slow
def test_without_an_image_and_without_layers_too(tiny: Cascade, image: Tensor) -> None:
    for pipe, given in ((tiny, None), (tiny.swap("align", "none"), image)):
        whole, parts = (p.generate(given, "a circle", steps=1, guidance=1).video for p in (pipe, pipe.tiled(Tiling(96, 5, 8))))
        assert (parts - whole).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("stage", "scale"), [(level(), 2), (level(8, 0), 2), (enhancer(), 1)], ids=["upsample", "plain", "detail"])
def test_a_stage_looks_no_farther_than_it_says(stage, scale: int) -> None:
    """The pixels and frames that a pixel of the middle depends on, by autograd."""
    n, f = 64, 9
    video = torch.rand(1, f, 3, n, n, requires_grad=True)
    reference, valid = torch.rand(1, f, 3, scale * n, scale * n), torch.ones(1, f, 1, scale * n, scale * n)
    at = scale * n // 2
    stage(video, reference, valid)[0, f // 2, :, at:at + 2, at:at + 2].sum().backward()
    frames, rows, columns = video.grad[0].abs().sum(1).nonzero(as_tuple=True)
    looks = max(n // 2 - int(rows.min()), int(rows.max()) - n // 2 - (2 // scale - 1), n // 2 - int(columns.min()))
    time = f // 2 - int(frames.min())
    assert looks <= stage.reach.pixels and stage.reach.pixels - looks <= 4, (looks, stage.reach)
    assert time == stage.reach.frames


def test_tiles_that_see_too_little_show_seams() -> None:
    """The reach is needed: without it the same tiles are visibly wrong."""
    stage, video = level(), 2 * torch.rand(1, 4, 3, 48, 48) - 1
    nothing = torch.zeros(1, 4, 1, 96, 96)

    def part(x: Tensor, small: Window, large: Window) -> Tensor:
        reference = nothing[:, large.frames, :, large.rows, large.columns]
        return stage(x, reference.expand(-1, -1, 3, -1, -1), reference)

    with torch.no_grad():
        whole = part(video, Window(slice(0, 4), slice(0, 48), slice(0, 48)), Window(slice(0, 4), slice(0, 96), slice(0, 96)))
        far, near = (tiled(part, video, 2, reach, Tiling(32, 2, 8)) for reach in (stage.reach, Reach(0, 0)))
    assert (far - whole).abs().max() <= TOLERANCE and (near - whole).abs().max() > 1e-2


@pytest.mark.parametrize(("n", "side", "margin", "blend", "scale", "step"),
                         [(128, 32, 7, 4, 2, 2), (100, 33, 3, 8, 2, 2), (7, 3, 2, 0, 1, 1), (64, 64, 5, 8, 1, 2)])
def test_the_parts_of_an_axis_cover_it_and_their_weights_sum_to_one(n, side, margin, blend, scale, step) -> None:
    total = torch.zeros(scale * n)
    for cut in cuts(n, side, margin, blend, scale, step):
        total[scale * cut.used.start: scale * cut.used.stop] += cut.weight
        assert cut.seen.start == max(0, cut.used.start - margin) and cut.seen.stop == min(n, cut.used.stop + margin)
        assert cut.used.start % step == 0 and 0 <= cut.seen.start < cut.seen.stop <= n
    assert torch.allclose(total, torch.ones(scale * n), atol=1e-6)


def test_a_part_of_a_composite_is_that_part() -> None:
    generator = torch.Generator().manual_seed(0)
    frame, motion = torch.rand(2, 3, 24, 24, generator=generator), 0.3 * torch.randn(2, 5, 3, 5, generator=generator)
    masks = torch.softmax(3 * torch.randn(2, 3, 24, 24, generator=generator), 1)
    whole, made = compose(frame, masks, motion), scene(frame, masks, motion)
    for window in (Window(slice(0, 3), slice(4, 20), slice(0, 9)), Window(slice(2, 5), slice(0, 24), slice(8, 24))):
        part, (frames, rows, columns) = view(made, window), window
        for name in part._fields:
            assert torch.allclose(getattr(part, name), getattr(whole, name)[:, frames, ..., rows, columns], atol=1e-5), name


def test_looking_into_a_tiled_stage_is_refused_before_anything_runs(tiny: Cascade, image: Tensor) -> None:
    pipe, done = tiny.tiled(Tiling(64, 16, 8)), []
    inside = ({"capture": "upsample.1.paint"}, {"capture": "**"}, {"edits": Zero("detail.gan")}, {"edits": pipe.ablate("residual")})
    for asked in inside:
        with pytest.raises(TilingError, match=r"runs in tiles of 64 pixels.*pipe\.tiled\(None\)"):
            pipe.generate(image, "a circle", steps=1, progress=lambda *_: done.append(1), **asked)
    request = pipe.request(image, "a circle", steps=1)
    with pytest.raises(TilingError, match=r"upsample\.1\.residual\.skip"):
        pipe.check([Zero("upsample.1.residual.skip")], request)
    with pytest.raises(TilingError, match=r"detail\.out"), trace(pipe, Bypass("detail.out")):
        pipe.generate(image, "a circle", steps=1, progress=lambda *_: done.append(1))
    assert not done


def test_whatever_is_not_tiled_can_be_looked_into(tiny: Cascade, image: Tensor) -> None:
    pipe = tiny.tiled(Tiling(64, 16, 8))                        # upsample.0 makes 64 pixels: one tile
    plain = pipe.generate(image, "a circle", steps=1)
    seen = pipe.generate(image, "a circle", steps=1, capture=["generator.features", "upsample.0.out"])
    assert torch.equal(seen.video, plain.video) and seen.ledger.ok
    assert torch.equal(seen.record["upsample.0.out"].tensor, plain.nodes["upsample.0"]["video"])
    cut = pipe.tiled(None).generate(image, "a circle", steps=1, edits=pipe.ablate("gan_head"))
    assert cut.ledger.ok and not torch.allclose(cut.video, plain.video, atol=1e-3)
    assert pipe.sites() == tiny.sites()
    with pytest.raises(LedgerError, match="never fired"), trace(pipe, Zero("discriminator.spatial")):
        pipe.generate(image, "a circle", steps=1)


def test_tiles_are_part_of_what_a_video_depends_on(tiny: Cascade) -> None:
    assert "tiling" not in tiny.constants and tiny.tiled(Tiling(64)).constants["tiling"] == {"side": 64, "frames": 16, "blend": 8}
    assert tiny.tiled(Tiling(64)).tiled(None).constants == tiny.constants


@pytest.mark.parametrize("wrong", [{"side": 16}, {"side": 66}, {"frames": 0}, {"side": 64, "blend": 17}])
def test_tiles_that_cannot_be_are_refused(wrong: dict) -> None:
    with pytest.raises(TilingError, match="tiles need"):
        Tiling(**wrong)


@pytest.mark.slow
def test_memory_is_that_of_a_tile_whatever_the_size_of_the_video() -> None:
    """Peak resident memory of one process, over a level and the detail stage with the guide, beyond the videos in and out."""
    code = """
import torch
from wanlab.nn.layers import Window
from wanlab.pipelines.guide import Guide
from wanlab.pipelines.tiles import Tiling, tiled
from tests.pipelines.test_tiles import enhancer, level
torch.set_num_threads(1)
stages, tiling, f = ((level(32, 1), 2), (enhancer(), 1)), Tiling(128, 4, 8), 4
def peak():                         # of this process alone: ru_maxrss begins with what its parent had
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
def run(side, stage, scale):
    video = torch.rand(1, f, 3, side, side)
    motion = 0.1 * torch.randn(1, f, 3, 5)
    masks, scope = torch.softmax(torch.randn(1, 3, 32, 32), 1), torch.ones(1, f)
    guide = Guide({"motion": motion, "masks": masks, "scope": scope},
                  {"reference": torch.rand(1, 3, 256, 256), "present": torch.ones(1)}, scale * side)
    def part(x, small, large): return stage(x, *guide.part(large))
    with torch.no_grad():
        return tiled(part, video, scale, stage.reach, tiling)
found = []
for size in (256, 768):
    for stage, scale in stages: run(size // scale, stage, scale)
    found.append(peak())
print(found[0], found[1])
"""
    held = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}   # freed is given back: no gaps of the heap are counted
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=held, capture_output=True, text=True, check=True, timeout=600)
    small, large = map(float, done.stdout.split())
    grown = (768**2 - 256**2) * 4 / 2**20                   # MiB of one channel of one frame
    videos, frame = 2 * 4 * 3 * grown, 40 * grown           # in and out; what the guide holds of one frame
    assert large - small <= videos + frame, (small, large, videos, frame)          # seen: 90 MiB; in one tile: 525
