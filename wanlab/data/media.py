"""What image and video files have in common: how they fail, and how they are fitted to a size."""

from __future__ import annotations

import difflib
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from wanlab.core.quote import quoted

IMAGE_SUFFIXES = frozenset(".png .jpg .jpeg .webp .bmp .tif .tiff .gif".split())
VIDEO_SUFFIXES = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .gif".split())

LARGEST = 100_000_000  # pixels of a picture or of a frame: 1.2 GB as numbers
RATES = (0.1, 1000.0)  # frames per second of a file that is written

Size = int | tuple[int, int] | None


class MediaError(ValueError):
    """A file that cannot be read as what it should be: names the file and says what is wrong with it."""


def existing(path: str | Path) -> Path:
    """The path, if something is there. Raises MediaError with the nearest name in the folder."""
    try:
        path = Path(path).expanduser()
        if path.exists():
            return path
    except (OSError, RuntimeError) as error:                # a name too long for a file, the home of nobody
        raise MediaError(f"{quoted(str(path))}: no such file ({error})") from error
    folder = path.parent
    if not folder.is_dir():
        raise MediaError(f"{path}: there is no folder {folder}")
    near = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir()], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else f"; nothing in {folder} has a similar name"
    raise MediaError(f"{path}: no such file{hint}")


def demand_mp4(path: Path) -> None:
    """Raise ValueError for a name that says another format than the one that videos are written in."""
    if path.suffix.lower() not in (".mp4", ".m4v"):
        raise ValueError(f"{path}: videos are written as MP4; call it {path.with_suffix('.mp4').name}")


def demand_rate(fps: float) -> None:
    """Raise ValueError for frames per second that no file is written with."""
    if not RATES[0] <= fps <= RATES[1]:
        raise ValueError(f"fps {fps:g}: a video has from {RATES[0]:g} to {RATES[1]:,.0f} frames per second")


def fit(images: Tensor, size: Size, at: tuple[float, float] = (0.5, 0.5)) -> Tensor:
    """Crop `b c h w` to the shape of size (int: a square; or (h, w)) and resize, antialiased; None: as it is.

    at: where the crop lies, from 0 (top, left) to 1 (bottom, right); in the middle unless told.
    Values stay in [0, 1]. Raises ValueError for a size below 1.
    """
    if size is None:
        return images
    high, wide = (size, size) if isinstance(size, int) else size
    if min(high, wide) < 1:
        raise ValueError(f"size {size} is not positive")
    h, w = images.shape[-2:]
    scale = min(h / high, w / wide)
    rows, columns = max(1, round(high * scale)), max(1, round(wide * scale))
    top, left = int((h - rows) * at[0]), int((w - columns) * at[1])
    crop = images[..., top : top + rows, left : left + columns]
    if (rows, columns) == (high, wide):
        return crop
    return F.interpolate(crop, (high, wide), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
