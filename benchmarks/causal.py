#!/usr/bin/env python3
"""What causal questions cost: a patch grid beside a plain loop, attribution beside one forward and backward, and how well it ranks.

    .venv/bin/python benchmarks/causal.py [--quick] [--device cpu|cuda] [--json FILE]

Workload (fixed): preset tiny, clip 10 of World(split="test") with one object, "a red circle moves left" beside "... right", seed 0.

The grid: 200 cells from the words of the prompt to the last stage, 32 steps (as benchmarks/studies.py), guidance 1.5: 5 words, 3
outputs of the image stage, 4 residual streams of the denoiser in 8 windows of 4 steps, 16 sites of super-resolution and 4 of the
detail stage in each of 8 frames. Shared: `patching.laid_out(...).run`, with the runs that are recorded and compared with.
Plain: one call of `pipe.generate` for each cell, with the same edits; as its cost does not depend on the cell, 8 (--quick: 4)
evenly spaced cells are timed and multiplied; they must give the same numbers as the shared ones, or the benchmark ends. The
denoiser alone: its 32 cells, for which less can be shared; no target. 160 of the 200 cells stand behind the denoising loop.
Through the study engine: the same 200 cells as a study file (`cells.study_cells`), its record saved, run by `run_study` into a
folder with a catalogue metric (flicker), without a report; its picture is the clip's as a PNG file. Two of its cells must give the
number of a plain run, or the benchmark ends.

Attribution: the gates of all heads, frames and branches of the 15 attentions of the UNet at step 4 of 8, towards zero, beside one
forward and backward pass over the same steps with one gradient captured; 7 rounds (--quick: 3), interleaved. Its Spearman
correlation with true ablations: 64 gates drawn at random, of the one clip above (full: of clips 5, 6, 7, 10, 11 by themselves).

Times are seconds of this process's CPU; on cuda of the wall.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import Row, interleaved, main, measured, ratios, timed

GRID_TARGET = 1 / 4         # shared over plain
ATTRIBUTION_TARGET = 3.0    # over one forward and backward
RANK_TARGET = 0.8           # Spearman, at least
PLACES = {
    "words": ["text.out"], "image": ["image.{tokens,pooled,reference}"],
    "loop": ["fusion.resid_post", "generator.{down.0,mid,up.1}.resid_post"],
    "frames": ["upsample.*.residual.{skip,branch}", "upsample.*.blocks.*.{branch,temporal.out}", "detail.{content,noise,gan,out}"],
}  # fmt: skip
HEADS, STEP = "generator.**.attn.z", 4


def contrast(pipe: Any, steps: int) -> Any:
    """Left against right."""
    from wanlab.analysis.contrast import Contrast

    image = clip(pipe, 10).video[0]
    left, right = (pipe.request(image, f"a red circle moves {way}", 0, steps=steps, guidance=1.5) for way in ("left", "right"))
    return Contrast(pipe, left, right)


def clip(pipe: Any, index: int) -> Any:
    """A test clip with one object."""
    import wanlab

    return wanlab.World(size=pipe.config["size"], frames=pipe.config["frames"], split="test", max_objects=1)[index]


def grid(asked: Any, parts: tuple[str, ...] = tuple(PLACES), save: Path | None = None) -> Any:
    """The places of the workload, or of some parts of it."""
    from wanlab.analysis import patching

    return patching.laid_out(asked, [
        place for part in parts
        for place in patching.places(asked.pipe, asked.clean, PLACES[part], 8, [part] if part in ("words", "frames") else [])],
        save=save)


def sharing(pipe: Any, plain_cells: int) -> Iterator[Row]:
    """The patch grid."""
    from wanlab.analysis import readouts
    from wanlab.analysis.cells import generate

    device, asked, metrics = str(pipe.device), contrast(pipe, 32), {"left": readouts.displacement("red", "left")}
    made: dict[str, Any] = {}
    shared = timed(lambda: made.update(grid=(whole := grid(asked)), found=whole.run(metrics)), device)
    cells, values = made["grid"].cells[1:], made["found"].table.set_index("cell").value
    if len(cells) != 200:
        sys.exit(f"the workload has {len(cells)} cells")
    plain = []
    for cell in cells[:: 200 // plain_cells][:plain_cells]:
        plain.append(timed(lambda cell=cell: made.update(out=generate(pipe, asked.corrupted, edits=cell.edits)), device))
        if float(metrics["left"](made["out"])[0]) != values[cell.name]:
            sys.exit(f"{cell.name}: a plain run gives another number")
    yield measured("a plain call of generate", plain, "s")
    yield Row.of("200 patched cells, shared", shared, "s")
    yield measured("200 patched cells, shared over plain", [shared / (200 * one) for one in plain], "ratio", GRID_TARGET)
    yield from studied(device, plain)
    alone = timed(lambda: grid(asked, ("loop",)).run(metrics), device)
    yield measured("32 cells of the denoiser alone, shared over plain", [alone / (32 * one) for one in plain], "ratio")


def studied(device: str, plain: list[float]) -> Iterator[Row]:
    """The same cells as a study, which loads its own weights: as they come, since others that need no gradients round otherwise."""
    from PIL import Image

    import wanlab
    from wanlab.analysis.cells import generate, study_cells
    from wanlab.analysis.contrast import Contrast
    from wanlab.measure import Batch, resolve
    from wanlab.runs.files import to_yaml
    from wanlab.runs.patches import table
    from wanlab.runs.study import run_study

    pipe, made = wanlab.load("tiny").to(device), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = (255 * clip(pipe, 10).video[0]).round().byte().movedim(0, -1).numpy()
        Image.fromarray(first).save(folder / "first.png")
        asked = Contrast(pipe, *(pipe.request(folder / "first.png", f"a red circle moves {way}", 0, steps=32, guidance=1.5)
                                 for way in ("left", "right")))

        def study() -> None:
            whole = made["grid"] = grid(asked, save=folder / "clean.safetensors")
            data = {"kind": "image", "path": str(folder / "first.png"), "prompts": asked.corrupted.prompts}
            told = {"name": "patches", "pipeline": "tiny", "data": data, "sampler": {"steps": 32, "guidance": 1.5},
                    "baseline": "base", "metrics": ["flicker"], "report": {"videos": 0}, "cells": study_cells(whole.cells)}
            (folder / "study.yaml").write_text(to_yaml(told), encoding="utf-8")
            made["root"], _ = run_study(folder / "study.yaml", folder / "run", device=device, report=False, threads_each=1)

        seconds, values = timed(study, device), table(made["root"]).set_index("cell").value
        [flicker] = resolve(["flicker"], device)
        for cell in made["grid"].cells[1::150]:
            if float(flicker.score(Batch(generate(pipe, asked.corrupted, edits=cell.edits).video))[0]) != values[cell.name]:
                sys.exit(f"{cell.name}: a plain run gives another number than the study")
    yield Row.of("200 patched cells, as a study", seconds, "s")
    yield measured("200 patched cells through the study engine over plain", [seconds / (200 * one) for one in plain], "ratio",
                   GRID_TARGET)


def attributing(pipe: Any, rounds: int) -> Iterator[Row]:
    """Attribution beside a forward and backward pass over the same steps."""
    from wanlab.analysis import attribution, readouts
    from wanlab.analysis.cells import Seen, generate
    from wanlab.core import trace

    request, metric = contrast(pipe, 8).clean, readouts.displacement("red", "left")

    def once() -> None:
        with trace(pipe, capture=f"generator.input@steps={STEP},branch=cond -> grad"):
            metric(Seen({"video": generate(pipe, request, grad=f"**@steps={STEP}:").video}, request)).sum().backward()

    both = {"once": once, "all": lambda: attribution.attribute(pipe, request, HEADS, metric, steps=STEP)}
    seconds = interleaved(both, rounds, str(pipe.device))
    yield measured("one forward and backward, seconds", seconds["once"], "s")
    yield measured("attribution of 960 gates over that", ratios(seconds["all"], seconds["once"]), "ratio", ATTRIBUTION_TARGET)


def ranking(pipe: Any, clips: list[int]) -> Iterator[Row]:
    """Spearman's correlation with true ablations, clip by clip."""
    from statistics import median

    from wanlab.analysis import attribution, readouts

    found = []
    for index in clips:
        sample = clip(pipe, index)
        thing = sample.factors["objects"][0]
        request = pipe.request(sample.video[0], sample.caption, index)
        metric = readouts.displacement(thing["colour"], thing["motion"])
        found.append(attribution.attribute(pipe, request, HEADS, metric, steps=STEP).check(64).spearman)
        yield Row.of(f"Spearman with true ablations, clip {index}", found[-1], "correlation")
    value = median(found)
    yield Row("Spearman with true ablations (at least the target)", value, "correlation", RANK_TARGET, value >= RANK_TARGET)


def rows(quick: bool, device: str) -> Iterator[Row]:
    """All rows."""
    import wanlab

    pipe = wanlab.load("tiny").requires_grad_(False).to(device)
    yield from attributing(pipe, 3 if quick else 7)
    yield from ranking(pipe, [10] if quick else [5, 6, 7, 10, 11])
    yield from sharing(pipe, 4 if quick else 8)


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
