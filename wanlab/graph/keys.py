"""Digests of values: equal content, equal key, on every machine and in every process.

Python's own `hash` is salted and `pickle` is not canonical, so values are written as canonical JSON (sorted keys,
tensors by dtype, shape and bytes) and hashed with SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

LENGTH = 20  # hex digits kept: 80 bits, far beyond the number of stage runs that anyone will ever store


def digest(value: Any) -> str:
    """The content key of `value`: 20 hex digits.

    Accepts None, bool, int, float, str, Path, mappings with string keys, sequences, sets, numpy arrays, tensors and
    objects with a `to_dict()`. Raises TypeError for anything else, because a key that depends on a memory address
    would never be found again.
    """
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def file_digest(path: Path) -> str:
    """The content key of a file: 20 hex digits of the SHA-256 of its bytes. Raises OSError where it cannot be read."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:LENGTH]


def source_digest(folders: Iterable[Path]) -> str:
    """The content key of all Python sources under `folders` (or single files): the code version of what they compute."""
    entries = []
    for folder in sorted(Path(f) for f in folders):
        files = [folder] if folder.is_file() else sorted(folder.rglob("*.py"))
        entries += [(file.relative_to(folder.parent).as_posix(), file_digest(file)) for file in files]
    return digest(entries)


def _canonical(value: Any) -> Any:
    """`value` as plain JSON data. Kinds that JSON would merge (1 and 1.0, a tuple and its repr) stay apart."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"float": value.hex()}  # exact, also for nan and inf
    if isinstance(value, Path):
        return {"path": value.as_posix()}
    if isinstance(value, Mapping):
        return {"map": {_name(key): _canonical(item) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return {"set": sorted(json.dumps(_canonical(item), sort_keys=True) for item in value)}
    if isinstance(value, torch.Tensor):
        return {
            "tensor": _array(
                value.detach().cpu().contiguous().view(torch.uint8).numpy()
                if value.dtype == torch.bfloat16
                else value.detach().cpu().numpy()
            ),
            "dtype": str(value.dtype),
            "shape": list(value.shape),
        }
    if isinstance(value, np.ndarray):
        return {"array": _array(value), "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, np.generic):
        return _canonical(value.item())
    if callable(getattr(value, "to_dict", None)):
        return {"object": type(value).__name__, "fields": _canonical(value.to_dict())}
    raise TypeError(f"no content key for a {type(value).__name__}: give it a to_dict(), or pass plain data")


def _name(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"content keys need mappings with string keys, got the key {key!r} ({type(key).__name__})")
    return key


def _array(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
