#!/usr/bin/env python3
"""How well published attention maps find the object on procedural clips, where the truth is known: the table of docs/attention.md.

    .venv/bin/python benchmarks/localisation.py [--quick] [--json FILE]

Workload (fixed): the pipeline `tiny` with its own steps and guidance; clips 0, 1, 2, ... of World(split="test") with one object
(24; --quick: 6): the first frame is the image, the caption the prompt, the seed the clip's number. The object's words are its
colour and shape, the motion word is the caption's last. Heat is read in the branch `cond` and brought to 8 x 8 places. It is
scored against the share of each place that the object covers in the true clip; as a caption leaves the speed open, the
generated object need not be there in later frames, so scores on the first frame alone stand beside those on all frames.

Scores (`analysis/localise.py`): pointing accuracy and area-matched IoU; chance is the pointing accuracy of heat without meaning.
DiffTrack is scored by the share of later frames in which the object's centre is found within 1.5 places, beside a point that stays.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from harness import Row, main

SIZE, CLIPS, QUICK = (8, 8), 24, 6
LAYER, STEP = "generator.up.1.spatial.attn", 4


def clips(pipe: Any, count: int) -> list[tuple[int, Any, str, str]]:
    """Index, sample, words of the object and word of the motion, of the first clips."""
    import wanlab

    world, found = wanlab.World(size=pipe.config["size"], frames=pipe.config["frames"], split="test", max_objects=1), []
    for index in range(count):
        sample = world[index]
        thing = sample.factors["objects"][0]
        found.append((index, sample, f"{thing['colour']} {thing['shape']}", sample.caption.split()[-1]))
    return found


def shares(sample: Any) -> np.ndarray:
    """The part of each place that the object covers, frames h w."""
    import torch.nn.functional as F

    return F.interpolate(sample.masks[:, 1:2], SIZE, mode="area")[:, 0].numpy()


def methods(pipe: Any, index: int, sample: Any, thing: str, motion: str) -> dict[str, np.ndarray]:
    """Heat (frames h w) of every method."""
    from wanlab.analysis.concept import concepts
    from wanlab.analysis.daam import daam
    from wanlab.analysis.gramcol import gramcol

    given = (pipe, sample.video[0], sample.caption)
    words = [thing, motion, sample.caption.split()[0]]
    tang = daam(*given, words[:2], index, at="generator.**", size=SIZE).isel(row=0)
    return {
        "DAAM, object words": tang.sel(word=thing).values,
        "DAAM, motion word": tang.sel(word=motion).values,
        "ConceptAttention, object words": concepts(*given, words, index, at="generator.**", size=SIZE).sel(word=thing).values,
        "GramCol, object words": gramcol(*given, thing, index, at="generator.**", size=SIZE).values,
        "IMAP, motion word": gramcol(*given, motion, index, at="generator.**", motion=0.25, size=SIZE).values,
    }


def tracked(pipe: Any, index: int, sample: Any) -> tuple[float, float]:
    """Share of later frames in which the centre is found within 1.5 places; by DiffTrack, and by standing still."""
    from wanlab.analysis.difftrack import correspond

    truth = sample.tracks[:, 1].numpy()
    found = correspond(pipe, sample.video[0], sample.caption, [tuple(truth[0])], index, layer=LAYER, step=STEP).values[:, 0]

    def near(points: np.ndarray) -> float:
        return float((np.abs(points - truth)[1:].max(-1) <= 1.5 / SIZE[0]).mean())

    return near(found), near(np.repeat(truth[:1], len(truth), 0))


def rows(quick: bool, device: str) -> Iterator[Row]:
    """Means over clips."""
    from rich.progress import track

    import wanlab
    from wanlab.analysis.localise import scores

    pipe = wanlab.load("tiny")
    found: dict[str, dict[str, list[float]]] = {}
    tracks: list[tuple[float, float]] = []
    for index, sample, thing, motion in track(clips(pipe, QUICK if quick else CLIPS), "clips", disable=not sys.stderr.isatty()):
        mask = shares(sample)
        for name, heat in methods(pipe, index, sample, thing, motion).items():
            for where, part in (("all frames", slice(None)), ("first frame", slice(1))):
                for score, value in scores(heat[part], mask[part]).items():
                    found.setdefault(f"{name}, {where}", {}).setdefault(score, []).append(value)
        tracks.append(tracked(pipe, index, sample))
    for name, each in found.items():
        yield from (Row.of(f"{name}: {score}", float(np.mean(values)), "share") for score, values in each.items())
    own, still = np.mean(tracks, 0)
    yield Row.of("DiffTrack: centre within 1.5 places", own, "share")
    yield Row.of("standing still: the same", still, "share")


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
