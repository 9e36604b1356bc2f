"""What callers give, brought to one form: images to tensors, single values to rows."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wanlab.core.quote import quoted
from wanlab.data.media import fit


def rows(value: Any, b: int | None = None, what: str = "value") -> list[Any]:
    """A list with one entry a row; a single value serves all of them. ValueError where the counts differ."""
    value = value.tolist() if hasattr(value, "tolist") else value           # tensors and arrays of numbers
    entries = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if b is None or len(entries) == b:
        return entries
    if len(entries) != 1:
        raise ValueError(f"{what} has {len(entries)} rows where the others have {b}")
    return entries * b


def sentences(value: Any, what: str) -> list[str]:
    """Rows of text. TypeError for anything else."""
    entries = rows(value)
    for entry in entries:
        if not isinstance(entry, str):
            raise TypeError(f"{what} is a sentence, or one for each row, got {quoted(entry)}; '' says nothing")
    return entries


def whole(value: Any, what: str) -> int:
    """A whole number. TypeError for anything that would have to be rounded or read."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} is a whole number, got {quoted(value)}") from None


def number(value: Any, what: str) -> float:
    """A number. TypeError for a text and for what is none."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{what} is a number, got {quoted(value)}") from None


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width of a size: one number for a square, or both."""
    high, wide = (size, size) if isinstance(size, int) else size
    return high, wide


def as_images(image: Any, size: int | Sequence[int]) -> Tensor:
    """Any image or list of images to b 3 h w in [0, 1]: the largest centred part of that shape, resized as `media.fit` does.

    A path and a PIL image are read as `data.image` reads: upright, transparent parts on white.
    """
    if isinstance(image, str | Path):
        from wanlab.data.folder import read_image

        return read_image(image, size=sides(size))[None]
    if isinstance(image, list | tuple):
        return torch.cat([as_images(entry, size) for entry in image])
    x = _tensor(image)
    if x.ndim == 3:
        x = x[None]
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"an image tensor is c h w or b c h w with 3 channels, got {tuple(x.shape)}")
    if not torch.isfinite(x).all() or x.min() < -1e-4 or x.max() > 1 + 1e-4:
        raise ValueError(f"image values must be finite and in [0, 1], got {x.min():.3g} to {x.max():.3g}")
    return fit(x.float().clamp(0, 1), sides(size))


def _tensor(image: Any) -> Tensor:
    if isinstance(image, Tensor):
        return image
    import numpy as np

    if hasattr(image, "convert"):                                   # a PIL image
        from wanlab.data.image import pixels

        image = pixels(image, [])
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(f"an image array is h w 3, got {array.shape}")
    scale = 255 if array.dtype == np.uint8 else 1
    return torch.from_numpy(array.astype("float32") / scale).movedim(-1, 0)
