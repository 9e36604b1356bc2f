"""The stage cache: memory first, then disk, and a tally of what was run and what was found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

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


class StageCache:
    """Stage outputs by content key.

    Args:
        memory: bytes of the memory tier (0: none).
        folder: folder of the disk tier, or None for memory only.
        disk: bytes of the disk tier.
        tell: hears why the folder cannot be used, where it cannot (default: a warning of `logging`).
    """

    def __init__(self, memory: int = GIB, folder: Path | None = None, disk: int = 10 * GIB, tell: Tell | None = None):
        self.memory = MemoryTier(memory)
        self.disk = DiskTier(folder, disk, tell) if folder is not None else None
        self.tally = Tally()

    def __contains__(self, key: str) -> bool:
        return key in self.memory or (self.disk is not None and key in self.disk)

    def get(self, key: str) -> Outputs | None:
        """The outputs under `key`, or None. What is found on disk moves to memory."""
        outputs = self.memory.get(key)
        if outputs is None and self.disk is not None:
            outputs = self.disk.get(key)
            if outputs is not None:
                self.memory.put(key, outputs)
        return outputs

    def put(self, key: str, outputs: Outputs, again: bool = True) -> None:
        """Keep `outputs` (CPU tensors) in every tier; in memory only if this run will want them `again`."""
        if again:
            self.memory.put(key, outputs)
        if self.disk is not None:
            self.disk.put(key, outputs)
