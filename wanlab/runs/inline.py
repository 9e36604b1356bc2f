"""The engine that runs here: one process, one device, one task after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .cell import Failure, Workbench
from .plan import Group, Task
from .store import Part


class Inline:
    """See `Engine`."""

    def run(self, bench: Workbench, groups: Iterable[Group], deliver: Callable[[Task, Part | Failure], None]) -> None:
        """Evaluate the groups in order."""
        for group in groups:
            for task, result in bench.evaluate(group):
                deliver(task, result)
