"""The memory tier: stage outputs by key, least recently used out first, never more bytes than stated."""

from __future__ import annotations

from collections.abc import Collection

import torch

from .recent import Recent

Outputs = dict[str, torch.Tensor]


def size_of(outputs: Outputs) -> int:
    """Bytes that a stage's outputs occupy."""
    return sum(tensor.numel() * tensor.element_size() for tensor in outputs.values())


class MemoryTier:
    """An LRU mapping from key to outputs (CPU tensors) with a limit in bytes.

    Outputs larger than the limit are not kept (and not an error: the next cell computes them again).
    """

    def __init__(self, limit: int):
        if limit < 0:
            raise ValueError(f"a memory limit is at least 0 bytes, got {limit}")
        self._entries: Recent[Outputs] = Recent(limit)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    @property
    def limit(self) -> int:
        """Bytes that it may hold."""
        return self._entries.limit

    @property
    def used(self) -> int:
        """Bytes that it holds."""
        return self._entries.used

    def get(self, key: str) -> Outputs | None:
        """The outputs under `key`, now the most recently used, or None."""
        found = self._entries.get(key)
        return None if found is None else dict(found)

    def put(self, key: str, outputs: Outputs) -> None:
        """Keep `outputs`, dropping the least recently used entries until everything fits."""
        self._entries.put(key, dict(outputs), size_of(outputs))

    def drop(self, key: str) -> None:
        """Forget `key`, if it is there."""
        self._entries.drop(key)

    def keep(self, keys: Collection[str]) -> None:
        """Forget all but `keys`."""
        self._entries.keep(keys)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
