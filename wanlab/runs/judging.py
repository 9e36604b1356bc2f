"""`wanlab metrics`: the measures over two folders of clips, without any study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from wanlab.data.folder import VideoFolder
from wanlab.measure import Batch, available, resolve

from .environment import pick_device
from .files import write_text
from .inference import Resampler

BATCH = 8
ARROWS = {True: "higher", False: "lower", None: ""}


def listing(console: Console) -> None:
    """Print every metric with what it needs."""
    table = Table()
    for head in ("metric", "better", "over", "needs", "what it is"):
        table.add_column(head)
    for name, info in available().items():
        table.add_row(name, ARROWS[info.higher_is_better], info.kind, ", ".join(sorted(info.needs)), info.summary)
    console.print(table)


def judge(
    real: Path, fake: Path, names: Sequence[str], frames: int, size: int, device: str, out: Path | None, console: Console
) -> list[dict[str, Any]]:
    """Judge the clips of one folder against those of another, print a table, write JSON.

    Clip i of `fake` belongs to clip i of `real` (both by name). Raises MediaError for folders without clips,
    UnknownMetric, ValueError for metrics that need more than clips or for folders of different length.
    """
    where = pick_device(device)
    wrong = [name for name in names if (info := available().get(name.split("[")[0])) and info.needs - {"reference", "image"}]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: these need the truth of rendered videos, not only two folders of clips")
    measures = resolve(names, where)
    references, clips = (VideoFolder(path, frames=frames, size=size) for path in (real, fake))
    for folder in (references, clips):
        for name, reason in {**folder.corrupt, **folder.short}.items():
            console.print(f"[yellow]left out[/]  {folder.path / name}: {reason}", highlight=False)
    paired = len(references) == len(clips)
    if not paired and any(measure.kind == "sample" and "reference" in measure.needs for measure in measures):
        raise ValueError(
            f"{real} holds {len(references)} clips and {fake} {len(clips)}: metrics that compare clip by clip need as "
            "many of each (set distances such as fvd do not)"
        )
    rows = [_row(measure, references, clips, paired) for measure in measures]
    _print(rows, console)
    if out is not None:
        write_text(
            out, json.dumps({"real": str(real), "fake": str(fake), "frames": frames, "size": size, "rows": rows}, indent=1) + "\n"
        )
    return rows


def _row(measure: Any, references: VideoFolder, clips: VideoFolder, paired: bool) -> dict[str, Any]:
    """One metric: value, 95 % interval, n."""
    better = {True: "higher", False: "lower", None: "none"}[measure.higher_is_better]
    if measure.kind == "set":
        x, y = (torch.cat([measure.features(Batch(video=video)) for video in _batches(folder)]) for folder in (clips, references))
        low, high = measure.interval(x, y) if min(len(x), len(y)) >= 4 else (float("nan"), float("nan"))
        value, n = measure.distance(x, y), len(x)
    else:
        scores = []
        for video, reference in zip(_batches(clips), _batches(references) if paired else _batches(clips)):
            scores.append(measure.score(Batch(video=video, reference=reference, image=reference[:, 0])))
        values = torch.cat(scores).double().numpy()
        values = values[np.isfinite(values)]
        value, n = float(values.mean()) if len(values) else float("nan"), len(values)
        low, high = Resampler().interval(values)
    numbers = {"value": value, "ci_low": low, "ci_high": high}
    return {"metric": measure.name, **{k: v if np.isfinite(v) else None for k, v in numbers.items()}, "n": n, "better": better}


def _batches(folder: VideoFolder) -> list[torch.Tensor]:
    return [
        torch.stack([folder[i] for i in range(start, min(start + BATCH, len(folder)))]) for start in range(0, len(folder), BATCH)
    ]


def _print(rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = Table()
    for head in ("metric", "value", "95 % interval", "n", "better"):
        table.add_column(head, justify="left" if head == "metric" else "right", overflow="fold")
    for row in rows:
        value, low, high = ("–" if row[k] is None else f"{row[k]:.4g}" for k in ("value", "ci_low", "ci_high"))
        table.add_row(row["metric"].replace("[", r"\["), value, f"{low} to {high}", str(row["n"]), row["better"])
    console.print(table)
