"""What can be read in `tiny`, what a lens shows, and what steers: findings of docs/findings.md and docs/analysis.md.

Each is a function from a number of clips (of the test split, of one object) to a table, as those of docs/findings.py, which runs
them. Guidance is 1 throughout: one branch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas
import torch

import wanlab
from wanlab.analysis import features, readouts
from wanlab.analysis import lens as lenses
from wanlab.analysis import probes as readers
from wanlab.analysis import steering as steers
from wanlab.analysis.cells import Metric, Seen
from wanlab.analysis.intervals import interval, mean_of
from wanlab.analysis.labels import of_truth, types_of
from wanlab.core.seeding import generator
from wanlab.plots.style import COLOURS, SERIES, SYMBOLS, sheet, styled

WAYS = ("left", "right", "up", "down")
PLACES = "{image.tokens,text.out,fusion.{resid_pre,resid_attn,out,said},generator.{down.*,mid,up.*}.resid_post}"
BLOCKS = "generator.{down.*,mid,up.*}.resid_post"
STEPS = (0, 2)
CHANNELS = 64                   # of the fusion's tokens
WORD = "text.out[keys=4]"       # the token of the way, in "a red circle moves left"


def world(n: int, start: int = 0) -> Any:
    """n clips of the test split, of one object."""
    return wanlab.World(size=128, split="test", max_objects=1).batch(range(start, start + n))


def told(clips: Any, way: Callable[[int], str]) -> list[str]:
    """A prompt for each clip: its object, and a way to move that has nothing to do with what it does in the world."""
    things = [clip["objects"][0] for clip in clips.factors]
    return [f"a {thing['colour']} {thing['shape']} moves {way(i)}" for i, thing in enumerate(things)]


def asked(pipe: Any, clips: Any, prompts: Sequence[str], steps: int, size: int = 16) -> Iterator[Any]:
    """Requests of `size` clips each, made one at a time; the seed of a clip is its number."""
    for start in range(0, len(prompts), size):
        rows = list(range(start, min(start + size, len(prompts))))
        yield pipe.request(clips.first[rows], [prompts[i] for i in rows], rows, steps=steps, guidance=1.0)


# ------------------------------------------------------------------------------------------------ where things can be read

def probes(n: int, draws: int = 5) -> pandas.DataFrame:
    """Linear probes of means over tokens, at the first and the third of four steps: the motion (one of four ways that is told,
    whatever the picture), shape and colour; chance, permuted labels, and a control task by type of clip. Placebos (`drawn`):
    other sites of the image's stage and of the denoiser, drawn at random, as many channels of each as the fusion has. n clips:
    0.3 n judge."""
    pipe, clips = wanlab.load("tiny"), world(n)
    drawn = [name for stage in ("image", "generator") for name in _drawn(pipe, stage, draws)]
    requests = asked(pipe, clips, told(clips, lambda i: WAYS[i % 4]), steps=4)
    at = f"{{{PLACES[1:-1]},{','.join(drawn)}}}"
    means = [_narrowed(block) if block.site in drawn else block
             for block in features.gather(features.pooled(pipe, requests, at, steps=list(STEPS)))]
    truth = of_truth(clips)
    labels = {"motion": np.array([WAYS[i % 4] for i in range(n)]), "shape": truth["shape"], "colour": truth["colour"]}
    table: pandas.DataFrame = readers.linear(means, labels, types=types_of(labels)).table
    return table.assign(drawn=table.site.isin(drawn))


def _drawn(pipe: Any, stage: str, draws: int) -> list[str]:
    """Sites of a stage that have as many channels as the fusion, or more, and are none of PLACES."""
    sites = [site.name for site in pipe.sites(f"{stage}.**") if "c" in site.axes and (site.size("c") or 0) >= CHANNELS
             and "b" in site.axes and not site.derived and site.name not in pipe.sites(PLACES)]
    order = torch.randperm(len(sites), generator=generator("placebo of probes", stage)).tolist()
    return [sites[at] for at in order[:draws]]


def _narrowed(block: features.Features) -> features.Features:
    """CHANNELS of a site's channels, drawn at random."""
    order = torch.randperm(block.values.shape[1], generator=generator("placebo of probes", block.site))
    return replace(block, values=block.values[:, order[:CHANNELS]])


def draw_probes(table: pandas.DataFrame) -> Any:
    """Accuracy by layer, a panel for each label: the text and the image's way; without placebos, and without `fusion.said`, which
    is of the text's tokens alone."""
    from wanlab.plots.probe import by_layer

    mine = table[~table.drawn & (table.site != "fusion.said")]
    return by_layer({name: mine[mine.label == name] for name in table.label.unique()}, "tiny, means over tokens")


def tokens(n: int) -> pandas.DataFrame:
    """What the tokens of the first frame tell by their mean (linear) and one by one (attentive, which knows where each stands),
    and what the middle of the denoiser tells of each frame at the first of two steps. n clips: 0.3 n judge."""
    pipe, clips, tables = wanlab.load("tiny"), world(n), []
    truth = of_truth(clips)
    first = {**{name: truth[name] for name in ("colour", "shape", "speed")}, "x": truth["x"][:, 0], "y": truth["y"][:, 0]}

    def requests() -> Iterator[Any]:
        return asked(pipe, clips, clips.captions, steps=2)

    means = features.gather(features.pooled(pipe, requests(), "image.tokens"))
    every = features.gather(features.stream(pipe, requests(), "image.tokens", rows=64))
    frames = features.gather(features.pooled(pipe, requests(), "generator.mid.resid_post", frames=True, steps=[0]))
    asks = [("linear", readers.linear(means, first)),
            ("attentive", readers.attentive(every, {name: first[name] for name in ("shape", "x", "y", "speed")}, where=True)),
            ("linear, each frame", readers.linear(frames, {name: truth[name] for name in ("x", "y", "speed")}))]
    for probe, found in asks:
        tables.append(found.table.assign(probe=probe))
    return pandas.concat(tables)


# ------------------------------------------------------------------------------------------------ what a lens shows

def lens(n: int) -> pandas.DataFrame:
    """Through each block, at the first and the third of four steps, plain and with maps fitted on n other clips: how far the object
    moves as told (widths), and how far x0 is from the model's own (standard deviations); and of the maps what they explain of the
    last stream's variance on the clips that they were fitted to. n clips."""
    pipe, tables = wanlab.load("tiny"), []
    fitted, clips = world(n, start=n), world(n)
    ways = [WAYS[i % 4] for i in range(n)]
    tuned = lenses.tune(pipe, list(asked(pipe, fitted, told(fitted, ways.__getitem__), steps=4, size=8)), BLOCKS)
    colours = [clip["objects"][0]["colour"] for clip in clips.factors]
    for kind, maps in (("plain", None), ("tuned", tuned)):
        parts = [lenses.blocks(pipe, request, BLOCKS, steps=list(STEPS), tuned=maps)
                 for request in asked(pipe, clips, told(clips, ways.__getitem__), steps=4, size=8)]
        for layer in (str(one) for one in parts[0].x0.layer.values):
            for step in STEPS:
                shown = np.concatenate([one.x0.sel(step=step, layer=layer).transpose("row", "frame", "channel", "h", "w").values
                                        for one in parts])
                away = np.concatenate([one.distance.sel(step=step, layer=layer).values for one in parts])
                for measure, values in (("moved as told", _moved(shown, colours, ways)), ("distance", away)):
                    value, low, high = interval(mean_of(values), n)
                    tables.append({"lens": kind, "layer": layer, "step": step, "measure": measure, "value": value, "low": low,
                                   "high": high, "n": n})
    tables += [{"lens": "tuned", "layer": layer, "measure": "explained", "value": 1 - error, "n": n}
               for layer, error in tuned.error.items()]
    return pandas.DataFrame(tables).astype({"step": "Int64"})


def _moved(x0: np.ndarray, colours: Sequence[str], ways: Sequence[str]) -> np.ndarray:
    place = readouts.centres(torch.from_numpy((x0 + 1) / 2).clamp(0, 1), colours)
    heading = torch.tensor([readouts.HEADINGS[way] for way in ways])
    moved: np.ndarray = ((place[:, -1] - place[:, 0]) * heading).sum(-1).numpy()
    return moved


def draw_lens(table: pandas.DataFrame) -> Any:
    """By layer, a panel for each measure, a line for each lens and step."""
    layers = list(dict.fromkeys(table.layer))
    with styled():
        figure = sheet(5.5, 2.1)
        panels = {"moved as told": "moved as told, widths", "distance": "distance to the model's own x0, sd"}
        for place, (measure, title) in enumerate(panels.items()):
            axes = figure.add_axes((0.07 + 0.5 * place, 0.36, 0.41, 0.52))
            for number, step in enumerate(STEPS):
                for kind, dashes in (("plain", (1, 0)), ("tuned", (3, 1.5))):
                    part = table[(table.measure == measure) & (table.lens == kind) & (table.step == step)]
                    at = np.array([layers.index(layer) for layer in part.layer]) + 0.08 * (2 * number - 1)
                    ends = np.stack([part.value - part.low, part.high - part.value])
                    label = f"step {step}, {'plain' if kind == 'plain' else 'with a map'}"
                    axes.errorbar(at, part.value, ends, color=SERIES[number], marker=SYMBOLS[number], markersize=3, linewidth=0.9,
                                  elinewidth=0.7, dashes=dashes, label=label,
                                  markerfacecolor="white" if kind == "tuned" else SERIES[number])
            axes.axhline(0, color=COLOURS["ink"], linewidth=0.6)
            axes.set_xticks(range(len(layers)), [one.removesuffix(".resid_post").removeprefix("generator.") for one in layers])
            axes.tick_params(labelsize=5.5)
            axes.set_title(title, fontsize=6.5)
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, fontsize=6, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 0.1))
        figure.text(0.5, 0.04, f"n = {table.n.iloc[0]} clips, bars: 95 % bootstrap intervals over clips", ha="center", fontsize=6)
    return figure


# ------------------------------------------------------------------------------------------------ what can be steered

def steering(n: int) -> pandas.DataFrame:
    """Left less right, added at the word's token, to all of the text, and at `fusion.said`, to runs that are told to move up; two
    steps, of the base video; beside it random directions of equal length. Changes from dose 0, paired by clip; n clips."""
    pipe, clips, tables = wanlab.load("tiny"), world(n), []
    colours = [clip["objects"][0]["colour"] for clip in clips.factors]

    def to(way: str) -> Any:
        return pipe.request(clips.first, told(clips, lambda i: way), list(range(n)), steps=2, guidance=1.0)

    def low(metric: Metric) -> Metric:
        """Of the base video, which lies in [-1, 1]."""
        return lambda seen: metric(Seen({"video": (seen.video.clamp(-1, 1) + 1) / 2}, seen.request))

    metrics = {"left": low(readouts.displacement(colours, "left")), "up": low(readouts.displacement(colours, "up")),
               "growth": low(readouts.growth(colours)), "colour": low(readouts.shown(colours)),
               "sharpness": low(readouts.sharpness())}
    for at, doses in ((WORD, (-1, 1)), ("text.out", (1,)), ("fusion.said", (1,))):
        direction = steers.difference(pipe, [to("left")], [to("right")], at)
        made = steers.doses(pipe, to("up"), direction, metrics, doses=doses, placebos=2, read="denoise")
        tables.append(made.summary.assign(site=at))
    return pandas.concat(tables)
