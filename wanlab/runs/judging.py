"""`wanlab metrics`: the measures over two folders of videos, one batch in memory however many there are, without any study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from wanlab.core import suggestion
from wanlab.data.media import MediaError, Size
from wanlab.data.table import read_captions
from wanlab.measure import Clips as Clips
from wanlab.measure import available, idle, info, part, resolve

from .court import Court, some
from .environment import pick_device
from .found import Cache
from .pairing import Item, Pairing, Reader, pair
from .verdict import CurveFile, Verdict, save_values

ARROWS = {True: "higher", False: "lower", None: ""}
MOTION = "motion_magnitude"
LEAST = 16  # pixels of a side that --size may ask for
PAIRED = {"reference", "image"}  # what a measure needs of a partner
USUAL = ("fvd", "lpips", "psnr", "ssim", "warp_error")


def listing(console: Console) -> None:
    """Print every metric with what it needs."""
    table = Table()
    for head in ("metric", "better", "over", "needs", "what it is", "in brackets"):
        table.add_column(head)
    for name, known in available().items():
        needs = ", ".join([*sorted(known.needs), *(["weights"] if known.weights else [])])
        table.add_row(name, ARROWS[known.higher_is_better], known.kind, needs, known.summary, ", ".join(known.choices))
    console.print(table)


@dataclass(frozen=True)
class Request:
    """What is to be judged: folders, metrics, and how. size: None = the videos' own; batch: videos at once, at most; prompts: a CSV
    file; cache: a folder in which whatever is found is kept, so that a stopped call goes on."""

    real: Path | None
    fake: Path
    names: Sequence[str]
    clips: Clips = field(default_factory=Clips)
    weights: Mapping[str, str | Path] = field(default_factory=dict)
    size: Size = None
    batch: int = 8
    device: str = "auto"
    out: Path | None = None
    prompts: Path | None = None
    cache: Path | None = None


def size_of(text: str | None) -> Size:
    """`--size`: one number (a square) or two, height and width.

    Raises:
        ValueError: anything else, or fewer than 16 pixels.
    """
    if text is None:
        return None
    sides = text.split(",")
    if len(sides) > 2 or not all(side.strip().isdecimal() and int(side) >= LEAST for side in sides):
        raise ValueError(f"--size {text}: expected one number or H,W, for example 256 or 480,832 (from {LEAST} pixels)")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def request(
    real: Path | None, fake: Path | None, names: Sequence[str], clips: Clips, weights: Sequence[str],
    size: str | None, **more: Any,
) -> Request:  # fmt: skip
    """A request as the command line says it: weights as NAME=PATH, the usual metrics where none is named.

    Raises:
        ValueError: no folder to judge, no reference for the usual metrics, weights that are not NAME=PATH or that nobody knows.
    """
    if fake is None or (real is None and not names):
        raise ValueError(
            "wanlab metrics needs both --real and --fake (--fake alone for named metrics without a reference; no option at all, to "
            "list all metrics)"
        )
    given = {}
    for text in weights:
        name, _, path = text.partition("=")
        if not name or not path:
            raise ValueError(f"--weights {text}: expected NAME=PATH, for example i3d=i3d_pretrained_400.pt")
        known = part("weights").PUBLISHED
        if name not in known:
            raise ValueError(f"--weights {text}: no weights {name!r} are known{suggestion(name, known)}")
        given[name] = path
    return Request(real, fake, names or USUAL, clips, given, size_of(size), **more)


def judge(request: Request, console: Console, errors: Console) -> Verdict:
    """Judge the videos of one folder, against those of another where there is one; print a table, write the files.

    Bad files are left out by name and counted; the rest is judged. Beside `out` stand `NAME.videos.parquet` (a value per video
    and metric) and `NAME.frames.parquet` (a value per video, metric and frame).

    Raises:
        MediaError: a folder without videos, or without any that can be read.
        UnknownMetric, MissingWeights: names that nothing has, weights that are missing.
        ValueError: metrics that need more than folders, or pairs where none can be made.
    """
    measures, said = _measures(request)
    pairing = pair(request.real, request.fake)
    _demand_pairs(pairing, measures)
    judged = [item.name for item in pairing.items if item.fake]
    prompts = read_captions(request.prompts, judged, empty=False) if request.prompts is not None else {}
    errors.print(f"{len(pairing.items)} videos, {len(pairing.pairs)} pairs, paired {escape(pairing.how)}", highlight=False)
    reader = Reader(request.size, request.batch)
    files = _beside(request.out)
    court = Court(measures, CurveFile(files["frames"]) if files else None, prompts)
    finished = False
    try:
        with _bar(errors) as bar:
            _try(request, pairing.items, reader, court, bar)
        finished = True
    finally:
        if court.curves is not None:
            court.curves.close(keep=finished)
    settings: dict[str, Any] = {"size": request.size, "batch": request.batch}
    if court.sets:
        settings["clips"] = vars(request.clips)
    if prompts:
        settings["prompts"] = str(request.prompts)
    verdict = Verdict(
        None if request.real is None else str(request.real), str(request.fake), pairing.how, len(pairing.pairs), settings,
        court.rows(), reader.left_out, [*said, *_on_files(pairing, reader), *court.warnings()],
    )  # fmt: skip
    if not any(row.n for row in verdict.rows):
        raise MediaError(f"{request.fake}: nothing could be judged: {'; '.join(verdict.warnings) or 'no video could be read'}")
    if files:
        save_values(files["videos"], court.values)
        verdict.save(files["json"])
    for warning in verdict.warnings:
        errors.print(f"[yellow]warning[/]  {escape(warning)}", highlight=False, soft_wrap=True)
    verdict.show(console)
    return verdict


def _try(request: Request, items: Sequence[Item], reader: Reader, court: Court, bar: Progress) -> None:
    """Every item before the court: those that a cache knows as it knows them, the others read batch by batch."""
    task = bar.add_task("judging", total=len(items))
    with _cache(request, court) as cache:
        unknown: list[Item] = []
        for item in items:
            held = cache.get(item, court.prompts.get(item.name)) if cache else None
            if held is None:
                unknown.append(item)
            else:
                court.take(item.name, held)
                reader.say_again(item, held.notes)
        bar.update(task, advance=len(items) - len(unknown))
        by_name = {item.name: item for item in unknown}
        for taken, read in reader.batches(unknown):
            for name, found in ({} if read is None else court.hear(read)).items():
                court.take(name, found)
                found.notes = reader.said_of(by_name[name])
                if cache and not reader.lacks(by_name[name]):
                    cache.keep(by_name[name], court.prompts.get(name), found)
            bar.update(task, advance=taken)
            del read
    court.in_order([item.name for item in items])


def _cache(request: Request, court: Court) -> AbstractContextManager[Cache | None]:
    if request.cache is None:
        return nullcontext()
    device = torch.device(pick_device(request.device))
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Cache(request.cache, court.wanted, {"size": request.size, "device": kind})


def _measures(request: Request) -> tuple[list[Any], list[str]]:
    """The measures, with motion beside those that a still would win, and what to say about that."""
    given = set(PAIRED) if request.real is not None else set()
    given |= {"prompts"} if request.prompts is not None else set()
    for name in request.names:
        lacking = sorted(info(name).needs - given)
        if lacking and set(lacking) <= PAIRED:
            raise ValueError(f"{name} needs a reference: give --real")
        if lacking == ["prompts"]:
            raise ValueError(f"{name} needs a prompt for each video: give --prompts FILE")
        if lacking:
            raise ValueError(f"{name}: these need the truth of rendered videos ({', '.join(lacking)}), not only folders")
    names = list(dict.fromkeys(request.names))
    _refuse_idle(request, names)
    said = []
    if any(info(name).still for name in names) and MOTION not in names:
        names.append(MOTION)
        said.append(f"{MOTION} stands beside: a still wins every consistency score, so none is read without it")
    return resolve(names, pick_device(request.device), request.weights, request.clips), said


def _refuse_idle(request: Request, names: Sequence[str]) -> None:
    """Raise ValueError for settings that none of these metrics uses: they would stand in the JSON as if they had."""
    if unused := idle(names, request.clips):
        told = ", ".join(f"--{name} {getattr(request.clips, name)}" for name in unused)
        sets = [name for name in names if info(name).kind == "set"]
        why = "it is of set distances (fvd, kvd, ...), and none is asked for"
        if sets:
            why = f"{', '.join(sets)} as asked for does not use it"
        raise ValueError(f"{told}: {why}; leave it out")
    if request.prompts is not None and not any("prompts" in info(name).needs for name in names):
        raise ValueError(f"--prompts {request.prompts}: none of {', '.join(names)} reads prompts (clip_text and clip_score do)")


def _demand_pairs(pairing: Pairing, measures: Sequence[Any]) -> None:
    paired = [measure.key for measure in measures if measure.kind == "sample" and measure.needs & PAIRED]
    if paired and not pairing.pairs:
        raise ValueError(
            f"{', '.join(paired)}: these compare video by video, and no pairs could be made: {pairing.how} "
            "(set distances such as fvd need none)"
        )


def _on_files(pairing: Pairing, reader: Reader) -> list[str]:
    told = [
        f"{side}: {len(names)} without a partner, in set distances only: {some(names)}"
        for side, names in pairing.alone.items() if names and pairing.how.startswith("by")
    ]  # fmt: skip
    for side in ("real", "fake"):
        bad = reader.left_out[side]
        if bad:
            told.append(f"{side}: {len(bad)} left out: " + "; ".join(f"{name}: {why}" for name, why in list(bad.items())[:10]))
        told += [f"{side}: {note}: {some(names)}" for note, names in reader.notes[side].items()]
    return told


def _beside(out: Path | None) -> dict[str, Path]:
    if out is None:
        return {}
    beside = {name: out.with_name(f"{out.stem}.{name}.parquet") for name in ("videos", "frames")}
    return {"json": out, **beside}


def _bar(console: Console) -> Progress:
    times = TimeElapsedColumn(), TimeRemainingColumn()
    columns = TextColumn("{task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), *times
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
