"""`wanlab metrics`: the measures over two folders of videos, one batch in memory however many there are, without any study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from wanlab.data.media import MediaError, Size
from wanlab.measure import Clips, available, info, resolve

from .court import Court, some
from .environment import pick_device
from .pairing import Pairing, Reader, pair
from .verdict import CurveFile, Verdict, save_values

ARROWS = {True: "higher", False: "lower", None: ""}
MOTION = "motion_magnitude"
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
    """What is to be judged: folders, metrics, and how. size: None = the videos' own; batch: videos at once, at most."""

    real: Path | None
    fake: Path
    names: Sequence[str]
    clips: Clips = field(default_factory=Clips)
    weights: Mapping[str, str | Path] = field(default_factory=dict)
    size: Size = None
    batch: int = 8
    device: str = "auto"
    out: Path | None = None


def request(
    real: Path | None, fake: Path | None, names: Sequence[str], clips: Clips, weights: Sequence[str], size: Size, batch: int,
    device: str, out: Path | None,
) -> Request:  # fmt: skip
    """A request as the command line says it: weights as NAME=PATH, the usual metrics where none is named.

    Raises:
        ValueError: no folder to judge, no reference for the usual metrics, weights that are not NAME=PATH.
    """
    if fake is None or (real is None and not names):
        raise ValueError(
            "wanlab metrics needs both --real and --fake (--fake alone for named metrics without a reference; neither, to list all)"
        )
    given = {}
    for text in weights:
        name, _, path = text.partition("=")
        if not name or not path:
            raise ValueError(f"--weights {text}: expected NAME=PATH, for example i3d=i3d_pretrained_400.pt")
        given[name] = path
    return Request(real, fake, names or USUAL, clips, given, size, batch, device, out)


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
    errors.print(f"{len(pairing.items)} videos, {len(pairing.pairs)} pairs, paired {escape(pairing.how)}", highlight=False)
    reader = Reader(request.size, request.batch)
    files = _beside(request.out)
    court = Court(measures, CurveFile(files["frames"]) if files else None)
    finished = False
    try:
        with _bar(errors) as bar:
            task = bar.add_task("judging", total=len(pairing.items))
            for taken, read in reader.batches(pairing.items):
                if read is not None:
                    court.hear(read)
                bar.update(task, advance=taken)
                del read
        finished = True
    finally:
        if court.curves is not None:
            court.curves.close(keep=finished)
    settings = {"clips": vars(request.clips), "size": request.size, "batch": request.batch}
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


def _measures(request: Request) -> tuple[list[Any], list[str]]:
    """The measures, with motion beside those that a still would win, and what to say about that."""
    given = {"reference", "image"} if request.real is not None else set()
    for name in request.names:
        lacking = sorted(info(name).needs - given)
        if lacking and set(lacking) <= {"reference", "image"}:
            raise ValueError(f"{name} needs a reference: give --real")
        if lacking:
            raise ValueError(f"{name}: these need the truth of rendered videos or prompts ({', '.join(lacking)}), not only folders")
    names = list(dict.fromkeys(request.names))
    said = []
    if any(info(name).still for name in names) and MOTION not in names:
        names.append(MOTION)
        said.append(f"{MOTION} stands beside: a still wins every consistency score, so none is read without it")
    return resolve(names, pick_device(request.device), request.weights, request.clips), said


def _demand_pairs(pairing: Pairing, measures: Sequence[Any]) -> None:
    paired = [measure.key for measure in measures if measure.kind == "sample" and measure.needs]
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
