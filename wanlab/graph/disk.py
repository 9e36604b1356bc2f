"""The disk tier: one safetensors file per key in a folder that several processes may share.

A file is written under a temporary name and renamed, so a reader sees a whole file or none. A checksum of the tensors stands in
the file's header; an entry that fails it is removed and computed again. When the folder grows over its limit, the entries that
were used longest ago go first (a hit touches the file's time); files under other names than the cache gives are a stranger's, and
neither counted nor removed. Nothing is made and nothing goes before something is kept. A folder that cannot be written costs time,
never a run: what is wrong is told once, and outputs are computed where they are not found.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save_file

from .keys import LENGTH, digest
from .memory import Outputs

STALE_SECONDS = 3600.0      # a temporary file older than this belongs to a process that died
ENTRY = re.compile(rf"[0-9a-f]{{{LENGTH}}}(\.safetensors|\.[0-9a-f]{{32}}\.part)")     # what `put` makes; nothing else is touched
LOOK_AGAIN = 0.1            # of the limit: after so many bytes of its own a process looks what the others have written

Tell = Callable[[str], None]


class DiskTier:
    """A folder of stage outputs with a limit in bytes, under keys of `digest`. `corrupt` lists the entries that failed their
    checksum; `tell` hears, once for each kind of trouble, why nothing is kept. Raises ValueError for a limit of 0 or less."""

    def __init__(self, folder: Path, limit: int, tell: Tell | None = None):
        if limit <= 0:
            raise ValueError(f"a disk limit is more than 0 bytes, got {limit}")
        self.folder, self.limit, self.corrupt = Path(folder), limit, list[str]()
        self.tell: Tell = tell or logging.getLogger(__name__).warning
        self._told: set[str] = set()
        self.used, self._unseen = 0, limit      # nothing was seen yet: the first entry makes it look

    def __contains__(self, key: str) -> bool:
        return self._path(key).exists()

    def get(self, key: str) -> Outputs | None:
        """The outputs under `key`, or None where there are none, or the file is damaged (then it is removed) or cannot be read."""
        path = self._path(key)
        try:
            data = path.read_bytes()        # at once: another process may remove it at any time
        except FileNotFoundError:
            return None
        except OSError as error:
            self._trouble(error)
            return None
        try:
            outputs: Outputs = load(data)
            whole = digest(outputs) == _checksum(data)
        except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
            whole = False
        if not whole:
            self.corrupt.append(key)
            self._say("damaged", f"the stage cache {self.folder} holds damaged files, {path.name} the first; they are removed and "
                                 "computed again")
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with suppress(OSError):             # removed meanwhile, or not ours to touch: what was read is good
            os.utime(path)
        return outputs

    def put(self, key: str, outputs: Outputs, last: bool = False) -> None:
        """Keep `outputs`, `last` or not: another run may ask for them. Two processes that write one key write the same bytes; the
        later rename wins."""
        path = self._path(key)
        if path.exists():
            return
        temporary = path.with_suffix(f".{uuid.uuid4().hex}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in outputs.items()}
            save_file(tensors, temporary, metadata={"digest": digest(tensors)})
            size = temporary.stat().st_size
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            self._trouble(error)
            return
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        self.used += size
        self._unseen += size
        if self.used > self.limit or self._unseen > LOOK_AGAIN * self.limit:
            self._look()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _trouble(self, error: Exception) -> None:
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        self._say(why, f"the stage cache {self.folder} cannot be used as it should ({why}); the run goes on, and computes what it "
                       "does not find there")

    def _say(self, what: str, text: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self.tell(text)

    def _own(self) -> Iterator[Path]:
        """The files of the cache, known by their names: whole entries and those that are being written."""
        for path in self.folder.glob("??/*.*"):
            if ENTRY.fullmatch(path.name) and path.parent.name == path.name[:2]:
                yield path

    def _look(self) -> None:
        """See what the folder holds; remove the oldest entries down to nine tenths of the limit, and what dead writers left."""
        entries = []
        for path in self._own():
            with suppress(OSError):         # removed by another process between listing and looking
                status = path.stat()
                if path.suffix == ".safetensors":
                    entries.append((status.st_mtime, status.st_size, path))
                elif time.time() - status.st_mtime > STALE_SECONDS:
                    path.unlink()
        self.used, self._unseen = sum(size for _, size, _ in entries), 0
        if self.used <= self.limit:
            return
        for _, size, path in sorted(entries):
            if self.used <= 0.9 * self.limit:
                break
            try:
                path.unlink(missing_ok=True)    # another process may make room too
            except OSError as error:
                self._trouble(error)
                break
            self.used -= size


def _checksum(data: bytes) -> str:
    """The digest that the header of a safetensors file states. Raises ValueError or KeyError where there is none."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8:8 + length])["__metadata__"]["digest"]
