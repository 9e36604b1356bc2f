"""Executing a plan: which tasks are left, in which order, how often they are tried, and what becomes of their results.

Groups go batch by batch and, within a batch, the baseline first: stage outputs are shared while they are fresh, and memory
does not grow with the number of cells or samples. All files are written here, in one process, whatever the engine is.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from wanlab.graph import digest

from .cell import Failure
from .engine import Engine
from .files import RunFolderError, write, write_text
from .forecast import expected
from .own import described
from .store import CellFolder, Part, RunFolder

if TYPE_CHECKING:
    from .cell import Workbench
    from .plan import Group, Task
    from .progress import Monitor
    from .shard import Shard
    from .shared import StageRuns

ATTEMPTS = 3  # of one task in one run, before its cell is given up


@dataclass
class Outcome:
    """How a run ended: finished cells, failed ones with their message, cells that were done before, and cells of which
    other shards hold a part. runs: stage runs alone, with sharing, and those that were made. seconds: as expected before the
    run (None: where the seconds of a stage are not known, or several workers ran), and as they were."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    runs: dict[str, int] = field(default_factory=dict)
    seconds: tuple[float | None, float] = (None, 0.0)


class Executor:
    """One run of a plan, or of one shard of it, into a run folder."""

    def __init__(self, bench: Workbench, folder: RunFolder, monitor: Monitor, shard: Shard | None = None):
        self.bench, self.folder, self.monitor, self.shard = bench, folder, monitor, shard
        self.outcome = Outcome()
        groups = list(bench.plan.groups())  # of the whole plan: a split never depends on what is done
        self._groups = groups if shard is None else shard.share(groups)
        self._mine = {task for group in self._groups for task in group}
        self._open: Counter[str] = Counter()
        self._queue: deque[Group] = deque()
        self._failures: Counter[Task] = Counter()
        self._made: Counter[str] = Counter()
        self.cells: dict[str, CellFolder] = {name: folder.cell(cell.key) for name, cell in bench.plan.cells.items()}
        self.done = {name for name, cell in self.cells.items() if cell.repair()}
        self.outcome.before = [name for name in self.cells if name in self.done]
        self._told_of_videos()
        if earlier := folder.outdated():
            monitor.note(f"finished before with other code, weights or data, so run again: {', '.join(sorted(earlier))}")

    def run(self, engine: Engine) -> Outcome:
        """Evaluate what is left, finish every complete cell, and keep what it took in the log of the run."""
        planned = self.bench.plan.stage_runs(self._left_out)
        rows = {chunk.number: len(chunk.indices) for chunk in self.bench.plan.chunks}
        tasks = [task for task in self._mine if not self._left_out(task.cell, task.chunk)]
        left = sum(rows[task.chunk] for task in tasks)
        self._open = Counter(task.cell for task in tasks)
        alone = engine.name == "inline"
        forecast = expected(self.bench.study, self.folder, planned, left) if alone else None
        who = {"engine": engine.name, "shard": None if self.shard is None else str(self.shard)}
        self.folder.log({"state": "began", **who, "samples": left})
        self.monitor.begin(len(self.cells), len(self.done), left)
        start = time.monotonic()
        try:
            self._keep_references()
            self._exhaust(engine)
        except BaseException as error:
            with contextlib.suppress(RunFolderError):  # a full disk has been told already
                self.folder.log({"state": "stopped", "error": str(error) or type(error).__name__, **self._sum(planned)})
            raise
        self.outcome.runs = self._sum(planned)
        self.outcome.seconds = forecast, time.monotonic() - start
        told = dict(zip(("expected_seconds", "seconds"), self.outcome.seconds, strict=True))
        self.folder.log({"state": "ended", "failed": list(self.outcome.failed), **self.outcome.runs, **told})
        if left:
            self.monitor.shared(**self.outcome.runs)
            self.monitor.took(*self.outcome.seconds)
        return self.outcome

    def _exhaust(self, engine: Engine) -> None:
        """Run until nothing is left: more than once only where tasks failed or a saved part turned out to be damaged."""
        for _ in range(ATTEMPTS):
            self._queue.extend(self._groups)
            while self._queue:
                engine.run(self.bench, self._work(), self._deliver)
            for name in self.cells:
                if name not in self.outcome.failed:
                    self._finish(name)
            if all(self._left_out(task.cell, task.chunk) for task in self._mine):
                break
        self.outcome.waiting = [name for name in self.cells if name not in self.done and name not in self.outcome.failed]
        if self.outcome.waiting and self.shard is None:
            raise RunFolderError(
                f"parts of {', '.join(self.outcome.waiting)} were damaged {ATTEMPTS} times after they were written: "
                f"{self.folder.root} does not keep what is written to it"
            )

    def _work(self) -> Iterator[Group]:
        while self._queue:
            group = self._queue.popleft()
            cells = tuple(name for name in group.cells if not self._left_out(name, group.chunk))
            if cells:
                yield replace(group, cells=cells)

    def _left_out(self, cell: str, chunk: int) -> bool:
        """Whether a task need not run: done, given up, or another shard's."""
        from .plan import Task

        over = cell in self.done or cell in self.outcome.failed or self.cells[cell].has(chunk)
        return over or Task(cell, chunk) not in self._mine

    def _deliver(self, task: Task, result: Part | Failure) -> None:
        if isinstance(result, Failure):
            self._failed(task, result)
            return
        cell = self.cells[task.cell]
        cell.save(task.chunk, result)
        self._made.update({name: int(counts["runs"]) for name, counts in result.log["stages"].items()})
        self.monitor.advance(len(result.index))
        self._open[task.cell] -= 1
        if self._open[task.cell] <= 0:
            self._finish(task.cell)

    def _failed(self, task: Task, failure: Failure) -> None:
        """Keep the traceback; try again, except where the ledger did not agree: it will not agree the next time either."""
        from .plan import Group

        ledger = {} if failure.ledger is None else {"ledger": failure.ledger}
        told = {"state": "failed", "error": failure.message, "traceback": failure.traceback, **ledger}
        self.cells[task.cell].log({"chunk": task.chunk, **told})
        self._failures[task] += 1
        if task.cell in self.outcome.failed:
            return
        if failure.ledger is None and self._failures[task] < ATTEMPTS:
            self._queue.appendleft(Group(task.chunk, (task.cell,)))
            again = f"{task.cell}, batch {task.chunk}: attempt {self._failures[task]} of {ATTEMPTS} failed, it is tried again"
            self.monitor.note(f"{again}: {failure.message}")
            return
        self.outcome.failed[task.cell] = failure.message
        self.monitor.failed(task.cell, failure.message)

    def _finish(self, name: str) -> None:
        if name in self.done:
            return
        metrics = {measure.key: measure.name for measure in self.bench.measures}
        description: dict[str, Any] = self.bench.plan.cells[name].describe(self.bench.study, metrics)
        description |= described(self.bench.measures)
        if self.cells[name].finish(description, len(self.bench.plan.chunks)):
            self.done.add(name)
            self.outcome.done.append(name)
            self.monitor.finished(name)

    def _sum(self, planned: StageRuns) -> dict[str, int]:
        made = sum(self._made.values())
        return {"alone": sum(planned.alone.values()), "shared": sum(planned.shared.values()), "made": made}

    def _told_of_videos(self) -> None:
        """Say of finished cells that they have fewer videos than are asked for now."""
        wanted = min(self.bench.study.report.videos, self.bench.source.n)
        fewer = [name for name in self.outcome.before if len(list((self.cells[name].root / "videos").glob("[!.]*.mp4"))) < wanted]
        if fewer:
            told = f"finished with fewer than {wanted} videos, which they keep: {', '.join(fewer)}"
            self.monitor.note(f"{told}; the report shows the samples that all cells have")

    def _keep_references(self) -> None:
        """The true clips of the shown samples, for the report; those of other data than this run's make room."""
        bench, folder = self.bench, self.folder.root / "reference"
        if bench.plan.reference == "baseline":
            return
        done, wanted = folder / "DONE", bench.study.report.videos
        drawn = digest([(bench.judges or bench.source).digest(range(bench.source.n)), bench.study.report.fps])
        count, _, of = done.read_text(errors="replace").partition(" ") if done.exists() else ("", "", "")
        if of == drawn and count.isdecimal() and int(count) >= wanted:
            return
        shown = bench.references()
        for name, video in shown.items():
            write(folder / name, lambda temporary, video=video: temporary.write_bytes(video))
        for other in folder.glob("[!.]*.mp4"):
            if other.name not in shown:
                other.unlink(missing_ok=True)
        write_text(done, f"{wanted} {drawn}")
