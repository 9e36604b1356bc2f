"""What a run shows while it works: cells, stage, steps, samples per second, time left. Lines instead of a bar where
the output is not a terminal."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Monitor:
    """Progress of one run on a console. Use as a context; the methods are called by the executor and the workbench."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]{task.fields[cells]}[/]"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("samples  {task.fields[rate]}  {task.fields[left]}  [dim]{task.fields[now]}[/]"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._cell, self._cells, self._done, self._left, self._seen = "", 0, 0, 0, 0
        self._start = time.monotonic()

    def __enter__(self) -> Monitor:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def begin(self, cells: int, done: int, left: int) -> None:
        """A run of `cells` cells, of which `done` are finished and `left` samples are to be made."""
        self._cells, self._done, self._left, self._start = cells, done, left, time.monotonic()
        if done:
            self.console.print(f"{done} of {cells} cells are done already; going on with the rest")
        self._task = self._bar.add_task("", total=left, cells=f"{done}/{cells} cells", rate="", left="", now="")

    def cell(self, name: str) -> None:
        """The next task belongs to this cell."""
        self._cell = name
        self.stage("", 0, 0)

    def stage(self, what: str, done: int, total: int) -> None:
        """A stage (with its denoising steps) or the metrics are at work."""
        if self._task is not None:
            steps = f" {done}/{total}" if total else ""
            self._bar.update(self._task, now=f"{escape(self._cell)} {what}{steps}")

    def advance(self, samples: int) -> None:
        """So many samples of a cell are measured and saved."""
        self._seen += samples
        seconds = max(time.monotonic() - self._start, 1e-6)
        left = (self._left - self._seen) * seconds / self._seen
        if self._task is not None:
            self._bar.update(self._task, completed=self._seen, rate=f"{self._seen / seconds:.1f}/s", left=f"{clock(left)} left")

    def finished(self, name: str) -> None:
        """A cell is done."""
        self._done += 1
        spent = clock(time.monotonic() - self._start)
        self.console.print(f"[green]done[/]    {escape(name)}  [dim]({self._done}/{self._cells} cells, {spent})[/]")
        if self._task is not None:
            self._bar.update(self._task, cells=f"{self._done}/{self._cells} cells")

    def note(self, text: str) -> None:
        """Something that the user should hear about."""
        self.console.print(f"[yellow]note[/]    {escape(text)}", highlight=False, soft_wrap=True)

    def failed(self, name: str, message: str) -> None:
        """A cell is given up for this run."""
        self.console.print(f"[red]failed[/]  {escape(name)}: {escape(message)}")


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    whole = int(round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
