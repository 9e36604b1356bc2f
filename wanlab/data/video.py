"""Video files through PyAV: reading some frames, writing all of them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from wanlab.data.image import load_image
from wanlab.data.media import IMAGE_SUFFIXES, LARGEST, MediaError, Size, demand_rate, existing, fit

DECODED = "read as decoded (numbers differ from those of the tensors that were written)"
_CRF = 16  # visually without loss; metrics are computed from tensors, not from files


class Footage(NamedTuple):
    """video `f c h w` float32 in [0, 1]; fps: of the file, None where it has no clock; notes: what had to be decided on the way."""

    video: Tensor
    fps: float | None
    notes: tuple[str, ...]


def read_video(
    path: str | Path,
    frames: int | None = None,
    size: Size = None,
    fps: float | None = None,
    start: float = 0.0,
    stride: int = 1,
    crop: tuple[float, float] = (0.5, 0.5),
) -> Tensor:
    """Frames of a video file, or of a folder of images in natural order, as `f c h w` float32 in [0, 1].

    frames   how many (None: all from start on)
    size     centre crop and antialiased resize: int (a square), (h, w), or None (as it is; a folder's frames must then
             agree)
    fps      resample in time, showing at each moment the latest frame (None: the file's own frames; a folder has no
             rate)
    start    seconds from the beginning (a folder: must be 0)
    stride   take every stride-th of these frames
    crop     where the crop lies, as in `media.fit`; in the middle unless told
    Raises MediaError, naming the file: missing (with the nearest name), not a video, truncated, corrupt, too short;
    ValueError for frames or stride below 1, fps not above 0, start below 0.
    """
    return load_video(path, frames, size, fps, start, stride, crop).video


def load_video(
    path: str | Path,
    frames: int | None = None,
    size: Size = None,
    fps: float | None = None,
    start: float = 0.0,
    stride: int = 1,
    crop: tuple[float, float] = (0.5, 0.5),
) -> Footage:
    """Like `read_video`, with the file's rate and notes on what had to be decided (depth, transparency, colours, a lossy form)."""
    _check_request(frames, fps, start, stride)
    path = existing(path)
    notes: dict[str, str] = {}
    rate: list[float] = []
    taken: list[Tensor] = []
    for index, image in enumerate(_images(path, fps, start, notes, rate)):
        if index % stride == 0:
            taken.append(fit(image[None], size, crop)[0])
        if len(taken) == frames:
            break
    if not taken or (frames is not None and len(taken) < frames):
        raise MediaError(f"{path}: too short: {len(taken)} frames from {start:g} s on, {frames or 1} wanted")
    if len({image.shape for image in taken}) > 1:
        raise MediaError(f"{path}: frames of different sizes; ask for one size")
    told = tuple(f"{where}: {note}" if where else note for note, where in notes.items())
    return Footage(torch.stack(taken), fps or (rate[0] if rate else None), told)


def frame_times(path: str | Path) -> list[float]:
    """Seconds of every frame of a video file, which is decoded to its end. Raises MediaError like `read_video`."""
    path = existing(path)
    with _opened(path) as container:
        return [time for time, _ in _from_start(container, 0.0)]


def _check_request(frames: int | None, fps: float | None, start: float, stride: int) -> None:
    if frames is not None and frames < 1:
        raise ValueError(f"frames={frames}: at least 1")
    if fps is not None and not fps > 0:
        raise ValueError(f"fps={fps}: above 0")
    if not start >= 0:
        raise ValueError(f"start={start}: seconds from the beginning, at least 0")
    if stride < 1:
        raise ValueError(f"stride={stride}: at least 1")


def _images(path: Path, fps: float | None, start: float, notes: dict[str, str], rate: list[float]) -> Iterator[Tensor]:
    """The frames; notes take what was decided and at which file first, rate the file's frames per second."""
    if not path.is_dir():
        return _decoded(path, fps, start, notes, rate)
    if fps is not None or start:
        raise MediaError(f"{path}: a folder of frames has no clock; fps and start do not apply")
    return _from_folder(path, notes)


def frame_files(folder: Path) -> list[Path]:
    """The images of a folder in natural order: frame2 before frame10."""

    def natural(path: Path) -> list[tuple[int, int, str]]:
        digits = "".join(char if char.isdecimal() else " " for char in path.name).split()
        letters = "".join(" " if char.isdecimal() else char for char in path.name).split()
        return [(0, 0, letters[0] if letters else ""), *((1, int(number), "") for number in digits), (2, 0, path.name)]

    return sorted((entry for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES), key=natural)


def _from_folder(folder: Path, notes: dict[str, str]) -> Iterator[Tensor]:
    files = frame_files(folder)
    if not files:
        raise MediaError(f"{folder}: no images in this folder")
    for file in files:
        picture = load_image(file)
        jpeg = [f"JPEG, {DECODED}"] if file.suffix.lower() in (".jpg", ".jpeg") else []
        for note in [*picture.notes, *jpeg]:
            notes.setdefault(note, file.name)
        yield picture.image


def _decoded(path: Path, fps: float | None, start: float, notes: dict[str, str], rate: list[float]) -> Iterator[Tensor]:
    """The frames from start on, `c h w`, at the file's own pace or resampled; damaged files raise MediaError."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        rate.extend([float(stream.average_rate)] if stream.average_rate else [])
        for note in _notes_on(stream.format, stream.codec_context.name):
            notes.setdefault(note, "")
        frames = _from_start(container, start)
        yield from map(_rgb, frames if fps is None else _resampled(frames, fps, start))


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    """A file with video in it; what goes wrong within the block, too, is told as a MediaError of it."""
    if path.stat().st_size == 0:
        raise MediaError(f"{path}: the file is empty")
    try:
        with av.open(_address(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise MediaError(f"{path}: no video in this file")
            wide, high = (getattr(container.streams.video[0], side, None) or 0 for side in ("width", "height"))
            if wide * high > LARGEST:
                raise MediaError(f"{path}: {wide} x {high} are {wide * high:,} pixels; at most {LARGEST:,} are read")
            yield container
    except (MediaError, MemoryError):
        raise
    except av.error.FFmpegError as error:
        raise MediaError(f"{path}: truncated, corrupt or not a video ({error.strerror})") from error
    except Exception as error:  # of damaged bytes each reader raises something else
        raise MediaError(f"{path}: truncated, corrupt or not a video ({error})") from error


def _address(path: Path) -> str:
    """How ffmpeg is told of a file: as one, whatever its name looks like (`take:2.mp4` would be of the protocol `take`)."""
    return f"file:{path}"


def _notes_on(form: av.VideoFormat | None, codec: str) -> list[str]:
    """What reading a pixel format as 8-bit RGB leaves out, and what writing it has left out already."""
    if form is None:
        return []
    notes = []
    if codec == "gif" or not (form.is_rgb or form.name.startswith("gray")):
        notes.append(f"{form.name} {codec}, {DECODED}")
    if (depth := max(part.bits for part in form.components)) > 8:
        notes.append(f"{depth} bits per channel, read as 8")
    if any(part.is_alpha for part in form.components):
        notes.append("the alpha channel is left out")
    if form.name.startswith("gray"):
        notes.append("grey")
    return notes


def _from_start(container: av.container.InputContainer, start: float) -> Iterator[tuple[float, av.VideoFrame]]:
    """(seconds from the beginning, frame), from the frame that is on screen at start.

    Raises MediaError where the file promises more frames than it holds.
    """
    stream = container.streams.video[0]
    stream.thread_type = "SLICE"  # frame threads would decode on after the last frame that anybody wants
    zero = float((stream.start_time or 0) * stream.time_base)
    tick = 1 / float(stream.guessed_rate or 25)
    if start:
        container.seek(int((zero + start) / stream.time_base), stream=stream)
    count = 0
    for frame in container.decode(stream):
        time = frame.time - zero if frame.time is not None else count * tick
        count += 1
        if time > start - tick + 1e-4:
            yield time, frame
    if not start and count < 0.9 * stream.frames:
        raise MediaError(f"{container.name.removeprefix('file:')}: truncated: {count} of {stream.frames} frames")


def _resampled(
    frames: Iterator[tuple[float, av.VideoFrame]], fps: float, start: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """At every tick of the new clock, the latest frame that has appeared by then."""
    tick, shown = 0, None
    for time, frame in frames:
        while shown is not None and start + tick / fps < time - 1e-4:
            yield shown
            tick += 1
        shown = time, frame
    if shown is not None and start + tick / fps <= shown[0] + 1e-4:
        yield shown


def _rgb(item: tuple[float, av.VideoFrame]) -> Tensor:
    frame = item[1]
    image = torch.from_numpy(frame.to_ndarray(format="rgb24")).float() / 255
    if frame.rotation:  # degrees counter-clockwise that bring it upright
        image = torch.rot90(image, round(frame.rotation / 90), (0, 1))
    return rearrange(image, "h w c -> c h w")


def write_video(path: str | Path, video: Tensor, fps: float = 8, lossless: bool = False) -> Path:
    """Write `f c h w` in [0, 1] (values outside are clipped) as an H.264 mp4; returns the path.

    The file appears complete or not at all. yuv420p plays everywhere and needs even sides: an odd one is padded by
    repeating its last row or column. lossless: RGB at crf 0, any size, exact in 8 bits, for players that know it.
    Raises ValueError for another shape, no frames, values that are not finite, or fps outside of `RATES`; OSError, with the
    path, where the file cannot be written.
    """
    demand_rate(fps)
    if video.ndim != 4 or video.shape[1] != 3 or not video.shape[0]:
        raise ValueError(f"write_video: a video is f c h w with c = 3 and f >= 1, not {tuple(video.shape)}")
    if not torch.isfinite(video).all():
        raise ValueError(f"write_video: {path}: the video holds values that are not finite")
    pixels = (video.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    images = rearrange(pixels, "f c h w -> f h w c").numpy()
    path = Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _encode(part, images, fps, lossless)
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _encode(path: Path, images: np.ndarray, fps: float, lossless: bool) -> None:
    codec, pixel_format, quality = ("libx264rgb", "rgb24", 0) if lossless else ("libx264", "yuv420p", _CRF)
    if not lossless:
        odd = images.shape[1] % 2, images.shape[2] % 2
        images = np.pad(images, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
    with av.open(_address(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = pixel_format
        # One thread and no macroblock tree: equal frames give equal bytes. x264's vector code for that tree reads beyond the
        # rows of frames narrower than three blocks (48 pixels), and what lies there decides bits: 1 file in 75 at 16 pixels.
        stream.options = {"crf": str(quality), "preset": "medium", "mbtree": "0"}
        stream.codec_context.thread_count = 1
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())
