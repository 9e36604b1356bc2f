"""Pictures and videos that are damaged, disguised or far too large: told by name, and never read into memory first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.hostile.cases import answer, every, full, within
from tests.hostile.media import KINDS, bomb, picture, pictures, video, videos
from wanlab.data.folder import MediaError, load_image, load_video, read_video, write_video
from wanlab.data.video import frame_files
from wanlab.pipelines.inputs import as_images


@full
def test_pictures(whole: bool, tmp_path: Path) -> None:
    Image.init()

    def case(given: tuple[str, bytes]) -> None:
        path = tmp_path / f"one.{given[0]}"
        path.write_bytes(given[1])
        found = answer(lambda: load_image(path, size=(24, 40)), MediaError)
        if not isinstance(found, str):
            assert found.image.shape == (3, 24, 40) and found.image.min() >= 0 and found.image.max() <= 1

    every("pictures", whole, pictures(), case)


@full
def test_videos(whole: bool, tmp_path: Path) -> None:
    def case(given: tuple[str, bytes]) -> None:
        path = tmp_path / f"one.{given[0]}"
        path.write_bytes(given[1])
        found = answer(lambda: load_video(path, size=24), MediaError)
        if not isinstance(found, str):
            assert found.video.shape[1:] == (3, 24, 24) and found.video.min() >= 0 and found.video.max() <= 1

    every("videos", whole, videos(), case)


@pytest.mark.parametrize(("size", "expected"), [
    ((12_000, 12_000), "12000 x 12000 are 144,000,000 pixels"),
    ((30_000, 30_000), "900000000 pixels"), ((2**31 - 1, 2**31 - 1), "pixels"),
])  # fmt: skip
def test_a_bomb_is_refused_with_its_number_before_it_is_read(size: tuple[int, int], expected: str, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(*size))
    with within(5), pytest.raises(MediaError, match=expected):
        load_image(tmp_path / "bomb.png")


def test_no_program_is_started_for_a_picture(tmp_path: Path) -> None:
    (tmp_path / "script.png").write_bytes(picture("eps", "RGB", (16, 16), ""))
    with pytest.raises(MediaError, match=r"script\.png: not an image in a format that is known here"):
        load_image(tmp_path / "script.png")


def test_what_a_reader_has_to_say_of_a_picture_is_a_note(tmp_path: Path) -> None:
    content = picture("jpg", "RGB", (16, 16), "exif")
    at = content.index(b"Exif") + 14
    (tmp_path / "cut.jpg").write_bytes(content[:at] + b"\xff\xff" + content[at + 2 :])
    assert any("EXIF" in note for note in load_image(tmp_path / "cut.jpg").notes)


@pytest.mark.parametrize("name", ["take:2.mp4", "data:1.mp4", "a%03d.mp4", "-i.mp4", "x?y=1.mp4", "concat:a|b.mp4"])
def test_a_file_is_a_file_whatever_it_is_called(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(name, torch.zeros(2, 3, 16, 16), lossless=True)
    assert [path.name for path in tmp_path.iterdir()] == [name] and read_video(name).shape == (2, 3, 16, 16)


def test_a_list_of_other_files_is_no_video(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.mp4", torch.zeros(2, 3, 16, 16))
    for text in ("ffconcat version 1.0\nfile '%s'\n", "#EXTM3U\n#EXTINF:1,\n%s\n#EXT-X-ENDLIST\n"):
        (tmp_path / "list.mp4").write_text(text % (tmp_path / "secret.mp4"))
        with pytest.raises(MediaError, match=r"list\.mp4"):
            read_video(tmp_path / "list.mp4")


def test_frames_of_files_numbered_in_other_letters_are_sorted(tmp_path: Path) -> None:
    for name in ("frame².png", "frame10.png", "frame2.png"):
        (tmp_path / name).touch()
    assert [path.name for path in frame_files(tmp_path)] == ["frame2.png", "frame10.png", "frame².png"]


def test_a_video_without_pictures_and_one_of_a_changing_rate(tmp_path: Path) -> None:
    (tmp_path / "sound.mp4").write_bytes(video(*KINDS[0][:3], 0, "yuv420p", True))
    with pytest.raises(MediaError, match="no video in this file"):
        load_video(tmp_path / "sound.mp4")
    (tmp_path / "uneven.mkv").write_bytes(video("libx264", "mkv", (16, 16), 6, "yuv420p", False, "uneven"))
    assert load_video(tmp_path / "uneven.mkv").video.shape == (6, 3, 16, 16)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 1), (1, 20_000), (832, 256)])
def test_pictures_of_any_shape_become_first_frames(size: tuple[int, int]) -> None:
    assert as_images(torch.rand(3, *size), (48, 83)).shape == (1, 3, 48, 83)
