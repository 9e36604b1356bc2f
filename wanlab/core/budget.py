"""Budgets: what captures would need in memory and on disk, and the refusal before they need it."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

GIB = 2**30


class BudgetError(MemoryError):
    """A capture that would keep more than the stated budget, or more than the disk has free."""


def check_memory(needs: Mapping[str, int], budget: int | None) -> None:
    """BudgetError where the captures (what -> bytes) exceed the budget in memory; the message says how to need less."""
    total = sum(needs.values())
    if budget is not None and total > budget:
        site = _site(_largest(needs))
        raise BudgetError(f"{_told(needs)} in memory, the budget is {budget / GIB:.3g} GiB: stream ('{site} -> mean', "
                          "'-> covariance', '-> quantiles', '-> topk'), capture fewer sites, steps, heads or frames, write "
                          f"to disk ('{site} -> disk'), or raise budget=")


def check_disk(needs: Mapping[str, int], folder: Path) -> None:
    """BudgetError where the captures (what -> bytes) exceed what is free in the folder that they go to."""
    free = shutil.disk_usage(folder).free
    if sum(needs.values()) > free:
        site = _site(_largest(needs))
        raise BudgetError(f"{_told(needs)} on disk, {free / GIB:.3g} GiB are free in {folder}: stream ('{site} -> mean', "
                          "'-> covariance', '-> quantiles', '-> topk'), capture fewer sites, steps, heads or frames, or let "
                          "the environment variable TMPDIR name a folder with more room")


def folder_for_captures() -> Path:
    """Where captures with `-> disk` go: the system's folder for temporary files, which TMPDIR names."""
    return Path(tempfile.gettempdir())


def _largest(needs: Mapping[str, int]) -> str:
    return max(needs, key=lambda what: needs[what])


def _site(what: str) -> str:
    return re.split(r" -> |\[|@| \(", what, maxsplit=1)[0].removeprefix("the captures up to ")


def _told(needs: Mapping[str, int]) -> str:
    what = _largest(needs)
    largest = f"{len(needs)} captures (the largest: {what}, {needs[what] / GIB:.3g} GiB)" if len(needs) > 1 else what
    return f"{largest} need{'' if len(needs) > 1 else 's'} {sum(needs.values()) / GIB:.3g} GiB"
