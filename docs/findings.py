#!/usr/bin/env python3
"""What is known of `tiny`, each fact with its measure, interval and placebo: .venv/bin/python docs/findings.py [paths] ...

Each finding is a function from a number of clips to a table (docs/readings.py has those that read and steer); run as a program it
writes docs/findings/NAME.csv and draws docs/img/finding_NAME.png (`--draw`: of the tables that are kept). The tests ask for the
same tables on fewer clips.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from einops import repeat

import wanlab
from docs import readings
from wanlab.analysis import browse, cells, dictionary, links, patching, placebo, readouts
from wanlab.analysis import features as rows
from wanlab.analysis.cells import Cell, Seen
from wanlab.analysis.contrast import Contrast
from wanlab.analysis.intervals import interval, mean_of, slope
from wanlab.core.seeding import generator
from wanlab.data.shapes import COLOURS as COLOUR_NAMES
from wanlab.measure import Batch, resolve
from wanlab.plots.style import COLOURS, SERIES, SYMBOLS, sheet, styled
from wanlab.runs.placebo import draw

DOCS = Path(__file__).parent
INPUTS = {"text": "text.{out,mask}", "image": "image.{tokens,pooled,frame,reference,present}"}
HEADS = [f"generator.{block}.{{}}.attn.z" for block in ("down.0", "down.1", "mid", "up.0", "up.1")]
OCTAVES = ("octave 0", "octave 1", "octave 2", "rest")


# ------------------------------------------------------------------------------------------------ which input decides what

def pairs(n: int) -> list[tuple[int, int]]:
    """Test clips of one object, two and two, that differ in colour and shape."""
    world = wanlab.World(size=32, split="test", max_objects=1)
    things = [world[index].factors["objects"][0] for index in range(4 * n + 8)]
    found, used = [], set()
    for i, one in enumerate(things):
        for j, other in enumerate(things[:i]):
            if len(found) < n and not {i, j} & used and one["colour"] != other["colour"] and one["shape"] != other["shape"]:
                found.append((i, j))
                used |= {i, j}
    return found


def paths(n: int, draws: int = 3) -> pandas.DataFrame:
    """What is taken from the clean run (text, image, places of equal size at random) and put into the corrupted one, and how far
    motion, colour and shape go along: share = the slope of changes (value - base) on gaps (other - base). n pairs of clips."""
    pipe = wanlab.load("tiny")
    world = wanlab.World(size=128, split="test", max_objects=1)
    judge = resolve(["shape_accuracy"])[0]
    tables = []
    for number, (clean, corrupted) in enumerate(pairs(n)):
        mine, theirs = (world[index].factors["objects"][0] for index in (clean, corrupted))
        ways = [("left", "right"), ("right", "left"), ("up", "down"), ("down", "up")][number % 4]
        requests = [pipe.request(world[index].video[0], f"a {thing['colour']} {thing['shape']} moves {way}", 0)
                    for index, thing, way in zip((clean, corrupted), (mine, theirs), ways, strict=True)]
        found = [*patching.places(pipe, requests[0], INPUTS)]
        for name, glob in INPUTS.items():
            avoid = "{text,image}.**"
            found += [patching.Place(place.selects, {**place.axes, "site": f"{name} {place.axes['site']}"})
                      for place in placebo.places(pipe, glob, draws, seed=number, avoid=avoid)]
        grid = patching.laid_out(Contrast(pipe, *requests), found)
        metrics = {"motion": _heading((mine["colour"], theirs["colour"]), ways[0]),
                   "colour": _difference(mine["colour"], theirs["colour"]), "shape": _named(judge, mine, theirs)}
        tables.append(grid.run(metrics).table.assign(row=number))
    table = pandas.concat(tables)
    found = []
    for (site, metric), part in table[table.cell != cells.BASE].groupby(["site", "metric"], sort=False):
        share, low, high = interval(slope((part.value - part.base).to_numpy(), (part.other - part.base).to_numpy()), len(part))
        found.append({"site": site, "metric": metric, "share": share, "low": low, "high": high, "n": len(part)})
    return pandas.DataFrame(found)


def _heading(colours: Sequence[str], way: str) -> Callable[[Seen], torch.Tensor]:
    """How far whatever object there is moves along a way."""
    parts = [readouts.displacement(colour, way) for colour in colours]
    return lambda seen: parts[0](seen) + parts[1](seen)


def _difference(mine: str, theirs: str) -> Callable[[Seen], torch.Tensor]:
    return lambda seen: readouts.shown(mine)(seen) - readouts.shown(theirs)(seen)


def _named(judge: Any, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> Callable[[Seen], float]:
    """1 where the object, of whichever colour, is named as the clean clip's shape, -1 where as the other's, else 0."""
    def score(seen: Seen) -> float:
        def named(shape: str) -> float:
            things = [{**thing, "shape": shape, "occluded_last": False} for thing in (mine, theirs)]
            return max(float(judge.score(Batch(seen.video, factors=[{"objects": [thing]}]))[0]) for thing in things)

        return named(mine["shape"]) - named(theirs["shape"])

    return score


def _bars(figure: Any, told: str, rows: str = "clips") -> None:
    """What the bars are, below a figure."""
    figure.text(0.5, 0.03, f"{told}; bars: 95 % bootstrap intervals over {rows}", ha="center", fontsize=6)


def draw_paths(table: pandas.DataFrame) -> Any:
    """Shares of the way to the clean run, a panel for each metric; grey ticks are the placebos of each."""
    with styled():
        figure = sheet(5.5, 1.25)
        for place, metric in enumerate(("motion", "colour", "shape")):
            axes = figure.add_axes((0.1 + 0.305 * place, 0.36, 0.27, 0.46))
            for row, name in enumerate(INPUTS):
                part = table[table.metric == metric].set_index("site")
                chance = part[part.index.str.startswith(f"{name} placebo")].share
                axes.plot(chance, [row] * len(chance), "|", color="#999999", markersize=7, markeredgewidth=0.8, label="placebos")
                one, look = part.loc[name], {"color": SERIES[row], "marker": SYMBOLS[row], "markersize": 4, "elinewidth": 1.0}
                axes.errorbar([one.share], [row], xerr=[[one.share - one.low], [one.high - one.share]], **look)
            axes.axvline(0, color=COLOURS["ink"], linewidth=0.6, zorder=0)
            axes.set_xlim(-0.15, 1.1)
            axes.set_ylim(1.6, -0.6)
            axes.set_yticks([0, 1], list(INPUTS) if not place else ["", ""], fontsize=6)
            axes.tick_params(labelsize=5.5)
            axes.set_title(metric, fontsize=6.5)
        _bars(figure, f"share of the way to the clean run, n = {table.n.iloc[0]} pairs; grey ticks: placebos",
              "pairs")
    return figure


# ------------------------------------------------------------------------------------------------ what keeps frames together

def temporal(n: int) -> pandas.DataFrame:
    """Warping error (along the true clips' flow), identity (`same_things`) and motion where 5, 10, 15 or all 20 heads of temporal
    attention are zeroed, drawn at random, and the same for as many heads of spatial attention, whose outputs are as large.
    Differences to the whole system; n clips."""
    pipe = wanlab.load("tiny")
    runs = [Cell("base")]
    for kind in ("temporal", "spatial"):
        order = torch.randperm(20, generator=generator("heads", kind, 0)).tolist()
        for count in (5, 10, 15, 20):
            heads = [(HEADS[at // 4].format(kind), at % 4) for at in sorted(order[:count])]
            edits = tuple(wanlab.Zero(site, heads=[head for name, head in heads if name == site])
                          for site in dict.fromkeys(name for name, _ in heads))
            runs.append(Cell(f"{kind} {count}", edits, {"kind": kind, "count": str(count)}))
    return _differences(pipe, n, runs, {"warp_error": "warp_error", "identity": same_things, "motion_accuracy": "motion_accuracy"})


def same_things(batch: Batch) -> torch.Tensor:
    """Of the objects that have their colour and shape in the first frame, the share that has them in each later frame too: the
    colour, by which an object is found, and the shape that the judge of `shape_accuracy` names. One number for each clip; what is
    covered or outside counts as lost, with and without edits alike."""
    judge, found = resolve(["shape_accuracy"])[0], []
    for video, clip in zip(batch.video, batch.factors, strict=True):
        things = [{**thing, "occluded_last": False} for thing in clip["objects"]]
        frames = repeat(video, "f c h w -> (o f) 1 c h w", o=len(things))
        named = judge.score(Batch(frames, factors=[{"objects": [thing]} for thing in things for _ in video]))
        first, *later = torch.as_tensor(named).reshape(len(things), len(video)).bool().T
        found.append(torch.stack([first & one for one in later]).float().mean(0).sum() / first.sum().clamp(min=1))
    return torch.stack(found)


def _differences(pipe: Any, n: int, runs: Sequence[Cell], measures: Mapping[str, Any]) -> pandas.DataFrame:
    """Each cell and measure (one of the catalogue, or a function of a `Batch`) against the cell `base`, paired by clip; n clips of
    the test split in batches of 8."""
    world, tables = wanlab.World(size=128, split="test"), []
    judges = {name: one if callable(one) else resolve([one])[0].score for name, one in measures.items()}
    for start in range(0, n, 8):
        index = list(range(start, min(start + 8, n)))
        clips = world.batch(index)

        def metric(judge: Any, clips: Any = clips) -> Callable[[Seen], Any]:
            return lambda seen: judge(Batch(seen.video, reference=clips.video, factors=clips.factors))

        metrics = {name: metric(judge) for name, judge in judges.items()}
        made = cells.run(pipe, pipe.request(clips.video[:, 0], clips.captions, [0] * len(index)), runs, metrics)
        tables.append(made.assign(row=made.row + start))
    table = pandas.concat(tables)
    found = []
    for (cell, name), part in cells.beside(table[table.cell != cells.BASE], base=table[table.cell == cells.BASE]).groupby(
            ["cell", "metric"], sort=False):
        delta, low, high = interval(mean_of((part.value - part.base).to_numpy()), len(part))
        found.append({"cell": cell, "metric": name, "base": part.base.mean(), "delta": delta, "low": low, "high": high,
                      "n": len(part)})
    return pandas.DataFrame(found)


def draw_temporal(table: pandas.DataFrame) -> Any:
    """Difference by how many heads are zeroed, temporal ones and as many spatial ones."""
    with styled():
        figure = sheet(5.5, 1.8)
        panels = {"warp_error": "warping error", "identity": "colour and shape kept", "motion_accuracy": "motion accuracy"}
        for place, (metric, label) in enumerate(panels.items()):
            axes = figure.add_axes((0.085 + 0.325 * place, 0.3, 0.255, 0.57))
            for number, kind in enumerate(("temporal", "spatial")):
                part = table[(table.metric == metric) & table.cell.str.startswith(kind)]
                counts = part.cell.str.split().str[1].astype(int).to_numpy() + 0.3 * (number - 0.5)
                ends = np.stack([part.delta - part.low, part.high - part.delta])
                axes.errorbar(counts, part.delta, ends, color=SERIES[1 - number], marker=SYMBOLS[number], markersize=3.5,
                              linewidth=0.9, elinewidth=0.8, label=f"{kind}{' (placebo)' if number else ''}")
            axes.axhline(0, color=COLOURS["ink"], linewidth=0.6)
            axes.set_title(label, fontsize=6.5)
            axes.set_xlabel("heads zeroed, of 20", fontsize=6)
            axes.set_xticks([5, 10, 15, 20])
            axes.tick_params(labelsize=5.5)
            if not place:
                axes.legend(fontsize=5.5, frameon=False, loc="upper left")
        _bars(figure, f"differences to the whole system; n = {table.n.iloc[0]} clips")
    return figure


# ------------------------------------------------------------------------------------------------ where colours are told apart

PIXELS = "align.pixels"


def pixel_features(clips: int = 96, features: int = 64, k: int = 3, **settings: Any) -> Any:
    """A dictionary of what the alignment says of each pixel of the first frame, trained on first frames of the training split."""
    pipe, world = wanlab.load("tiny"), wanlab.World(size=128, frames=1, split="train")
    requests = (_first_frames(pipe, world, range(start, min(start + 16, clips))) for start in range(0, clips, 16))
    blocks = rows.stream(pipe, requests, PIXELS, rows=1024, branch="cond")
    how = {"steps": 1500, "rate": 3e-3, "dead": 20_000} | settings
    return dictionary.train(blocks, features, k, dictionary.about(pipe, PIXELS), **how)


def _first_frames(pipe: Any, world: Any, index: Sequence[int], steps: int = 1) -> Any:
    clips = world.batch(index)
    return pipe.request(clips.video[:, 0], clips.captions, list(index), steps=steps)


def coloured(held: Any, clips: int = 32) -> browse.Browsed:
    """The dictionary's features over test clips, with what is known of them."""
    pipe, world = wanlab.load("tiny"), wanlab.World(size=128, split="test")
    parts = [range(start, min(start + 8, clips)) for start in range(0, clips, 8)]
    factors = [one for part in parts for one in world.batch(part).factors]
    return browse.read(pipe, held, (_first_frames(pipe, world, part) for part in parts), factors)


def ablated(held: Any, best: Mapping[str, int], n: int) -> pandas.DataFrame:
    """Mean change of the video inside the object and outside of it, where the feature of its colour is taken away, where that of
    any object is, and where that of another colour is (the placebo); n test clips of one object. `best`: of each colour, and
    "inside"."""
    pipe, world = wanlab.load("tiny"), wanlab.World(size=128, split="test", max_objects=1)
    found: dict[str, list[torch.Tensor]] = {}
    names = [name for name in best if name != "inside"]
    for start in range(0, n, 8):
        index = range(start, min(start + 8, n))
        clips = world.batch(index)
        request = pipe.request(clips.video[:, 0], clips.captions, list(index))
        colours = [one["objects"][0]["colour"] for one in clips.factors]
        plain = cells.generate(pipe, request).video
        inside = readouts.weights(plain, colours) > 0.3
        others = [names[(names.index(colour) + 1 + row % (len(names) - 1)) % len(names)] for row, colour in enumerate(colours)]
        for name, told in (("its colour", colours), ("any object", ["inside"] * len(colours)), ("another colour", others)):
            edits = [wanlab.Feature(PIXELS, dictionary=held, features=best[colour], rows=row) for row, colour in enumerate(told)]
            change = (cells.generate(pipe, request, edits=edits).video - plain).abs().mean(2)
            for where, mask in (("inside", inside), ("outside", ~inside)):
                mean = (change * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)
                found.setdefault(f"{name}, {where}", []).append(mean)
    table = []
    for name, parts in found.items():
        mean, low, high = interval(mean_of(torch.cat(parts).double().numpy()), n)
        kind, where = name.split(", ")
        table.append({"feature": kind, "where": where, "change": mean, "low": low, "high": high, "n": n})
    return pandas.DataFrame(table)


def features(n: int) -> pandas.DataFrame:
    """`ablated` for the features that go most with each colour; draws where one fires, and writes how well each goes with it."""
    held = pixel_features()
    seen = coloured(held)
    best = {colour: int(seen.best(f"colour {colour}", 1).index[0]) for colour in COLOUR_NAMES}
    best["inside"] = int(seen.best("inside", 1).index[0])
    told = pandas.DataFrame([{"colour": name, "feature": one, "density": seen.table.density[one], "n": len(seen.videos),
                              "correlation": seen.correlations[label][one], "rival": seen.best(label, 1).rival.iloc[0]}
                             for name, one in best.items() for label in ["inside" if name == "inside" else f"colour {name}"]])
    (DOCS / "findings").mkdir(exist_ok=True)
    told.to_csv(DOCS / "findings" / "colours.csv", index=False, float_format="%.5g")
    seen.figure(best["red"]).savefig(DOCS / "img" / "finding_red.png", dpi=200)
    fit = dictionary.compare(held, rows.stream(wanlab.load("tiny"), [_first_frames(wanlab.load("tiny"), wanlab.World(
        size=128, frames=1, split="test"), range(16))], PIXELS, rows=1024))
    fit.to_csv(DOCS / "findings" / "dictionary.csv", float_format="%.5g")
    print(told.round(3).to_string(), fit.round(3).to_string(), sep="\n")
    return ablated(held, best, n)


def draw_features(table: pandas.DataFrame) -> Any:
    """Change inside and outside, of the two kinds of feature."""
    with styled():
        figure = sheet(3.4, 1.7)
        axes = figure.add_axes((0.43, 0.32, 0.53, 0.6))
        for number, where in enumerate(("inside", "outside")):
            part = table[table["where"] == where]
            at = np.arange(len(part)) + 0.16 * (number - 0.5)
            ends = np.stack([part.change - part.low, part.high - part.change])
            axes.errorbar(part.change, at, xerr=ends, color=SERIES[number], marker=SYMBOLS[number], linestyle="none", markersize=4,
                          elinewidth=0.9, label=f"{where} the object")
        kinds = list(dict.fromkeys(table.feature))
        axes.set_yticks(range(len(kinds)), [f"feature of {name} removed" for name in kinds], fontsize=6)
        axes.set_ylim(len(kinds) - 0.5, -0.5)
        axes.tick_params(labelsize=5.5)
        axes.set_xlabel("mean change of the video", fontsize=6)
        axes.legend(fontsize=5.5, frameon=False, loc="lower right")
        _bars(figure, f"n = {table.n.iloc[0]} clips")
    return figure


# ------------------------------------------------------------------------------------------------ where high frequencies come from

def texture(n: int, draws: int = 5) -> pandas.DataFrame:
    """Energy of each octave of the video without the texture head, and with cuts of equal size elsewhere in its stage, over that
    of the whole system, as a difference of logarithms (base 2: -1 is half); n clips."""
    pipe = wanlab.load("tiny")
    runs = [Cell("base"), Cell("gan_head", tuple(pipe.ablate("gan_head")))]
    runs += [Cell(f"placebo {number}", tuple(draw(pipe, ["gan_head"], number, 0))) for number in range(draws)]

    def energy(band: int) -> Callable[[Batch], torch.Tensor]:
        def measured(seen: Batch) -> torch.Tensor:
            centred = seen.video - seen.video.mean((-2, -1), keepdim=True)          # the rest without the mean of the picture
            return links.bands(centred)[band].square().mean((1, 2, 3, 4)).log2()

        return measured

    return _differences(pipe, n, runs, {name: energy(band) for band, name in enumerate(OCTAVES)})


def draw_texture(table: pandas.DataFrame) -> Any:
    """Difference of energy by octave; placebos in grey."""
    with styled():
        figure = sheet(3.4, 1.9)
        axes = figure.add_axes((0.15, 0.26, 0.82, 0.62))
        for cell, part in table.groupby("cell", sort=False):
            mine = cell == "gan_head"
            ends = np.stack([part.delta - part.low, part.high - part.delta])
            at = np.arange(4) + (0 if mine else 0.06 * (int(cell.split()[1]) - 2))
            label = "without the texture head" if mine else "as much cut elsewhere (placebos)" if cell == "placebo 0" else None
            axes.errorbar(at, part.delta, ends, color=SERIES[1] if mine else "#999999", marker="v" if mine else "|",
                          zorder=3 if mine else 2, markersize=4, linewidth=1.0 if mine else 0.5, elinewidth=0.8, label=label)
        axes.axhline(0, color=COLOURS["ink"], linewidth=0.6)
        axes.set_xticks(range(4), ["octave 0\n(finest)", *OCTAVES[1:]], fontsize=6)
        axes.tick_params(labelsize=5.5)
        axes.set_title("energy: difference to the whole system's, log2", fontsize=6.5)
        axes.legend(fontsize=6, frameon=False)
        _bars(figure, f"n = {table.n.iloc[0]} clips")
    return figure


# ------------------------------------------------------------------------------------------------ what the links carry

def bands(n: int) -> pandas.DataFrame:
    """`links.shares` between a first frame and the same without its two finest octaves; n clips, of docs/swaps.md."""
    pipe, world, tables = wanlab.load("tiny"), wanlab.World(size=128, split="test"), []
    for start in range(0, n, 4):
        index = list(range(start, min(start + 4, n)))
        clips = world.batch(index)
        first = clips.video[:, 0]
        blurred = sum(links.bands(first[:, None], 2)[2:])[:, 0].clamp(0, 1)
        requests = [pipe.request(images, clips.captions, index) for images in (first, blurred)]
        table = links.carried(Contrast(pipe, *requests))
        tables.append(table.assign(row=table.row + start))
    return links.shares(pandas.concat(tables))


def draw_bands(table: pandas.DataFrame) -> Any:
    """Shares as tiles: links and sides down, octaves to the right."""
    from wanlab.plots.tiles import tiles

    order = [f"upsample.{level}.residual.{side}" for level in (0, 1) for side in ("skip", "branch")]
    panels = {metric: part.pivot(index="site", columns="band", values="share").loc[order].to_numpy()
              for metric, part in table.groupby("metric", sort=False)}
    return tiles(panels, [site.replace(".residual.", " ").replace("upsample.", "level ") for site in order],
                 ["0", "1", "2", "rest"], "share", across="octave", note=f"n = {table.n.iloc[0]} clips; intervals in docs/swaps.md")


Finding = tuple[Callable[[int], pandas.DataFrame], Callable[[pandas.DataFrame], Any] | None, int]
FINDINGS: dict[str, Finding] = {
    "paths": (paths, draw_paths, 12), "temporal": (temporal, draw_temporal, 24), "texture": (texture, draw_texture, 32),
    "features": (features, draw_features, 16), "bands": (bands, draw_bands, 16),
    "probes": (readings.probes, readings.draw_probes, 96), "lens": (readings.lens, readings.draw_lens, 16),
    "tokens": (readings.tokens, None, 160), "steering": (readings.steering, None, 8)}


if __name__ == "__main__":
    kept = "--draw" in sys.argv
    for name in [one for one in sys.argv[1:] if one != "--draw"] or FINDINGS:
        made, drawn, n = FINDINGS[name]
        path = DOCS / "findings" / f"{name}.csv"
        table = pandas.read_csv(path) if kept else made(n)
        path.parent.mkdir(exist_ok=True)
        table.to_csv(path, index=False, float_format="%.5g")
        if drawn is not None:
            drawn(table).savefig(DOCS / "img" / f"finding_{name}.png", dpi=200)
        print(table.round(4).to_string())
