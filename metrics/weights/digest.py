"""Hashes of weight files: what stands in a metric's name, so that two numbers of other weights never look alike."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

SHORT = 8  # hex digits in a name, as in torchvision's file names
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")


def sha256(path: str | Path) -> str:
    """Hex digest of a file, or of a folder of weights: of its one weight file, or of all of them in order of name.

    A file that was hashed before in this process and has neither another size nor another time is not read again.

    Raises:
        FileNotFoundError: nothing is there, or a folder without any weight file.
    """
    path = Path(path)
    if not path.is_dir():
        stat = path.stat()
        return _digest(path.resolve(), stat.st_size, stat.st_mtime_ns)
    files = sorted(file for file in path.iterdir() if file.suffix in WEIGHT_SUFFIXES)
    if any(file.suffix == ".safetensors" for file in files):  # what is loaded where a folder holds both
        files = [file for file in files if file.suffix == ".safetensors"]
    if not files:
        raise FileNotFoundError(f"{path}: no weight file in this folder ({', '.join(WEIGHT_SUFFIXES)})")
    if len(files) == 1:
        return sha256(files[0])
    return hashlib.sha256("".join(f"{file.name} {sha256(file)}\n" for file in files).encode()).hexdigest()


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha8(path: str | Path) -> str:
    """The first eight hex digits of `sha256`."""
    return sha256(path)[:SHORT]
