"""The stage cache: memory first, then what several processes share, and a tally of what was run and what was found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .disk import DiskTier, Tell
from .memory import MemoryTier, Outputs

GIB = 1024**3


@dataclass
class Tally:
    """What happened, per node: runs (computed), hits (found); denoising steps, rows and seconds of the runs. Rows are in units of
    a whole node: half of the steps for 8 rows count as 4."""

    runs: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Plain data, for a log."""
        names = sorted({*self.runs, *self.hits})
        return {
            name: {
                "runs": self.runs[name],
                "hits": self.hits[name],
                "steps": self.steps[name],
                "rows": round(self.rows[name], 3),
                "seconds": round(self.seconds[name], 3),
            }
            for name in names
        }


class Tier(Protocol):
    """Stage outputs that several processes share. Trouble costs time, never a run: `tell` hears of it once, and what cannot be
    read is not there."""

    tell: Tell

    def __contains__(self, key: str) -> bool: ...

    def get(self, key: str) -> Outputs | None:
        """The outputs under `key`, or None."""

    def put(self, key: str, outputs: Outputs, last: bool = False) -> None:
        """Keep `outputs`. last: the end of a cell, from which nothing further is made."""


class StageCache:
    """Stage outputs by content key: in memory, and in a tier that is `shared` where there is one.

    Args:
        memory: bytes of the memory tier (0: none).
        folder: folder of a disk tier, or None for memory only.
        disk: bytes of the disk tier.
        tell: hears why the folder cannot be used, where it cannot (default: a warning of `logging`).
    """

    def __init__(self, memory: int = GIB, folder: Path | None = None, disk: int = 10 * GIB, tell: Tell | None = None):
        self.memory = MemoryTier(memory)
        self.shared: Tier | None = DiskTier(folder, disk, tell) if folder is not None else None
        self.tally = Tally()

    def __contains__(self, key: str) -> bool:
        return key in self.memory or (self.shared is not None and key in self.shared)

    def get(self, key: str) -> Outputs | None:
        """The outputs under `key`, or None. What others have made moves to memory."""
        outputs = self.memory.get(key)
        if outputs is None and self.shared is not None:
            outputs = self.shared.get(key)
            if outputs is not None:
                self.memory.put(key, outputs)
        return outputs

    def put(self, key: str, outputs: Outputs, again: bool = True, last: bool = False) -> None:
        """Keep `outputs` (CPU tensors) in every tier; in memory only if this process will want them `again`. last: see `Tier`."""
        if again:
            self.memory.put(key, outputs)
        if self.shared is not None:
            self.shared.put(key, outputs, last)
