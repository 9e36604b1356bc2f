"""A pool of clips: drawn once, kept as memory-mapped arrays, found again by what they contain."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from wanlab.data.clip import Clips

if TYPE_CHECKING:
    from wanlab.data.procedural import World


@dataclass(frozen=True)
class Pool:
    """n clips as arrays, usually memory-mapped and read-only.

    video `n f c h w` (uint8 0..255, or a float type in [0, 1]), masks `n m h w` (first frame only, uint8 0..255),
    tracks `n f m 2`, motion `n f m 5`.
    """

    video: NDArray[Any]
    masks: NDArray[np.uint8]
    tracks: NDArray[np.float32]
    motion: NDArray[np.float32]
    captions: list[str]
    factors: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.captions)

    def batch(self, indices: Sequence[int] | NDArray[np.integer]) -> Clips:
        """Some clips as float32 tensors; `masks` holds the first frame alone, `b 1 m h w`. IndexError beyond."""
        rows = np.asarray(indices, dtype=np.int64)
        if len(rows) == 0 or rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"pool of {len(self)} clips has no rows {rows.tolist()}")
        video = torch.from_numpy(self.video[rows])
        return Clips(
            video=video.float() / 255 if video.dtype == torch.uint8 else video.float(),
            captions=[self.captions[row] for row in rows],
            factors=[self.factors[row] for row in rows],
            masks=torch.from_numpy(self.masks[rows]).float()[:, None] / 255,
            tracks=torch.from_numpy(self.tracks[rows]),
            motion=torch.from_numpy(self.motion[rows]),
        )

    @classmethod
    def of(cls, world: World, n: int, path: str | Path | None, dtype: Any = np.uint8) -> Pool:
        """The first n samples of a world, in memory (path None) or in `path/<key>`, drawn only if not there yet.

        The key covers the world's parameters, the code that draws, and the bytes of a few samples (they show what else draws
        differently, such as another numpy), so a world that draws differently gets another folder. A folder appears complete or not
        at all. Raises ValueError for n < 1 or a dtype that is neither uint8 nor floating.
        """
        dtype = np.dtype(dtype)
        if n < 1:
            raise ValueError(f"a pool needs at least one clip, not {n}")
        if dtype != np.uint8 and dtype.kind != "f":
            raise ValueError(f"a pool holds uint8 or floating-point videos, not {dtype}")
        if path is None:
            arrays = {name: np.empty(shape, kind) for name, (shape, kind) in _layout(world, n, dtype).items()}
            return cls(**arrays, **_fill(world, n, arrays))
        folder = Path(path) / _key(world, n, dtype)
        if not folder.exists():
            _write(world, n, dtype, folder)
        return cls._open(folder)

    @classmethod
    def _open(cls, folder: Path) -> Pool:
        words = json.loads((folder / "truth.json").read_text())
        names = ("video", "masks", "tracks", "motion")
        return cls(**{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}, **words)


def _layout(world: World, n: int, dtype: np.dtype) -> dict[str, tuple[tuple[int, ...], Any]]:
    sample = world[0]
    slots, side = sample.masks.shape[1], world.size
    return {
        "video": ((n, world.frames, 3, side, side), dtype),
        "masks": ((n, slots, side, side), np.uint8),
        "tracks": ((n, world.frames, slots, 2), np.float32),
        "motion": ((n, world.frames, slots, 5), np.float32),
    }


def _key(world: World, n: int, dtype: np.dtype) -> str:
    digest = hashlib.sha256(f"{world!r} n={n} {dtype} {_code(Path(__file__).parent)}".encode())
    for index in range(3):
        sample = world[index]
        digest.update(sample.video.numpy().tobytes() + sample.motion.numpy().tobytes() + sample.caption.encode())
        digest.update(json.dumps(sample.factors, sort_keys=True).encode())
    return f"{world.split}-{world.size}x{world.frames}-{n}-{digest.hexdigest()[:12]}"


def _code(folder: Path) -> str:
    """Of all Python sources in `folder`: what no few samples would show."""
    sources = [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in sorted(folder.rglob("*.py"))]
    return hashlib.sha256(repr(sources).encode()).hexdigest()


def _quantise(values: NDArray[np.float32], dtype: np.dtype) -> NDArray[Any]:
    return np.rint(values * 255).astype(np.uint8) if dtype == np.uint8 else values.astype(dtype)


def _fill(world: World, n: int, arrays: dict[str, NDArray[Any]]) -> dict[str, list[Any]]:
    """Draw n samples into arrays; returns captions and factors."""
    from rich.console import Console
    from rich.progress import track

    captions, factors = [], []
    title = f"drawing {n} clips ({world.split}, {world.size} px)"
    console = Console(stderr=True)  # stdout belongs to results
    for index in track(range(n), title, console=console, transient=True, disable=not console.is_terminal):
        sample = world[index]
        arrays["video"][index] = _quantise(sample.video.numpy(), arrays["video"].dtype)
        arrays["masks"][index] = _quantise(sample.masks[0].numpy(), np.dtype(np.uint8))
        arrays["tracks"][index], arrays["motion"][index] = sample.tracks.numpy(), sample.motion.numpy()
        captions.append(sample.caption)
        factors.append(sample.factors)
    return {"captions": captions, "factors": factors}


def _write(world: World, n: int, dtype: np.dtype, folder: Path) -> None:
    """Draw into a temporary folder beside the final one, then rename. Another process may win the race."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        arrays = {
            name: np.lib.format.open_memmap(part / f"{name}.npy", "w+", kind, shape)
            for name, (shape, kind) in _layout(world, n, dtype).items()
        }
        words = _fill(world, n, arrays)
        for array in arrays.values():
            array.flush()
        (part / "truth.json").write_text(json.dumps(words))
        try:
            os.rename(part, folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
