"""Still images of any kind, as tensors."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from wanlab.data.media import LARGEST, MediaError, Size, existing, fit

# what is told from its bytes; of what Pillow knows beside, some start programs (EPS), some take any bytes for theirs (TGA)
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "GIF", "BMP", "DIB", "PPM", "AVIF", "JPEG2000")


class Picture(NamedTuple):
    """image `c h w` float32 in [0, 1], RGB; notes: what had to be decided on the way, in words."""

    image: Tensor
    notes: tuple[str, ...]


def read_image(path: str | Path, size: Size = None) -> Tensor:
    """An image file as `c h w` float32 in [0, 1], RGB, cropped and resized to size as `fit` does.

    16-bit, grey, palette, CMYK, transparent (laid on white) and EXIF-rotated files are understood; `load_image` also
    says what was done. Raises MediaError, naming the file and what is wrong: missing (with the nearest name), empty,
    truncated, not an image.
    """
    return load_image(path, size).image


def load_image(path: str | Path, size: Size = None) -> Picture:
    """Like `read_image`, with notes on what had to be decided (transparency, depth, rotation, colour space)."""
    path = existing(path)
    if path.is_dir():
        raise MediaError(f"{path}: a folder, not an image")
    if path.stat().st_size == 0:
        raise MediaError(f"{path}: the file is empty")
    notes: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            with Image.open(path, formats=_formats()) as image:
                if (count := image.width * image.height) > LARGEST:
                    raise MediaError(f"{path}: {image.width} x {image.height} are {count:,} pixels; at most {LARGEST:,} are read")
                found = pixels(image, notes)
    except (MediaError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise MediaError(f"{path}: not an image in a format that is known here") from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path}: too large to be read safely ({error})") from error
    except Exception as error:  # of damaged bytes each reader raises something else
        raise MediaError(f"{path}: truncated or corrupt ({error})") from error
    heard = [str(one.message).strip() for one in told if not issubclass(one.category, Image.DecompressionBombWarning)]
    notes += dict.fromkeys(heard)
    return Picture(fit(torch.from_numpy(found).permute(2, 0, 1)[None], size)[0].contiguous(), tuple(notes))


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def pixels(image: Image.Image, notes: list[str]) -> np.ndarray:
    """An open image as `h w 3` float32 in [0, 1], RGB and upright; `notes` takes what had to be decided.

    Raises ValueError for floating-point values outside [0, 1], and for integers of 32 bits, of which nothing says which is white.
    """
    if (count := getattr(image, "n_frames", 1)) > 1:
        notes.append(f"{count} frames: the first was taken")
    deep = image.mode == "RGB" and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    if deep:
        notes.append("16 bits per channel, read as 8")
    upright = ImageOps.exif_transpose(image)
    if upright.size != image.size or image.getexif().get(0x0112, 1) != 1:
        notes.append("turned upright as its EXIF orientation says")
    if upright.mode == "I" and image.format != "PNG":  # older Pillow opens a PNG of 16 bits so
        raise ValueError("32-bit integers, of which nothing says which value is white; save it with 8 or 16 bits")
    if upright.mode.startswith("I"):
        notes.append("16-bit grey")
        return _grey(np.asarray(upright, np.float32) / 65535)
    if upright.mode == "F":
        return _grey(_unit(np.asarray(upright, np.float32)))
    if upright.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in upright.info:
        notes.append("transparent parts were laid on white")
        return _on_white(upright)
    if upright.mode not in ("RGB", "L", "1", "P"):
        notes.append(f"converted from {upright.mode}")
    return np.asarray(upright.convert("RGB"), np.float32) / 255


def _unit(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise ValueError("floating-point values outside [0, 1]")
    return values


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(values, 0, 1)[..., None], 3, axis=2)


def _on_white(image: Image.Image) -> np.ndarray:
    rgba = np.asarray(image.convert("RGBA"), np.float32) / 255
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + (1 - alpha)
