"""One file of tensors, safetensors or torch's own: shapes from its header alone, values as views of the file, read when used.

The safetensors library maps a file so that the system must have room for all of it, and refuses one that is larger than the memory;
here its pages are the file's own until something is written (https://huggingface.co/docs/safetensors: length, JSON header, values).
"""

from __future__ import annotations

import json
import math
import mmap
import pickle
import struct
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanlab.core.quote import quoted
from wanlab.pipelines.weights import WeightsError

TORCH = (".pth", ".pt", ".bin")
HEADER = 100_000_000  # bytes, as the safetensors library has it
SUFFIXES = (".safetensors", *TORCH)
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
# Linux: what is mapped needs no room of its own in memory, as long as nobody writes to it.
_PRIVATE: dict[str, Any] = (
    {"flags": mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000), "prot": mmap.PROT_READ | mmap.PROT_WRITE}
    if hasattr(mmap, "MAP_POPULATE") else {"access": mmap.ACCESS_COPY})


def shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor. Raises WeightsError for a file that is damaged, or holds something else."""
    if file.suffix in TORCH:
        return {name: tuple(value.shape) for name, value in _of_torch(file).items()}
    return {name: shape for name, (_, shape, _) in _header(file).items()}


def tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its name, in the order of the file."""
    if file.suffix in TORCH:
        yield from _of_torch(file).items()
        return
    header = _header(file)
    with open(file, "rb") as opened:
        mapped = mmap.mmap(opened.fileno(), 0, **_PRIVATE)
    for name, (dtype, shape, start) in header.items():
        count = math.prod(shape)
        flat = torch.frombuffer(mapped, dtype=dtype, count=count, offset=start) if count else torch.empty(0, dtype=dtype)
        yield name, flat.reshape(shape)


def _header(file: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...], int]]:
    """Of every tensor its precision, its shape, and at which byte it begins."""
    try:
        with open(file, "rb") as opened:
            [length] = struct.unpack("<Q", opened.read(8))
            size = file.stat().st_size
            if length > size - 8:
                raise ValueError(f"it ends within its header, after {size} bytes")
            if length > HEADER:
                raise ValueError(f"its header would have {length:,} bytes; at most {HEADER:,}")
            told = json.loads(opened.read(length))
        found, end = {}, 8 + length
        taken: list[tuple[int, int]] = []
        for name, one in told.items():
            if name == "__metadata__":
                continue
            if one["dtype"] not in _DTYPES:
                raise ValueError(f"{name} is of kind {one['dtype']}, which is not read here")
            dtype, shape = _DTYPES[one["dtype"]], tuple(_whole(name, one["shape"]))
            start, stop = (8 + length + at for at in _whole(name, one["data_offsets"]))
            if stop - start != math.prod(shape) * dtype.itemsize or start < 8 + length:
                raise ValueError(f"{name} has no room for its shape {list(shape)}")
            found[name], end = (dtype, shape, start), max(end, stop)
            taken.append((start, stop))
        if any(stop > start for (_, stop), (start, _) in pairwise(sorted(taken))):
            raise ValueError("two of its tensors lie over each other")
        if size != end:
            raise ValueError(f"it has {size} bytes and its header speaks of {end}")
    except RecursionError:
        raise WeightsError(f"{file} is damaged or no safetensors file: its header is no list of tensors") from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError) as error:
        raise WeightsError(f"{file} is damaged or no safetensors file: {error}") from None
    return found


def _whole(name: str, numbers: Any) -> list[int]:
    """Sizes or places: whole numbers from 0 on. Raises ValueError."""
    if not isinstance(numbers, list) or not all(type(one) is int and 0 <= one < 2**62 for one in numbers):
        raise ValueError(f"{name} says {quoted(numbers)} where whole numbers from 0 on stand")
    return numbers


def _of_torch(file: Path) -> Mapping[str, Tensor]:
    """The tensors of a file that torch wrote, memory-mapped. Nothing else that may stand in it is ever run."""
    try:
        held = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(f"{file} holds more than tensors, which is not loaded: {str(error).splitlines()[0]}") from None
    except MemoryError:
        raise
    except Exception as error:  # of damaged bytes its reader raises anything
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{file} is damaged, or no file that torch wrote: {said}") from None
    if not isinstance(held, Mapping) or not all(isinstance(value, Tensor) for value in held.values()):
        keys = f": it holds {', '.join(map(str, list(held)[:4]))}" if isinstance(held, Mapping) else ""
        raise WeightsError(f"{file} is no plain mapping of names to tensors{keys}")
    return held
