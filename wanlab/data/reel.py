"""Windows of real videos to train on: which video, which frames and which crop follow from the seed and the row alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from wanlab.core.nearest import suggestion
from wanlab.data.clip import Clips
from wanlab.data.folder import clip_files
from wanlab.data.image import read_image
from wanlab.data.media import MediaError, existing, fit
from wanlab.data.table import read_captions, read_text
from wanlab.data.video import frame_files, frame_times, read_video

CROPS, MISSING = ("centre", "random"), ("refuse", "empty")


@dataclass(frozen=True)
class Videos:
    """What a recipe's `videos:` says.

    path        a folder of video files and of folders of frames, as for `VideoFolder`
    captions    a CSV with the columns file and prompt (file with or without suffix), or None: NAME.txt beside NAME.mp4
    missing     a video without a caption: refuse, or empty (trained as one whose text was dropped)
    fps, stride     resample in time to fps frames a second (None: the file's own), and take every stride-th of these. Folders of
                    frames have no times: fps is left aside there, and that is told
    crop        centre or random: the largest part of the picture that has the shape wanted is cut out and resized, antialiased
    held        share of the videos that is kept for validation, at least one of two or more, and never all of them
    workers     threads that decode; the order of what comes out does not depend on them
    Raises ValueError for anything else, with the nearest name.
    """

    path: str
    captions: str | None = None
    missing: str = "refuse"
    fps: float | None = None
    stride: int = 1
    crop: str = "centre"
    held: float = 0.1
    workers: int = 1

    def __post_init__(self) -> None:
        for name, known in (("crop", CROPS), ("missing", MISSING)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"videos: {name} is {' or '.join(known)}, not {value!r}{suggestion(str(value), known)}")
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (self.workers, self.stride))
        if not whole or not all(isinstance(value, (int, float)) for value in (self.held, self.fps or 0)):
            raise ValueError(f"videos: workers and stride are whole numbers, fps and held numbers: {self}")
        if not isinstance(self.path, (str, Path)) or not isinstance(self.captions, (str, Path, type(None))):
            raise ValueError(f"videos: path and captions are paths: {self}")
        if self.workers < 1 or self.stride < 1 or not 0 <= self.held < 1 or (self.fps is not None and not self.fps > 0):
            raise ValueError(f"videos: workers and stride count from 1, fps is above 0, held a share below 1: {self}")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Videos:
        """From plain data. Raises ValueError for settings that there are not, and where the path is missing."""
        known = [one.name for one in fields(cls)]
        for key in given:
            if key not in known:
                raise ValueError(f"videos: unknown setting {key!r}{suggestion(str(key), known)}")
        if "path" not in given:
            raise ValueError("videos: path is missing: the folder of videos")
        return cls(**given)


class Window(NamedTuple):
    """Where a row comes from: a file, the first of its frames, and where the crop lies (0 .. 1 from the top, from the left)."""

    file: Path
    first: int
    at: tuple[float, float]


class Reel:
    """`n` windows of `frames` frames at `size` x `size`, from the videos of one split ("train" or "val") of a folder.

    Every file is decoded once on construction. One that fails is named with the reason in `corrupt`, one that is too short for a
    window in `short`, and both are left out. The videos are shuffled by the seed; row i is of the (i mod videos)-th of them.
    Raises MediaError where no video is left and where captions are missing that must be there.
    """

    def __init__(self, videos: Videos, n: int, size: int, frames: int, seed: int = 0, split: str = "train") -> None:
        self.videos, self.n, self.size, self.frames, self.seed = videos, n, size, frames, seed
        self.corrupt: dict[str, str] = {}
        self.short: dict[str, str] = {}
        self.times: dict[Path, list[float]] = {}
        folder = existing(videos.path)
        clips = clip_files(folder)
        for file, times in self._map(_times, clips):
            self._admit(file, times)
        if not self.times:
            said = "; ".join(f"{name}: {reason}" for name, reason in {**self.corrupt, **self.short}.items()) or "no media files"
            raise MediaError(f"{folder}: no video has a window of {frames} frames ({said})")
        self.captions = _captions(videos, list(self.times), clips)
        self.files = self._chosen(split)

    def __len__(self) -> int:
        return self.n

    @property
    def told(self) -> str:
        """What was found, in words: how many videos, and which were left out and why."""
        out = {**self.corrupt, **self.short}
        named = "; ".join(f"{name}: {reason}" for name, reason in out.items())
        without = sum(not text for text in self.captions.values())
        more = f", {without} without a caption" if without else ""
        said = [f"{self.videos.path}: {len(self.times)} videos{more}, {len(out)} left out" + (f" ({named})" if out else "")]
        if self.videos.fps is not None and (timeless := sum(file.is_dir() for file in self.times)):
            said.append(f"fps {self.videos.fps:g} is left aside for folders of frames, which have no times: {timeless} of them")
        if not self.held:
            said.append("none is kept for validation: its figures are of the videos that are trained on")
        return "; ".join(said)

    @property
    def held(self) -> int:
        """How many videos are kept for validation; where none is, both splits have all of them."""
        return min(len(self.times) - 1, max(1, round(self.videos.held * len(self.times)))) if self.videos.held else 0

    def called(self, row: int) -> str:
        """A row as people are told of it."""
        window = self.window(row)
        return f"{window.file.name} from frame {window.first} on"

    def window(self, row: int) -> Window:
        """Where a row comes from; it depends on the seed and the row alone. Raises IndexError beyond the end."""
        if not 0 <= row < self.n:
            raise IndexError(f"row {row} of {self.n}")
        file = self.files[row % len(self.files)]
        generator = torch.Generator().manual_seed(self.seed * 2**32 + row)
        first = int(torch.randint(self._starts(file, self.times[file]), (), generator=generator))
        top, left = torch.rand(2, generator=generator).tolist()
        return Window(file, first, (top, left) if self.videos.crop == "random" else (0.5, 0.5))

    def batch(self, indices: Iterable[int]) -> Clips:
        """Some rows, stacked, with their captions; no truth. Raises MediaError for a file that has changed since."""
        windows = [self.window(row) for row in indices]
        videos = [video for _, video in self._map(self._read, windows)]
        return Clips(torch.stack(videos), [self.captions[window.file] for window in windows])

    def _read(self, window: Window) -> Tensor:
        videos, file = self.videos, window.file
        if file.is_dir():                                   # frames without times
            files = frame_files(file)[window.first :: videos.stride][: self.frames]
            return torch.stack([fit(read_image(one)[None], self.size, window.at)[0] for one in files])
        start = max(0.0, self.times[file][window.first])
        return read_video(file, self.frames, self.size, videos.fps, start, videos.stride, window.at)

    def _starts(self, file: Path, times: Sequence[float]) -> int:
        """How many frames of a file can be the first of a window."""
        reach = (self.frames - 1) * self.videos.stride
        if self.videos.fps is None or file.is_dir():
            return max(0, len(times) - reach)
        last = times[-1] - reach / self.videos.fps
        return sum(time <= last + 1e-4 for time in times)

    def _admit(self, file: Path, times: list[float] | MediaError) -> None:
        name = file.name or file.resolve().name
        if isinstance(times, MediaError):
            self.corrupt[name] = str(times).removeprefix(f"{file}: ")
        elif self._starts(file, times) < 1:
            self.short[name] = f"too short: {len(times)} frames"
        else:
            self.times[file] = times

    def _chosen(self, split: str) -> list[Path]:
        files = list(self.times)
        order = torch.randperm(len(files), generator=torch.Generator().manual_seed(self.seed)).tolist()
        kept = order[: self.held] if split == "val" and self.held else order[self.held :]
        return [files[i] for i in kept]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.videos.workers)

    def _map(self, work: Any, items: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """(item, what `work` makes of it), in order, however many threads work."""
        items = list(items)
        return zip(items, map(work, items) if self.videos.workers == 1 else self._pool.map(work, items), strict=True)


def _times(file: Path) -> list[float] | MediaError:
    """Seconds of every frame, each of which is decoded; of a folder's, their numbers. A file that fails gives its error."""
    try:
        if file.is_dir():
            for one in (frames := frame_files(file)):
                read_image(one)
            return [float(i) for i in range(len(frames))]
        return frame_times(file)
    except MediaError as error:
        return error


def _captions(videos: Videos, files: Sequence[Path], clips: Sequence[Path]) -> dict[Path, str]:
    """The caption of each file. Raises MediaError where some are missing and must not be, and for a CSV as `read_captions`, which
    may speak of all `clips` of the folder."""
    if videos.captions is None:
        found = {file: read_text(text).strip() for file in files if (text := file.with_suffix(".txt")).is_file()}
    else:
        said = read_captions(existing(videos.captions), [clip.name for clip in clips])
        found = {file: said[file.name] for file in files if file.name in said}
    missing = [file.name for file in files if not found.get(file)]
    if missing and videos.missing == "refuse":
        named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        where = videos.captions or "a .txt beside each video"
        raise MediaError(f"{videos.path}: {len(missing)} of {len(files)} videos have no caption in {where}: {named}; "
                         "write them, or say missing: empty")  # fmt: skip
    return {file: found.get(file, "") for file in files}
