"""Shards: one run in several processes that share nothing but the run folder, for job arrays without Ray."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from .plan import Group


@dataclass(frozen=True)
class Shard:
    """One of `of` parts of a run, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that "2/8" names. Raises ValueError."""
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(f"--shard {text}: expected i/n with i from 1 to n, for example 2/8")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def lock(self) -> str:
        """The name of its lock file."""
        return f".lock-{self.number}-of-{self.of}"

    def share(self, groups: Sequence[Group], size: int = 1) -> list[Group]:
        """Its part of all groups of a plan: every `of`-th batch.

        Where there are fewer batches than shards, batches are cut between pieces of `size` cells; what the cells of a batch
        have in common is then computed by each of its shards, unless they share a cache on disk.
        """
        if len(groups) >= self.of:
            return list(groups[self.number - 1 :: self.of])
        pieces = [piece for group in groups for piece in cut(group, size)]
        first, end = ((n * len(pieces)) // self.of for n in (self.number - 1, self.number))
        return [
            Group(chunk, tuple(cell for piece in mine for cell in piece.cells))
            for chunk, mine in groupby(pieces[first:end], key=lambda piece: piece.chunk)
        ]


def cut(group: Group, size: int) -> list[Group]:
    """A group in pieces of at most `size` cells, in order."""
    return [Group(group.chunk, group.cells[start : start + size]) for start in range(0, len(group.cells), size)]
