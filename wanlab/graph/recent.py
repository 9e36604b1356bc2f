"""What was used last: values by key with a limit in bytes, least recently used out first, whatever the values are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """A mapping from key to value that never holds more bytes than `limit`. `dropped` counts what made room and was not spare.

    A spare entry is one that probably nobody asks for: it takes no room from others, and goes before all of them. One that is
    asked for after all is an entry like the others from then on.
    """

    def __init__(self, limit: int):
        if limit < 0:
            raise ValueError(f"a limit is at least 0 bytes, got {limit}")
        self.limit, self.dropped = limit, 0
        self._kept: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._spare: OrderedDict[str, tuple[T, int]] = OrderedDict()
        self._bytes, self._spare_bytes = 0, 0

    def __len__(self) -> int:
        return len(self._kept) + len(self._spare)

    def __contains__(self, key: str) -> bool:
        return key in self._kept or key in self._spare

    @property
    def used(self) -> int:
        """Bytes held."""
        return self._bytes + self._spare_bytes

    def get(self, key: str) -> T | None:
        """The value under `key`, now the most recently used, or None."""
        if key in self._spare:
            entry = self._spare.pop(key)
            self._kept[key] = entry
            self._spare_bytes -= entry[1]
            self._bytes += entry[1]
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def make_room(self, size: int, spare: bool = False) -> bool:
        """Let go what must go for `size` more bytes; whether they fit. For a spare value nothing goes but what is spare."""
        if size > self.limit - (self._bytes if spare else 0):
            return False
        while self.used + size > self.limit:
            self.dropped += not self._spare
            self.drop(next(iter(self._spare or self._kept)))
        return True

    def put(self, key: str, value: T, size: int, spare: bool = False) -> None:
        """Keep a value of `size` bytes, if room can be made for it. A key that is there keeps its value."""
        if key in self or not self.make_room(size, spare):
            return
        if spare:
            self._spare[key] = value, size
            self._spare_bytes += size
        else:
            self._kept[key] = value, size
            self._bytes += size

    def drop(self, key: str) -> None:
        """Forget `key`, if it is there."""
        if key in self._kept:
            self._bytes -= self._kept.pop(key)[1]
        elif key in self._spare:
            self._spare_bytes -= self._spare.pop(key)[1]

    def keep(self, keys: Collection[str]) -> None:
        """Forget all but `keys`."""
        for key in [key for key in (*self._kept, *self._spare) if key not in keys]:
            self.drop(key)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._spare.clear()
        self._bytes = self._spare_bytes = 0
