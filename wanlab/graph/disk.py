"""The disk tier: one safetensors file per key in a folder that several processes may share.

A file is written under a temporary name and renamed, so a reader sees a whole file or none. A checksum of the tensors
stands in the file's header; an entry that fails it is removed and computed again. When the folder grows over its
limit, the entries that were used longest ago go first (a hit touches the file's time).
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .keys import digest
from .memory import Outputs

STALE_SECONDS = 3600.0  # a temporary file older than this belongs to a process that died


class DiskTier:
    """A folder of stage outputs with a limit in bytes. `corrupt` lists the entries that failed their checksum."""

    def __init__(self, folder: Path, limit: int):
        if limit <= 0:
            raise ValueError(f"a disk limit is more than 0 bytes, got {limit}")
        self.folder, self.limit = Path(folder), limit
        self.corrupt: list[str] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        self.used = sum(size for _, size, _ in self._entries())

    def __contains__(self, key: str) -> bool:
        return self._path(key).exists()

    def get(self, key: str) -> Outputs | None:
        """The outputs under `key`, or None where there are none or the file is damaged (then it is removed)."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                checksum = (file.metadata() or {}).get("digest")
                outputs = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, ValueError):
            return self._discard(key)
        if digest(outputs) != checksum:
            return self._discard(key)
        try:
            os.utime(path)
        except FileNotFoundError:  # another process made room meanwhile; what was read is good
            return outputs
        return outputs

    def put(self, key: str, outputs: Outputs) -> None:
        """Keep `outputs`. Two processes that write one key write the same bytes; the later rename wins."""
        path = self._path(key)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{uuid.uuid4().hex}.part")
        try:
            tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in outputs.items()}
            save_file(tensors, temporary, metadata={"digest": digest(tensors)})
            self.used += temporary.stat().st_size
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if self.used > self.limit:
            self._make_room()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _discard(self, key: str) -> None:
        self.corrupt.append(key)
        self._path(key).unlink(missing_ok=True)

    def _entries(self) -> list[tuple[float, int, Path]]:
        found = []
        for path in self.folder.glob("??/*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:  # removed by another process between listing and looking
                continue
            found.append((status.st_mtime, status.st_size, path))
        return sorted(found)

    def _make_room(self) -> None:
        """Remove the oldest entries down to nine tenths of the limit, and what dead writers left."""
        entries = self._entries()
        newest = entries[-1][0] if entries else 0.0
        for path in self.folder.glob("??/*.part"):
            if path.exists() and newest - path.stat().st_mtime > STALE_SECONDS:
                path.unlink(missing_ok=True)
        self.used = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if self.used <= 0.9 * self.limit:
                break
            path.unlink(missing_ok=True)
            self.used -= size
