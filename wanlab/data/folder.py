"""Real clips from a folder, and the functions that read and write single files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from wanlab.data.clip import Clips
from wanlab.data.image import load_image, read_image
from wanlab.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, MediaError, Size, existing
from wanlab.data.video import Footage, frame_files, load_video, read_video, write_video

__all__ = [
    "Footage",
    "MediaError",
    "VideoFolder",
    "clip_files",
    "load_image",
    "load_video",
    "read_image",
    "read_video",
    "write_video",
]


class VideoFolder(Sequence[Tensor]):
    """The clips of a folder, sorted by name: video files, and subfolders of frames.

    Images that lie in the folder itself are one clip (the folder's name), or, with frames=1, a clip each. Every file
    is decoded once on construction as far as a clip needs it; one that fails is named, with the reason, in `corrupt`,
    and one that is too short for the clip in `short`: neither is dropped silently, and both read like {"broken.mp4":
    "truncated: 31 of 87 frames"}.

    path, frames, size, fps, stride   as in `read_video`; size is needed to put clips of different sizes into one batch
    captions                          name (with or without suffix) -> text; missing ones are ""
    folder[i]                         `f c h w` float32 in [0, 1]
    Raises MediaError where the folder is missing or no clip in it can be read.
    """

    def __init__(
        self,
        path: str | Path,
        frames: int = 8,
        size: Size = None,
        fps: float | None = None,
        stride: int = 1,
        captions: Mapping[str, str] | None = None,
    ) -> None:
        self.path = existing(path)
        self.frames, self.size, self.fps, self.stride = frames, size, fps, stride
        self.captions = dict(captions or {})
        self.corrupt: dict[str, str] = {}
        self.short: dict[str, str] = {}
        self.files: list[Path] = []
        for file in clip_files(self.path, stills=frames == 1):
            self._admit(file)
        if not self.files:
            failed = "; ".join(f"{name}: {reason}" for name, reason in {**self.corrupt, **self.short}.items())
            raise MediaError(f"{self.path}: no clip of {frames} frames can be read here ({failed or 'no media files'})")

    @property
    def names(self) -> list[str]:
        """The file names of the clips, in order."""
        return [_name(file) for file in self.files]

    def _admit(self, file: Path) -> None:
        try:
            self._read(file)
        except MediaError as error:
            reason = str(error).removeprefix(f"{file}: ")
            (self.short if reason.startswith("too short") else self.corrupt)[_name(file)] = reason
        else:
            self.files.append(file)

    def _read(self, file: Path) -> Tensor:
        if file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES - VIDEO_SUFFIXES:
            return read_image(file, self.size)[None]
        clock = None if file.is_dir() else self.fps
        return read_video(file, self.frames, self.size, clock, stride=self.stride)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        return self._read(self.files[index])

    def caption(self, index: int) -> str:
        """The caption of a clip, "" where there is none."""
        file = self.files[index]
        return self.captions.get(file.name, self.captions.get(file.stem, ""))

    def batch(self, indices: Iterable[int]) -> Clips:
        """Some clips, stacked. Raises MediaError where their sizes differ (then ask for a size)."""
        indices = list(indices)
        videos = [self[index] for index in indices]
        if len({video.shape for video in videos}) != 1:
            shapes = ", ".join(f"{self.names[i]} {tuple(v.shape)}" for i, v in zip(indices, videos, strict=True))
            raise MediaError(f"{self.path}: clips of different shapes cannot be stacked; ask for a size ({shapes})")
        return Clips(torch.stack(videos), [self.caption(index) for index in indices])


def clip_files(folder: str | Path, stills: bool = False) -> list[Path]:
    """What of a folder is a clip, sorted by name and unread: video files, subfolders of frames, and loose images.

    stills: each loose image is a clip of one frame, instead of all of them being one clip (the folder itself). Hidden files are
    passed over. Raises MediaError where the folder is missing or a file.
    """
    path = existing(folder)
    if not path.is_dir():
        raise MediaError(f"{path}: a file; a folder of clips is wanted (read_video reads one file)")
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    images = [entry for entry in frame_files(path) if entry.suffix.lower() not in VIDEO_SUFFIXES]
    videos = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in VIDEO_SUFFIXES]
    folders = [entry for entry in entries if entry.is_dir() and frame_files(entry)]
    loose = images if stills else [path] if images else []
    return sorted(videos + folders) + loose


def _name(file: Path) -> str:
    """The name of a file or folder, of `.` too."""
    return file.name or file.resolve().name
