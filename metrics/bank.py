"""A bank of features on disk: a memory map that grows by appending, survives kill -9, and knows what it holds.

    bank = FeatureBank("features/real", key={"preset": "videogpt", "weights": "i3d:1f2e3d4c", "code": "1"})
    for ids, videos in batches:                    # ids: the content hash of each video, or its path
        if bank.missing(ids):                      # a second run finds everything and extracts nothing
            bank.append(ids, network(videos))
    x = bank.features                              # (n, d), mapped, not read

A folder of three files: `rows` (little-endian floats, one row of d per sample), `ids` (one JSON text per line), and
`index.json` (key, width, how many rows, bytes and checksums of both files), which is replaced by a rename after every
append. What an interrupted append left beyond the index is not part of the bank and is overwritten by the next. The format is ours.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from io import BufferedRandom
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from .rows import check_rows, numbered

FORMAT = 1
SAME = 1e-3  # a repeated sample may differ by this much of its largest feature: batches round differently
CHUNK = 2**24  # bytes read at once while checking

Key = Mapping[str, str | int | float]


class BankError(ValueError):
    """A bank of other features, a damaged one, or one that another process is writing."""


class FeatureBank:
    """Features (n, d) of samples with ids, on disk, under a key that says what the features are.

    Args:
        path: a folder; made with the first append.
        key: whatever decides the features apart from the sample: preset, hash of the weights, version of the code; the
            hash of the videos' content where the ids do not carry it.

    One process appends at a time (the folder is locked from the first append to `close`); any number read. Each process
    of a parallel run writes a bank of its own, and `absorb` merges them; a sample id that is already there is skipped.

    Raises:
        BankError: the folder holds features of another key, or its files do not match its index.
    """

    ids: list[str | int]
    width: int
    _dtype: str | None
    _where: dict[int, int]

    def __init__(self, path: str | Path, key: Key) -> None:
        self._lock: BufferedRandom | None = None
        self.path, self.key = Path(path), {name: key[name] for name in sorted(key)}
        self._read()

    @classmethod
    def under(cls, root: str | Path, key: Key) -> Self:
        """The bank of this key in a folder of banks: `root/<hash of the key>`."""
        text = json.dumps({name: key[name] for name in sorted(key)})
        return cls(Path(root) / hashlib.sha256(text.encode()).hexdigest()[:16], key)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, sample: str | int) -> bool:
        return int(numbered([sample])) in self._where

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: a copy of a metric shares its banks."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without the lock, so that another process may open the same bank."""
        return self.__dict__ | {"_lock": None}

    def close(self) -> None:
        """Lets other processes append."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def features(self) -> Tensor:
        """All rows (n, d) in the order of `ids`, mapped into memory; writing into them does not reach the disk."""
        if not len(self):
            return torch.zeros(0, self.width)
        return torch.from_numpy(np.memmap(self.path / "rows", np.dtype(self._dtype), "c", shape=(len(self), self.width)))

    def rows_of(self, ids: Sequence[str | int] | Tensor) -> Tensor:
        """The rows of these samples (k, d), in this order, copied into memory.

        Raises:
            KeyError: samples that are not there; the message names some.
        """
        numbers = numbered(ids).tolist()
        lacking = [sample for sample, number in zip(ids, numbers, strict=True) if number not in self._where]
        if lacking:
            raise KeyError(f"{self.path} lacks {len(lacking)} of {len(numbers)} samples: {_some(lacking)}")
        return self.features[[self._where[number] for number in numbers]]

    def missing(self, ids: Sequence[str | int]) -> list[str | int]:
        """Those of `ids` that are not there yet."""
        return [sample for sample in ids if sample not in self]

    def append(self, ids: Sequence[str | int], features: Tensor) -> int:
        """Adds the rows of `features` (b, d) whose ids are new, durably; returns how many these were.

        Raises:
            ValueError: NaN, another width, as many ids as rows not given, or a known id with different features.
            BankError: another process is writing here.
        """
        features = check_rows(features, "features", minimum=0).detach().cpu()
        if len(ids) != len(features):
            raise ValueError(f"{len(features)} rows of features but {len(ids)} ids")
        self._acquire()
        if self._dtype is None:
            self.width, self._dtype = features.shape[1], "<f8" if features.dtype == torch.float64 else "<f4"
        if features.shape[1] != self.width:
            raise ValueError(f"{self.path} holds {self.width} features per sample, got {features.shape[1]}")
        values = features.to(torch.float64 if self._dtype == "<f8" else torch.float32).numpy()
        fresh: dict[int, int] = {}
        for row, number in enumerate(numbered(ids).tolist()):
            known = self.features[self._where[number]].numpy() if number in self._where else None
            known = values[fresh[number]] if number in fresh else known
            if known is None:
                fresh[number] = row
            elif np.abs(known - values[row]).max() > SAME * np.abs(known).max():
                raise ValueError(f"sample {ids[row]!r} came twice, with different features: ids must name one sample each")
        if fresh:
            self._write([ids[row] for row in fresh.values()], values[list(fresh.values())])
        return len(fresh)

    def absorb(self, part: FeatureBank, batch: int = 1024) -> int:
        """Adds the samples of another bank of the same key that are not here yet; returns how many these were.

        Raises:
            BankError: the other bank has another key.
        """
        _check_key(part.path, part.key, self.key)
        rows = part.features
        return sum(
            self.append(part.ids[start : start + batch], rows[start : start + batch]) for start in range(0, len(part), batch)
        )

    def _acquire(self) -> None:
        """The lock of the folder, and what others have appended before it was ours."""
        if self._lock is not None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        stream = open(self.path / "lock", "a+b")  # noqa: SIM115 (closed by `close`, which gives the lock back)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.close()
            raise BankError(
                f"another process is writing to {self.path}; give each process a bank of its own and merge them by absorb"
            ) from error
        self._lock = stream
        self._read()

    def _read(self) -> None:
        """Takes over the index on disk, after checking it against the files."""
        self.ids = []
        self.width, self._dtype, self._where = 0, None, {}
        self._ends, self._sums = {"rows": 0, "ids": 0}, {"rows": 0, "ids": 0}
        try:
            index = json.loads((self.path / "index.json").read_text())
        except FileNotFoundError:
            return
        except json.JSONDecodeError as error:
            raise BankError(f"{self.path / 'index.json'} is not an index of features: {error}") from error
        if index.get("format") != FORMAT:
            raise BankError(f"{self.path} has format {index.get('format')}, this is format {FORMAT}")
        _check_key(self.path, index["key"], self.key)
        self.width, self._dtype, self._ends, self._sums = index["width"], index["dtype"], index["bytes"], index["crc32"]
        for name, end in self._ends.items():
            found = _checksum(self.path / name, end)
            if found != self._sums[name]:
                raise BankError(f"{self.path / name} is damaged: its first {end} bytes are not those that were written")
        with open(self.path / "ids", "rb") as stream:
            self.ids = [json.loads(line) for line in stream.read(self._ends["ids"]).splitlines()]
        self._where = {number: row for row, number in enumerate(numbered(self.ids).tolist())}

    def _write(self, ids: Sequence[str | int], values: np.ndarray) -> None:
        """Rows, ids, then the index: each on disk before the next, the index by a rename."""
        parts = {"rows": values.tobytes(), "ids": "".join(json.dumps(sample) + "\n" for sample in ids).encode()}
        ends, sums = dict(self._ends), dict(self._sums)
        for name, data in parts.items():
            with open(self.path / name, "r+b" if (self.path / name).exists() else "w+b") as stream:
                stream.truncate(ends[name])
                stream.seek(ends[name])
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            ends[name], sums[name] = ends[name] + len(data), zlib.crc32(data, sums[name])
        self._index({"key": self.key, "width": self.width, "dtype": self._dtype, "bytes": ends, "crc32": sums})
        self._ends, self._sums = ends, sums
        for number in numbered(ids).tolist():
            self._where[number] = len(self._where)
        self.ids.extend(ids)

    def _index(self, content: dict[str, Any]) -> None:
        part = self.path / "index.json.part"
        with open(part, "w") as stream:
            json.dump({"format": FORMAT, "rows": content["bytes"]["rows"] // (int(content["dtype"][-1]) * content["width"])}
                      | content, stream, indent=1)  # fmt: skip
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, self.path / "index.json")


def _checksum(path: Path, end: int) -> int | None:
    """crc32 of the first `end` bytes; None when there are fewer."""
    found, left = 0, end
    if not path.exists():
        return None
    with open(path, "rb") as stream:
        while left:
            data = stream.read(min(CHUNK, left))
            if not data:
                return None
            found, left = zlib.crc32(data, found), left - len(data)
    return found


def _check_key(path: Path, held: Key, asked: Key) -> None:
    """Raises BankError that names what differs between the key of a bank and the key that is asked for."""
    differs = [
        f"{name} is {held.get(name, 'absent')!r} there and {asked.get(name, 'absent')!r} here"
        for name in sorted({*held, *asked})
        if held.get(name) != asked.get(name)
    ]
    if differs:
        raise BankError(f"{path} holds other features: {'; '.join(differs)}. Give another folder, or delete this one")


def _some(names: Sequence[Any]) -> str:
    return ", ".join(map(repr, list(names)[:3])) + (" ..." if len(names) > 3 else "")
