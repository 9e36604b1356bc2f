"""The engine that runs here: one process, one device, one task after the other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable

from wanlab.core import LedgerError

from .cell import Task, Workbench
from .engine import Failure
from .store import Part


class Inline:
    """See `Engine`."""

    def run(self, bench: Workbench, tasks: Iterable[Task], deliver: Callable[[Task, Part | Failure], None]) -> None:
        """Evaluate the tasks in order."""
        for task in tasks:
            try:
                result: Part | Failure = bench.evaluate(task)
            except Exception as error:
                ledger = error.ledger.to_dict() if isinstance(error, LedgerError) and error.ledger else None
                result = Failure(f"{type(error).__name__}: {error}", traceback.format_exc(), ledger)
            deliver(task, result)
