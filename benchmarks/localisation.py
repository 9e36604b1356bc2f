#!/usr/bin/env python3
"""How well published attention maps find the object on procedural clips, where the truth is known: the table of docs/attention.md.

    .venv/bin/python benchmarks/localisation.py [--quick] [--json FILE]

Workload (fixed): the pipeline `tiny` with its own steps and guidance; clips 0, 1, 2, ... of World(split="test") with one object
(24; --quick: 6): the first frame is the image, the caption the prompt, the seed the clip's number. The object's words are its
colour and shape, the motion word is the caption's last. Heat is read in the branch `cond` and brought to 8 x 8 places. It is
scored against the share of each place that the object covers: in the generated clip, where the object is found by its colour
(`readouts.weights` above SEEN, frames that show it alone); and in the true clip, from which the generated one may differ after the
first frame, as a caption leaves the speed open, so that its first frame stands apart.

Scores (`analysis/localise.py`): pointing accuracy and area-matched IoU; chance is the pointing accuracy of heat without meaning.
DiffTrack is scored by the share of later frames in which the object's centre (the true clip's, and the generated one's) is found
within 1.5 places, beside a point that stays. All have 95 % intervals over clips; and so have the differences, clip by clip, to
DAAM's map of the object's words (`analysis/intervals.py`). A control knows no word: how long the outputs of cross-attention are.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from harness import Median, Row, main

SIZE, CLIPS, QUICK = (8, 8), 24, 6
LAYER, STEP = "generator.up.1.spatial.attn", 4
FIRST, SEEN = "DAAM, object words", 0.1


def clips(pipe: Any, count: int) -> list[tuple[int, Any, str, str]]:
    """Index, sample, words of the object and word of the motion, of the first clips."""
    import wanlab

    world, found = wanlab.World(size=pipe.config["size"], frames=pipe.config["frames"], split="test", max_objects=1), []
    for index in range(count):
        sample = world[index]
        thing = sample.factors["objects"][0]
        found.append((index, sample, f"{thing['colour']} {thing['shape']}", sample.caption.split()[-1]))
    return found


def shares(masks: Any) -> np.ndarray:
    """The part of each place that a mask (frames 1 h w) covers, frames h w."""
    import torch.nn.functional as F

    return F.interpolate(masks.float(), SIZE, mode="area")[:, 0].numpy()


def truths(pipe: Any, index: int, sample: Any) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What the object covers (frames h w) and where its centre stands (frames 2), in the generated and in the true clip."""
    from wanlab.analysis.readouts import centres, weights

    video, colour = pipe.generate(sample.video[0], sample.caption, index).video, sample.factors["objects"][0]["colour"]
    true, found = shares(sample.masks[:, 1:2]), shares((weights(video, colour) > SEEN)[0, :, None])
    return ({"generated clip": found, "true clip": true, "true first frame": true[:1]},
            {"generated clip": centres(video, colour)[0].numpy(), "true clip": sample.tracks[:, 1].numpy()})


def methods(pipe: Any, index: int, sample: Any, thing: str, motion: str) -> dict[str, np.ndarray]:
    """Heat (frames h w) of every method."""
    from wanlab.analysis.concept import concepts
    from wanlab.analysis.daam import daam
    from wanlab.analysis.gramcol import gramcol

    given = (pipe, sample.video[0], sample.caption)
    words = [thing, motion, sample.caption.split()[0]]
    tang = daam(*given, words[:2], index, size=SIZE).isel(row=0)
    return {
        FIRST: tang.sel(word=thing).values,
        "DAAM, motion word": tang.sel(word=motion).values,
        "ConceptAttention, object words": concepts(*given, words, index, size=SIZE).sel(word=thing).values,
        "GramCol, object words": gramcol(*given, thing, index, size=SIZE).values,
        "IMAP, motion word": gramcol(*given, motion, index, motion=0.25, size=SIZE).values,
        "no word: size of the outputs": lengths(*given, index),
    }


def lengths(pipe: Any, image: Any, prompt: str, seed: int) -> np.ndarray:
    """A control that knows no word: the mean square of what each patch reads from the text, frames h w."""
    from wanlab.analysis.layout import layered, resized
    from wanlab.analysis.texts import kept, text_layers

    held = kept(pipe, image, prompt, seed, text_layers(pipe), {"z": None})
    whole = layered({layer: resized((one["z"] ** 2).sum("unit").mean("head"), SIZE) for layer, one in held.items()})
    return whole.mean([axis for axis in whole.dims if axis not in ("frame", "h", "w")]).values


def tracked(pipe: Any, index: int, sample: Any, truth: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of later frames in which each clip's centre is found within 1.5 places; by DiffTrack, and by standing still."""
    from wanlab.analysis.difftrack import correspond

    points = [tuple(one[0]) for one in truth.values()]
    found = correspond(pipe, sample.video[0], sample.caption, points, index, layer=LAYER, step=STEP).values
    near = {}
    for at, (name, centre) in enumerate(truth.items()):
        for who, track in (("DiffTrack", found[:, at]), ("standing still", np.repeat(centre[:1], len(centre), 0))):
            near[f"{who}, {name}: within 1.5 places"] = float((np.abs(track - centre)[1:].max(-1) <= 1.5 / SIZE[0]).mean())
    return near


def mean_row(name: str, values: list[float]) -> Row:
    """A mean over clips with its interval over resampled clips."""
    from wanlab.analysis.intervals import interval, mean_of

    value, low, high = interval(mean_of(np.array(values)), len(values))
    return Median(name, value, "share", interval=(low, high))


def rows(quick: bool, device: str) -> Iterator[Row]:
    """Means over clips, and differences to the first method."""
    from rich.progress import track

    import wanlab
    from wanlab.analysis.localise import scores

    pipe = wanlab.load("tiny")
    found: dict[tuple[str, str], list[float]] = {}
    tracks: dict[str, list[float]] = {}
    for index, sample, thing, motion in track(clips(pipe, QUICK if quick else CLIPS), "clips", disable=not sys.stderr.isatty()):
        masks, points = truths(pipe, index, sample)
        for name, heat in methods(pipe, index, sample, thing, motion).items():
            for where, mask in masks.items():
                for score, value in scores(heat[: len(mask)], mask).items():
                    found.setdefault((name, f"{where}: {score}"), []).append(value)
        for name, value in tracked(pipe, index, sample, points).items():
            tracks.setdefault(name, []).append(value)
    for (name, score), values in found.items():
        yield mean_row(f"{name}, {score}", values)
        if name != FIRST and not score.endswith("chance"):
            yield mean_row(f"{name} less {FIRST}, {score}", list(np.subtract(values, found[FIRST, score])))
    yield from (mean_row(name, values) for name, values in tracks.items())


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
