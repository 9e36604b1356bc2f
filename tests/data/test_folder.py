"""A folder of real clips: all that can be read, and by name all that cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from wanlab.data.folder import MediaError, VideoFolder, write_video
from wanlab.data.procedural import World


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two whole videos, a short one, a broken one, a folder of frames, a text file."""
    videos = World(size=32, frames=10).batch(range(2)).video
    for name, video in (("b.mp4", videos[0]), ("a.mp4", videos[1]), ("short.mp4", videos[0, :4])):
        write_video(tmp_path / name, video)
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:300])
    (tmp_path / "notes.txt").write_text("not a clip")
    (tmp_path / "frames").mkdir()
    for index in range(8):
        Image.new("RGB", (40, 32), (index * 30, 0, 0)).save(tmp_path / "frames" / f"{index}.png")
    return tmp_path


def test_clips_in_order_and_failures_by_name(clips: Path) -> None:
    folder = VideoFolder(clips, frames=8, size=16)
    assert folder.names == ["a.mp4", "b.mp4", "frames"]
    assert len(folder) == 3
    assert list(folder.corrupt) == ["broken.mp4"]
    assert folder.short == {"short.mp4": "too short: 4 frames from 0 s on, 8 wanted"}
    assert folder[2].shape == (8, 3, 16, 16)
    assert folder.batch([0, 2]).video.shape == (2, 8, 3, 16, 16)
    with pytest.raises(IndexError):
        folder[3]


def test_captions_by_name_or_stem(clips: Path) -> None:
    folder = VideoFolder(clips, size=16, captions={"a": "a red circle grows", "b.mp4": "a blue star"})
    assert folder.batch(range(3)).captions == ["a red circle grows", "a blue star", ""]


def test_different_shapes_ask_for_a_size(clips: Path) -> None:
    with pytest.raises(MediaError, match=r"ask for a size.*a\.mp4 \(8, 3, 32, 32\), frames \(8, 3, 32, 40\)"):
        VideoFolder(clips).batch([0, 2])


def test_a_rate_and_a_stride(clips: Path) -> None:
    folder = VideoFolder(clips, frames=4, size=16, stride=2)
    assert torch.equal(folder[0], VideoFolder(clips, frames=8, size=16)[0][::2])
    assert VideoFolder(clips, frames=4, size=16, fps=4).names == ["a.mp4", "b.mp4", "frames"]


def test_loose_images_are_one_clip_or_a_clip_each(clips: Path) -> None:
    assert VideoFolder(clips / "frames", frames=8).names == ["frames"]
    stills = VideoFolder(clips / "frames", frames=1)
    assert len(stills) == 8
    assert stills[3].shape == (1, 3, 32, 40)


def test_nothing_to_read_says_what_is_there(tmp_path: Path, clips: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(MediaError, match="no media files"):
        VideoFolder(empty)
    (empty / "bad.mp4").write_bytes(b"x")
    with pytest.raises(MediaError, match=r"bad\.mp4: truncated"):
        VideoFolder(empty)
    with pytest.raises(MediaError, match="a file; a folder"):
        VideoFolder(clips / "a.mp4")
    with pytest.raises(MediaError, match="did you mean empty"):
        VideoFolder(tmp_path / "emty")
