"""Executing a plan: which tasks are left, in which order, and what happens with their results.

An engine only evaluates groups of tasks; this module decides and writes, so every engine resumes, fails and stops the same
way. Groups go batch by batch and, within a batch, the baseline first: stage outputs are shared while they are fresh, and
memory does not grow with the number of cells or samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .cell import Failure
from .document import did_you_mean
from .store import CellFolder, Part, RunFolder, write

if TYPE_CHECKING:
    from .cell import Workbench
    from .plan import Group, Task
    from .progress import Monitor


class Engine(Protocol):
    """Something that evaluates groups."""

    def run(self, bench: Workbench, groups: Iterable[Group], deliver: Callable[[Task, Part | Failure], None]) -> None:
        """Evaluate every group (the iterable may leave some tasks out while it runs) and deliver each task in this process."""


@dataclass
class Outcome:
    """How a run ended: finished cells, failed ones with their message, and cells that were done before."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    before: list[str] = field(default_factory=list)


def make_engine(name: str) -> Engine:
    """The engine of this name. Raises LookupError with the nearest."""
    from .inline import Inline

    engines: Mapping[str, Callable[[], Engine]] = {"inline": Inline}
    if name not in engines:
        raise LookupError(f"no engine {name!r}{did_you_mean(name, engines)}; there are {', '.join(engines)}")
    return engines[name]()


class Executor:
    """One run of a plan into a run folder."""

    def __init__(self, bench: Workbench, folder: RunFolder, monitor: Monitor):
        self.bench, self.folder, self.monitor = bench, folder, monitor
        self.outcome = Outcome()
        names = list(bench.plan.cells)
        names.sort(key=lambda name: name != bench.study.baseline)  # stable: the others keep the order of the file
        self.cells: dict[str, CellFolder] = {name: folder.cell(bench.plan.cells[name].key) for name in names}
        self.done = {name for name, cell in self.cells.items() if cell.done}
        self.outcome.before = [name for name in bench.plan.cells if name in self.done]
        for name, cell in self.cells.items():
            if name not in self.done:
                cell.reset()
        earlier = {name for name, cell in folder.cells().items() if cell.root != self.cells[name].root} - self.done
        if earlier:
            monitor.note(f"finished before with other code, weights or data, so run again: {', '.join(sorted(earlier))}")

    def finished(self, cell: str, chunk: int) -> bool:
        """Whether this batch of the cell need not run again."""
        return cell in self.done or self.cells[cell].has_part(chunk)

    def run(self, engine: Engine) -> Outcome:
        """Evaluate what is left, then finish every complete cell."""
        left = sum(len(c.indices) for c in self.bench.plan.chunks for name in self.cells if not self.finished(name, c.number))
        self.monitor.begin(len(self.cells), len(self.done), left)
        self._keep_references()
        engine.run(self.bench, self.bench.plan.groups(self._left_out), self._deliver)
        for name in [name for name in self.cells if name not in self.done and name not in self.outcome.failed]:
            self._finish(name)
            if name not in self.done:  # a part was damaged: run the batches that it held
                engine.run(self.bench, self.bench.plan.groups(self._left_out), self._deliver)
                self._finish(name)
        return self.outcome

    def _left_out(self, cell: str, chunk: int) -> bool:
        return cell in self.outcome.failed or self.finished(cell, chunk)

    def _deliver(self, task: Task, result: Part | Failure) -> None:
        cell = self.cells[task.cell]
        if isinstance(result, Failure):
            ledger = {} if result.ledger is None else {"ledger": result.ledger}
            cell.log({"chunk": task.chunk, "state": "failed", "error": result.message, "traceback": result.traceback, **ledger})
            self.outcome.failed[task.cell] = result.message
            self.monitor.failed(task.cell, result.message)
            return
        cell.save(task.chunk, result, self.bench.study.report.fps)
        self.monitor.advance(len(result.index))
        if all(cell.has_part(chunk.number) for chunk in self.bench.plan.chunks):
            self._finish(task.cell)

    def _finish(self, name: str) -> None:
        metrics = {measure.key: measure.name for measure in self.bench.measures}
        description: dict[str, Any] = self.bench.plan.cells[name].describe(self.bench.study, metrics)
        if name not in self.done and self.cells[name].finish(description, len(self.bench.plan.chunks)):
            self.done.add(name)
            self.outcome.done.append(name)
            self.monitor.finished(name)

    def _keep_references(self) -> None:
        """The true clips of the shown samples, for the report."""
        from wanlab.data.folder import write_video

        folder, fps = self.folder.root / "reference", self.bench.study.report.fps
        if folder.exists() and any(folder.glob("*.mp4")):
            return
        for name, video in self.bench.references().items():
            write(folder / name, lambda temporary, video=video: write_video(temporary, video, fps=fps))
