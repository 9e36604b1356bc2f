"""What `wanlab metrics` found: rows with intervals and cautions, a table to read, and files to go on with."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .files import telling, write, write_text

CURVES = pa.schema([("video", pa.string()), ("metric", pa.string()), ("frame", pa.int32()), ("value", pa.float32())])
ROWS = 2**16  # of a row group


@dataclass
class Row:
    """One metric over all videos. n: videos that are judged; n_reference: of the reference set (set distances); bias: what a
    Frechet distance of this n lies above that of the populations; infinity: its estimate at infinite n where n allows one."""

    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    better: str
    n_reference: int | None = None
    bias: float | None = None
    infinity: float | None = None

    def __post_init__(self) -> None:
        for name in ("value", "ci_low", "ci_high", "bias", "infinity"):
            number = getattr(self, name)
            setattr(self, name, float(number) if number is not None and np.isfinite(number) else None)


@dataclass
class Verdict:
    """Everything that one call found, as it is written to JSON."""

    real: str | None
    fake: str
    pairing: str
    pairs: int
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    left_out: dict[str, dict[str, str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def save(self, out: Path) -> None:
        """The JSON file."""
        write_text(out, json.dumps(asdict(self), indent=1) + "\n")

    def show(self, console: Console) -> None:
        """The table, widest column first, and a dash where there is no number."""
        table = Table()
        columns = ["value", "95 % interval", "n", "better"]
        more = [name for name in ("bias", "infinity") if any(getattr(row, name) is not None for row in self.rows)]
        table.add_column("metric", overflow="fold")
        for head in columns[:2] + [{"bias": "bias", "infinity": "at n = ∞"}[name] for name in more] + columns[2:]:
            table.add_column(head, justify="right", overflow="fold")
        for row in self.rows:
            span = f"{_said(row.ci_low)} to {_said(row.ci_high)}" if row.ci_low is not None else "–"
            n = f"{row.n}" if row.n_reference in (None, row.n) else f"{row.n} / {row.n_reference}"
            table.add_row(escape(row.metric), _said(row.value), span, *(_said(getattr(row, name)) for name in more), n, row.better)
        console.print(table)


def _said(number: float | None) -> str:
    return "–" if number is None else f"{number:.4g}"


class CurveFile:
    """Per-frame curves as parquet, written some thousand values at a time, so that they are never all in memory; complete or
    not at all. `add` and `close` raise RunFolderError for a full disk."""

    def __init__(self, path: Path) -> None:
        self.path, self._part = path, path.with_name(f".{path.name}.{os.getpid()}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._part, CURVES)
        self._held: list[list[Any]] = [[] for _ in CURVES]

    def add(self, name: str, metric: str, frames: Sequence[int], values: Sequence[float]) -> None:
        """The curve of one metric along the video of this name."""
        for column, more in zip(self._held, ([name] * len(frames), [metric] * len(frames), frames, values), strict=True):
            column.extend(more)
        if len(self._held[0]) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        table = pa.table([pa.array(c, f.type) for c, f in zip(self._held, CURVES, strict=True)], schema=CURVES)
        with telling(self.path):
            self._writer.write_table(table)
        self._held = [[] for _ in CURVES]

    def close(self, keep: bool) -> None:
        """Gives the file its name, or leaves nothing."""
        try:
            with telling(self.path):
                if keep:
                    self._flush()
                self._writer.close()
                if keep:
                    os.replace(self._part, self.path)
        finally:
            self._part.unlink(missing_ok=True)


def save_values(path: Path, values: dict[str, dict[str, float]]) -> None:
    """Per-video values: columns video, metric, value; metric -> video -> value, NaN where the metric does not apply. Raises
    RunFolderError for a full disk."""
    rows = [(video, metric, value) for metric, found in values.items() for video, value in found.items()]
    table = pa.table(
        [pa.array([row[0] for row in rows], pa.string()), pa.array([row[1] for row in rows], pa.string()),
         pa.array([row[2] for row in rows], pa.float64())],
        names=["video", "metric", "value"],
    )  # fmt: skip
    write(path, lambda temporary: pq.write_table(table, temporary))
