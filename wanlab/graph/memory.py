"""The memory tier: stage outputs by key, least recently used out first, never more bytes than stated."""

from __future__ import annotations

from collections import OrderedDict

import torch

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
        self.limit, self.used = limit, 0
        self._entries: OrderedDict[str, Outputs] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def get(self, key: str) -> Outputs | None:
        """The outputs under `key`, now the most recently used, or None."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return dict(self._entries[key])

    def put(self, key: str, outputs: Outputs) -> None:
        """Keep `outputs`, dropping the least recently used entries until everything fits."""
        size = size_of(outputs)
        if key in self._entries or size > self.limit:
            return
        while self.used + size > self.limit:
            _, oldest = self._entries.popitem(last=False)
            self.used -= size_of(oldest)
        self._entries[key] = dict(outputs)
        self.used += size

    def drop(self, key: str) -> None:
        """Forget `key`, if it is there."""
        outputs = self._entries.pop(key, None)
        self.used -= 0 if outputs is None else size_of(outputs)

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.used = 0
