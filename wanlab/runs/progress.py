"""What a run shows while it works (cells, stage, steps, samples per second, time left), and what a training shows (part,
step, loss, seconds per step, time left). Lines instead of a bar where the output is not a terminal."""

from __future__ import annotations

import math
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from wanlab.training.watch import Watch

LINE_EVERY = 30.0  # seconds between the lines of a run or a training whose output is not a terminal


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
        self._cells, self._done, self._left, self._seen = 0, 0, 0, 0
        self._start = self._line = time.monotonic()

    def __enter__(self) -> Monitor:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def begin(self, cells: int, done: int, left: int) -> None:
        """A run of `cells` cells, of which `done` are finished and `left` samples are to be made."""
        self._cells, self._done, self._left = cells, done, left
        self._start = self._line = time.monotonic()
        if done:
            rest = "going on with the rest" if done < cells else "nothing is left to run"
            self.console.print(f"{done} of {cells} cells are done already; {rest}")
        self._task = self._bar.add_task("", total=left, cells=f"{done}/{cells} cells", rate="", left="", now="")

    def stage(self, cell: str, what: str, done: int, total: int) -> None:
        """A stage (with its denoising steps) or the metrics are at work for a cell."""
        if self._task is not None:
            steps = f" {done}/{total}" if total else ""
            self._bar.update(self._task, now=f"{escape(cell)} {what}{steps}")

    def advance(self, samples: int) -> None:
        """So many samples of a cell are measured and saved."""
        self._seen += samples
        seconds = max(time.monotonic() - self._start, 1e-6)
        rate, left = f"{self._seen / seconds:.1f}/s", f"{clock((self._left - self._seen) * seconds / self._seen)} left"
        if self._task is not None:
            self._bar.update(self._task, completed=self._seen, rate=rate, left=left)
        if self._bar.disable and time.monotonic() - self._line >= LINE_EVERY:
            self._line = time.monotonic()
            said = f"{self._done}/{self._cells} cells, {self._seen}/{self._left} samples, {rate}, {left}"
            self.console.print(said, highlight=False, soft_wrap=True)

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

    def shared(self, alone: int, shared: int, made: int) -> None:
        """What sharing saved: stage runs of every cell by itself, those of the plan, those that were made."""
        planned = "as planned" if made == shared else f"planned were {shared}"
        self.console.print(f"stage runs: would have been {alone}, was {made} ({planned})", highlight=False)

    def took(self, expected: float | None, seconds: float) -> None:
        """How long the run was, beside what the plan said (None: it did not)."""
        planned = "" if expected is None else f" (planned: {clock(expected)})"
        self.console.print(f"time: {clock(seconds)}{planned}", highlight=False)


class TrainingMonitor(Watch):
    """Progress of `wanlab train` on a console. Use as a context, together with `training.watched_by`.

    Ctrl-C while a network takes its steps ends the training after the step in hand, with a checkpoint; a second one, and
    one at any other time, ends it at once.
    """

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]{task.description}[/]"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._name, self._first, self._steps, self._loss = "", 0, 0, math.nan
        self._stepping = False
        self._start = self._line = time.monotonic()
        self._before: Any = None

    def __enter__(self) -> TrainingMonitor:
        self._bar.start()
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
        self._bar.stop()

    def part(self, name: str, number: int, total: int, kept: bool = False) -> None:
        """See Watch."""
        state = "  finished before, kept" if kept else ""
        self.console.print(f"[bold]{escape(name)}[/]  [dim]part {number} of {total}[/]{state}", highlight=False)

    def busy(self, what: str, done: int, total: int) -> None:
        """See Watch."""
        if not done:
            self._show(what, 0, total)
        self._update(done, "", f"{what}: {done} of {total}")

    def begin(self, name: str, done: int, steps: int, checkpoint: Path | None = None) -> None:
        """See Watch."""
        if checkpoint is not None:
            left = f"going on at step {done} of {steps}" if done < steps else f"all {steps} steps are done"
            self.console.print(f"[green]resumed[/] {escape(f'{name}: {left} ({checkpoint})')}", highlight=False, soft_wrap=True)
        self._loss = math.nan
        self._show(name, done, steps)
        self._stepping = True

    def step(self, done: int, loss: float) -> None:
        """See Watch. The loss that is shown is a running mean over about twenty steps."""
        self._loss = loss if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * loss
        each = (time.monotonic() - self._start) / max(1, done - self._first)
        said = f"loss {self._loss:.4f}  {each:.2f} s/step  {clock(each * (self._steps - done))} left"
        self._update(done, said, f"{self._name}: step {done} of {self._steps}  {said}")

    def end(self) -> None:
        """See Watch."""
        if self._first < self._steps:
            spent = clock(time.monotonic() - self._start)
            said = f"{self._steps} steps, loss {self._loss:.4f}, {spent}"
            self.console.print(f"[green]done[/]    {escape(self._name)}  [dim]{said}[/]", highlight=False)
        self._hide()

    def note(self, text: str) -> None:
        """See Watch."""
        self._hide()
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def _show(self, name: str, done: int, total: int) -> None:
        self._hide()
        self._name, self._first, self._steps = name, done, total
        self._start = self._line = time.monotonic()
        self._task = self._bar.add_task(escape(name), total=total, completed=done, said="")

    def _update(self, done: int, said: str, line: str) -> None:
        """Move the bar; where there is none, say `line` now and then."""
        if self._task is not None:
            self._bar.update(self._task, completed=done, said=said)
        if self._bar.disable and time.monotonic() - self._line >= LINE_EVERY:
            self._line = time.monotonic()
            self.console.print(escape(line), highlight=False, soft_wrap=True)

    def _hide(self) -> None:
        self._stepping = False
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.stopping or not self._stepping:
            raise KeyboardInterrupt
        self.stopping = True  # and nothing is printed: the signal may have come in the middle of a line


def clock(seconds: float) -> str:
    """1:02:03 or 2:03."""
    whole = int(round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
