"""Masks: which positions of a picture are meant, as plain data at any resolution.

As text, rows of 0 and 1 from the top, equal rows counted, the samples of a batch apart by ";": "0000*2/0110*2". A file (an
image, white is inside; or .npy) is named by its path, and told from others by what it holds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wanlab.core.nearest import suggestion

_ROW = r"[01]+(?:\*\d+)?"
LARGEST, DIGITS = 2**26, 12  # positions of a mask; digits of how often a row stands there
_TEXT = re.compile(rf"{_ROW}(?:[/;]{_ROW})*")


class MaskError(ValueError):
    """A mask that cannot be read."""


@dataclass(frozen=True)
class Mask:
    """`text` as above; `path` where it came from a file. Two are equal when they hold the same."""

    text: str
    path: str | None = field(default=None, compare=False)

    @classmethod
    def of(cls, value: Any) -> Mask | None:
        """From an array (bool, or 0 and 1) h w or b h w, nested lists, text, the path of a file, or what `to_dict` gave."""
        if value is None or isinstance(value, Mask):
            return value
        if isinstance(value, Mapping):
            return _from_file(value.get("path"), value)
        if isinstance(value, str) and _TEXT.fullmatch(value.replace(" ", "")):
            return cls(_text(_parsed(value.replace(" ", ""))))
        if isinstance(value, (str, Path)):
            return _from_file(value, {})
        return cls(_text(_array(value)))

    @property
    def array(self) -> np.ndarray:
        """Booleans h w or b h w."""
        return _parsed(self.text)

    @property
    def rows(self) -> int | None:
        """The number of samples; None: one mask for all."""
        array = self.array
        return len(array) if array.ndim == 3 else None

    @property
    def sha256(self) -> str:
        """Of what it holds."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def sized(self, h: int, w: int) -> Tensor:
        """The mask on another grid, boolean h w or b h w: a position is inside where at least half of it is.

        Raises MaskError where nothing is left.
        """
        return _sized(self.text, h, w)

    def to_dict(self) -> Any:
        """Plain data for YAML: text, or the path of its file with the hash of what it holds."""
        return self.text if self.path is None else {"path": self.path, "sha256": self.sha256}

    def __str__(self) -> str:
        """What one would type: the path, or the text. `Mask.of` reads it back."""
        if self.path is None:
            return self.text
        return f"./{self.path}" if _TEXT.fullmatch(self.path) else self.path


@lru_cache(maxsize=64)
def _sized(text: str, h: int, w: int) -> Tensor:
    asked = torch.from_numpy(_parsed(text)).float()
    flat = asked.reshape(-1, 1, *asked.shape[-2:])
    sized = torch.nn.functional.interpolate(flat, (h, w), mode="area")[:, 0] >= 0.5
    if asked.any() and not sized.any():
        raise MaskError(f"nothing is left of the mask at {h}x{w}: it is {asked.shape[-2]}x{asked.shape[-1]}, "
                        "and no position of that grid is inside by half")
    return sized if asked.ndim == 3 else sized[0]


def _text(array: np.ndarray) -> str:
    def picture(mask: np.ndarray) -> str:
        rows = ["".join("01"[int(one)] for one in row) for row in mask]
        starts = [i for i, row in enumerate(rows) if i == 0 or row != rows[i - 1]]
        counts = [end - start for start, end in zip(starts, [*starts[1:], len(rows)])]
        return "/".join(rows[start] + (f"*{count}" if count > 1 else "") for start, count in zip(starts, counts))

    return ";".join(map(picture, array)) if array.ndim == 3 else picture(array)


def _parsed(text: str) -> np.ndarray:
    samples = [[_repeated(told) for told in picture.split("/")] for picture in text.split(";")]
    if len({len(row) for rows in samples for row, _ in rows}) != 1 or len({sum(n for _, n in rows) for rows in samples}) != 1:
        raise MaskError(f"the mask {_short(text)}: its rows have different lengths, or its samples different heights")
    size = len(samples) * sum(n for _, n in samples[0]) * len(samples[0][0][0])
    if size > LARGEST:
        raise MaskError(f"the mask {_short(text)} has {size:,} positions; at most {LARGEST:,}")
    if not size:
        raise MaskError(f"the mask {_short(text)} has no row")
    found = np.array([[np.frombuffer(row.encode(), np.uint8) == ord("1") for row, n in rows for _ in range(n)] for rows in samples])
    return found if ";" in text else found[0]


def _repeated(told: str) -> tuple[str, int]:
    """A row, and how often it stands there."""
    row, _, count = told.partition("*")
    if len(count) > DIGITS:
        raise MaskError(f"the mask repeats a row {_short(count)} times; a mask has at most {LARGEST:,} positions")
    return row, int(count or 1)


def _array(value: Any) -> np.ndarray:
    value = value.detach().cpu().tolist() if isinstance(value, Tensor) else value
    try:
        found = np.array(list(value) if isinstance(value, Iterable) else value)
    except ValueError:
        raise MaskError("a mask is an array h w or b h w: these rows have different lengths") from None
    if found.dtype.kind not in "biuf":
        raise MaskError(f"a mask is an array, text such as '0110*2/0000', or the path of a file, not {_short(repr(value))}")
    if found.ndim not in (2, 3) or 0 in found.shape:
        raise MaskError(f"a mask is h w or b h w, not {'x'.join(map(str, found.shape)) or 'a number'}")
    if strange := sorted({float(one) for one in found.ravel()} - {0.0, 1.0}):
        raise MaskError(f"a mask is of 0 and 1 or of booleans; {strange[0]:g} is neither")
    return found.astype(bool)


def _from_file(path: Any, told: Mapping[str, Any]) -> Mask:
    if not isinstance(path, (str, Path)) or not set(told) <= {"path", "sha256"}:
        raise MaskError(f"a mask from a file is given as path and sha256, not {dict(told)}")
    path = Path(path)
    if not path.is_file():
        near = suggestion(path.name, [one.name for one in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise MaskError(f"no mask at {str(path)!r}: it is neither a file{near} nor text such as '0110*2/0000'")
    found = Mask(_text(_read(path)), str(path))
    if told.get("sha256", found.sha256) != found.sha256:
        raise MaskError(f"the mask {path} has changed: its sha256 is {found.sha256}, not {told['sha256']}")
    return found


def _read(path: Path) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return _array(np.load(path, allow_pickle=False))
        from PIL import Image

        with Image.open(path) as image:
            if (size := image.width * image.height) > LARGEST:
                raise MaskError(f"the mask {path} has {size:,} positions; at most {LARGEST:,}")
            return np.asarray(image.convert("L")) >= 128
    except MaskError:
        raise
    except Exception as error:  # a damaged file leads to any: told as what it is
        raise MaskError(f"the mask {path} cannot be read: {error}") from None


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
