"""Records on disk: safetensors files whose tensors are mapped into memory when they are read, and read only where used."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wanlab.core.entry import Entry, outlined, raw
from wanlab.core.label import RecordError

MARK = "wanlab_record"
_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}


class Stored:
    """An entry that lies in a file. `outline` is the entry without its values; `read` maps them into memory.

    `file` is the open file, where one holds many entries: its header is then read once.
    """

    def __init__(self, path: Path, name: str, outline: Entry, file: Any = None) -> None:
        self.path, self.name, self.outline, self._file = path, name, outline, file

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file": None}        # an open file cannot be copied; it is opened again when needed

    def read(self) -> Entry:
        """The entry; its values come from the disk when they are used."""
        file = self._file or opened(self.path)
        return outlined(file.get_tensor(self.name), self.outline.told())


def opened(path: Path) -> Any:
    """A safetensors file, open; RecordError where it is none or was cut off."""
    if path.is_dir():
        raise RecordError(f"{path} is a folder; a saved record is one file")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise RecordError(f"{path} cannot be read as safetensors ({error})") from error


def outline(entry: Entry) -> Entry:
    """The entry with its shape and type, but without values."""
    return Entry(torch.empty(entry.tensor.shape, dtype=entry.tensor.dtype, device="meta"), entry.axes, entry.site,
                 entry.coords, entry.labels, entry.full)


def told(path: Path, file: Any) -> dict[str, Any]:
    """What a saved record says about itself; RecordError where the file is no such."""
    about = (file.metadata() or {}).get(MARK)
    if about is None:
        raise RecordError(f"{path} is a safetensors file, but not a saved record")
    try:
        return dict(json.loads(about))
    except (ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"{path}: what this record says of itself is damaged ({error})") from None


def write(path: Path, entries: Mapping[str, Entry | Stored | Tensor], about: Mapping[str, Any] | None = None) -> None:
    """Write tensors one after the other, so that no more than one is in memory; those of `Stored` are read in passing.

    The layout is that of safetensors: length of the header, header (JSON), bytes; the widest types first, which keeps
    every tensor aligned.
    """
    forms = {name: _form(one) for name, one in entries.items()}
    for name, form in forms.items():
        if form.dtype not in _NAMES:
            raise RecordError(f"{name}: a tensor of type {form.dtype} cannot be written")
    order = sorted(forms, key=lambda name: -forms[name].element_size())
    header: dict[str, Any] = {} if about is None else {"__metadata__": {MARK: json.dumps(about)}}
    end = 0
    for name in order:
        start, end = end, end + forms[name].numel() * forms[name].element_size()
        header[name] = {"dtype": _NAMES[forms[name].dtype], "shape": list(forms[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            file.write(raw(_values(entries[name])).numpy().data)


def _form(one: Entry | Stored | Tensor) -> Tensor:
    one = one.outline if isinstance(one, Stored) else one
    return one.tensor if isinstance(one, Entry) else one


def _values(one: Entry | Stored | Tensor) -> Tensor:
    one = one.read() if isinstance(one, Stored) else one
    return one.tensor if isinstance(one, Entry) else one
