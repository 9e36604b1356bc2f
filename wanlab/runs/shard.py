"""Shards: one run in several processes that share nothing but the run folder, for job arrays without Ray."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from .plan import Group

T = TypeVar("T")


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

    def share(self, groups: Sequence[Group]) -> list[Group]:
        """Its part of all groups of a plan: whole batches, where there are as many as shards, else whole groups.

        Where there are fewer groups than shards, groups are cut between cells; what the cells of one have in common is then
        computed by each of its shards, unless they share a cache on disk.
        """
        batches = [list(batch) for _, batch in groupby(groups, key=lambda group: group.chunk)]
        if len(batches) >= self.of:
            return [group for batch in self._slice(batches) for group in batch]
        if len(groups) >= self.of:
            return self._slice(groups)
        cells = self._slice([(number, cell) for number, group in enumerate(groups) for cell in group.cells])
        cut = groupby(cells, key=lambda pair: pair[0])
        return [Group(groups[number].chunk, tuple(cell for _, cell in mine)) for number, mine in cut]

    def _slice(self, things: Sequence[T]) -> list[T]:
        first, end = ((number * len(things)) // self.of for number in (self.number - 1, self.number))
        return list(things[first:end])
