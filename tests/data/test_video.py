"""Videos: what is written is read back; time, size and damage are handled as the caller asked."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wanlab.data.folder import MediaError, read_video, write_video
from wanlab.data.procedural import World
from wanlab.data.video import DECODED, load_video

CLIPS = Path(__file__).parents[2].parent / "shared" / "data" / "clips"
real_clips = pytest.mark.skipif(not CLIPS.is_dir(), reason=f"no real clips at {CLIPS}")


def counting(frames: int, side: int = 32) -> Tensor:
    """Flat grey frames whose brightness is their number: frame i is i / 64."""
    return (torch.arange(frames) / 64)[:, None, None, None].expand(-1, 3, side, side)


def numbers(video: Tensor) -> list[int]:
    """Which frames of `counting` these are."""
    return (video.mean((1, 2, 3)) * 64).round().int().tolist()


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 numbered frames at 10 a second."""
    return write_video(tmp_path_factory.mktemp("video") / "ten.mp4", counting(40), fps=10, lossless=True)


@pytest.mark.parametrize("side", [32, 33])
def test_lossless_is_exact_in_eight_bits(tmp_path: Path, side: int) -> None:
    video = World(size=side)[0].video
    read = read_video(write_video(tmp_path / "a.mp4", video, lossless=True))
    assert torch.equal((read * 255).round(), (video * 255).round())


def test_mp4_is_close_and_odd_sides_are_padded(tmp_path: Path) -> None:
    video = World(size=65)[0].video
    read = read_video(write_video(tmp_path / "a.mp4", video))
    assert read.shape == (8, 3, 66, 66)
    assert -10 * torch.log10(((read[..., :65, :65] - video) ** 2).mean()) > 28
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 8


def test_writing_leaves_one_file_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "deep" / "a.mp4", counting(3))
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["a.mp4"]
    before = (tmp_path / "deep" / "a.mp4").read_bytes()

    def full(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wanlab.data.video._encode", full)
    with pytest.raises(OSError, match="No space"):
        write_video(tmp_path / "deep" / "a.mp4", counting(3))
    assert [entry.name for entry in (tmp_path / "deep").iterdir()] == ["a.mp4"]
    assert (tmp_path / "deep" / "a.mp4").read_bytes() == before


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"f c h w.*\(3, 32, 32\)"):
        write_video(tmp_path / "a.mp4", torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match="not finite"):
        write_video(tmp_path / "a.mp4", torch.full((2, 3, 32, 32), float("nan")))


def test_frames_start_and_stride(ten: Path) -> None:
    assert numbers(read_video(ten)) == list(range(40))
    assert numbers(read_video(ten, frames=3)) == [0, 1, 2]
    assert numbers(read_video(ten, frames=3, start=1.5)) == [15, 16, 17]
    assert numbers(read_video(ten, frames=4, stride=5)) == [0, 5, 10, 15]


@pytest.mark.parametrize(
    ("fps", "expected"), [(5, [0, 2, 4, 6]), (10, [0, 1, 2, 3]), (20, [0, 0, 1, 1]), (4, [0, 2, 5, 7])]
)
def test_another_rate_shows_the_latest_frame(ten: Path, fps: float, expected: list[int]) -> None:
    assert numbers(read_video(ten, frames=4, fps=fps)) == expected


def test_rate_and_start_together(ten: Path) -> None:
    assert numbers(read_video(ten, frames=3, fps=5, start=1.0)) == [10, 12, 14]
    assert numbers(read_video(ten, frames=2, fps=10, start=1.05)) == [10, 11]
    assert len(read_video(ten, fps=5)) == 20


def test_size_is_applied(ten: Path) -> None:
    assert read_video(ten, frames=2, size=(8, 16)).shape == (2, 3, 8, 16)


def test_too_short_says_how_many(ten: Path) -> None:
    with pytest.raises(MediaError, match=r"ten\.mp4: too short: 5 frames from 3\.5 s on, 8 wanted"):
        read_video(ten, frames=8, start=3.5)
    with pytest.raises(MediaError, match="too short"):
        read_video(ten, start=100)


def test_damage_is_named(tmp_path: Path) -> None:
    video = torch.rand(40, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    whole = write_video(tmp_path / "whole.mp4", video)
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    with pytest.raises(MediaError, match=r"cut\.mp4: truncated"):
        read_video(tmp_path / "cut.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(MediaError, match=r"empty\.mp4: the file is empty"):
        read_video(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(MediaError, match=r"text\.mp4: truncated, corrupt or not a video"):
        read_video(tmp_path / "text.mp4")
    with pytest.raises(MediaError, match=r"did you mean whole\.mp4"):
        read_video(tmp_path / "wole.mp4")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match=r"sound\.mp4: no video"):
        read_video(tmp_path / "sound.mp4")


@pytest.mark.parametrize("request_", [{"frames": 0}, {"fps": 0}, {"start": -1}, {"stride": 0}], ids=str)
def test_impossible_requests_say_why(ten: Path, request_: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(request_))):
        read_video(ten, **request_)  # type: ignore[arg-type]


def test_a_folder_of_frames_in_natural_order(tmp_path: Path) -> None:
    for index, image in enumerate(counting(12, 8)):
        pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"frame{index}.png")
    assert numbers(read_video(tmp_path)) == list(range(12))
    assert numbers(read_video(tmp_path, frames=3, stride=4)) == [0, 4, 8]
    with pytest.raises(MediaError, match="no clock"):
        read_video(tmp_path, fps=4)
    Image.new("RGB", (4, 4)).save(tmp_path / "frame12.png")
    with pytest.raises(MediaError, match="different sizes"):
        read_video(tmp_path)
    assert read_video(tmp_path, size=4).shape == (13, 3, 4, 4)


def test_a_moving_gif_is_a_video(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "three.gif", save_all=True, append_images=frames[1:], duration=100)
    video = read_video(tmp_path / "three.gif", frames=3)
    assert video.mean((2, 3)).argmax(1).tolist() == [0, 1, 2]


@real_clips
@pytest.mark.parametrize(
    ("name", "frames", "shape"),
    [
        ("apple", 50, (720, 1296)),
        ("cat", 87, (480, 368)),
        ("paragliding", 70, (480, 854)),
        ("tiny-5-frames", 5, (64, 64)),
    ],
)
def test_real_clips(name: str, frames: int, shape: tuple[int, int]) -> None:
    path = CLIPS / f"{name}.mp4"
    assert read_video(path, frames=1).shape == (1, 3, *shape)
    video = read_video(path, size=32)
    assert video.shape == (frames, 3, 32, 32)
    assert 0 <= video.min() < video.max() <= 1
    assert video.std() > 0.05


@real_clips
def test_seconds_of_a_real_clip() -> None:
    """Starting at one second of a 30 fps clip is the same as dropping its first 30 frames."""
    path = CLIPS / "paragliding.mp4"
    assert torch.equal(read_video(path, 3, 32, start=1.0), read_video(path, 33, 32)[30:])


@pytest.mark.parametrize(("form", "codec", "notes"), [
    ("yuv420p10le", "libx264", (f"yuv420p10le h264, {DECODED}", "10 bits per channel, read as 8")), ("gray", "ffv1", ("grey",)),
    ("yuv420p", "libx264", (f"yuv420p h264, {DECODED}",)), ("argb", "qtrle", ("the alpha channel is left out",)),
])  # fmt: skip
def test_what_a_pixel_format_loses_is_noted(tmp_path: Path, form: str, codec: str, notes: tuple[str, ...]) -> None:
    path = tmp_path / {"qtrle": "a.mov", "ffv1": "a.mkv", "libx264": "a.mp4"}[codec]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt = 32, 32, form
        for shade in (40, 120, 200):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=form)))
        container.mux(stream.encode())
    found = load_video(path)
    assert found.notes == notes and found.fps == 12
    assert found.video.shape == (3, 3, 32, 32)
    assert found.video.mean((1, 2, 3)).mul(255).tolist() == pytest.approx([40, 120, 200], abs=4)


@pytest.mark.parametrize("fps", [float("inf"), float("nan"), 1e300, 1e-300, 0, -8])
def test_a_rate_that_no_file_has_is_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(ValueError, match=r"a video has from 0.1 to 1,000 frames per second"):
        write_video(tmp_path / "x.mp4", counting(2), fps=fps)
    assert not list(tmp_path.iterdir())
