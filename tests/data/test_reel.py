"""Windows of real videos: what a row is, what is left out and why, captions, and that threads change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from wanlab.data import reel as module
from wanlab.data.image import read_image
from wanlab.data.media import MediaError
from wanlab.data.reel import Reel, Videos
from wanlab.data.video import read_video, write_video

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "clips"


def film(path: Path, frames: int, high: int = 24, wide: int = 24) -> Path:
    """Frame t is grey at t / 40, and brighter by .3 in its right half."""
    video = torch.arange(frames)[:, None, None, None] / 40 + torch.zeros(frames, 3, high, wide)
    video[..., wide // 2 :] += 0.3
    return write_video(path, video, fps=10, lossless=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four good videos, one of a single frame, one cut off, one that is no video."""
    home = tmp_path / "videos"
    for i, frames in enumerate((12, 9, 20, 16)):
        film(home / f"v{i}.mp4", frames)
        (home / f"v{i}.txt").write_text(f"thing {i} moves\n")
    film(home / "still.mp4", 1)
    cut = film(home / "cut.mp4", 30).read_bytes()
    (home / "cut.mp4").write_bytes(cut[: len(cut) * 2 // 3])
    (home / "noise.mp4").write_bytes(b"no video at all" * 50)
    return home


def times(video: Tensor) -> list[list[int]]:
    """The frame numbers that the left halves show."""
    return [[round(40 * frame[:, :, 0].mean().item()) for frame in clip] for clip in video]


def test_what_cannot_be_used_is_left_out_with_its_reason_and_counted(folder: Path) -> None:
    reel = Reel(Videos(str(folder)), 8, 16, frames=4)
    assert len(reel.times) == 4 and set(reel.corrupt) == {"cut.mp4", "noise.mp4"}
    assert reel.short == {"still.mp4": "too short: 1 frames"}
    assert "4 videos, 3 left out (" in reel.told and "still.mp4: too short: 1 frames" in reel.told


@pytest.mark.parametrize("stride", [1, 3])
def test_a_row_is_a_window_of_consecutive_frames_of_the_video_it_names(folder: Path, stride: int) -> None:
    reel = Reel(Videos(str(folder), stride=stride), 12, 16, frames=3)
    clips = reel.batch(range(12))
    assert clips.video.shape == (12, 3, 3, 16, 16) and clips.motion is None
    for row, shown in enumerate(times(clips.video)):
        window = reel.window(row)
        assert shown == [window.first + stride * i for i in range(3)]
        assert clips.captions[row] == f"thing {window.file.stem[1:]} moves"
    assert len({reel.window(row).first for row in range(12)}) > 3


def test_frames_can_be_taken_at_another_rate(folder: Path) -> None:
    """The files have ten frames a second."""
    reel = Reel(Videos(str(folder), fps=5.0), 6, 16, frames=3)
    for row, shown in enumerate(times(reel.batch(range(6)).video)):
        assert shown == [reel.window(row).first + 2 * i for i in range(3)]


def test_rows_depend_on_the_seed_alone_and_threads_change_nothing(folder: Path) -> None:
    one, four, other = (Reel(Videos(str(folder), workers=w), 10, 16, 4, seed=s) for w, s in ((1, 0), (4, 0), (1, 1)))
    assert torch.equal(one.batch(range(10)).video, four.batch(range(10)).video)
    assert torch.equal(one.batch([7]).video, one.batch(range(10)).video[7:8])
    assert [one.window(r) for r in range(10)] != [other.window(r) for r in range(10)]


def test_videos_are_kept_apart_for_validation(folder: Path) -> None:
    train, held = (Reel(Videos(str(folder)), 4, 16, 4, split=split) for split in ("train", "val"))
    assert len(train.files) == 3 and len(held.files) == 1 and not set(train.files) & set(held.files)
    alone = [Reel(Videos(str(folder), held=0.0), 4, 16, 4, split=split).files for split in ("train", "val")]
    assert len(alone[0]) == len(alone[1]) == 4


def test_a_crop_lies_in_the_middle_or_where_the_row_says(tmp_path: Path) -> None:
    film(tmp_path / "wide.mp4", 4, high=16, wide=64)
    (tmp_path / "wide.txt").write_text("a")
    middle = Reel(Videos(str(tmp_path)), 8, 16, 4).batch(range(8)).video
    assert all(clip[0, 0, 0, -1] - clip[0, 0, 0, 0] > 0.2 for clip in middle)
    strewn = Reel(Videos(str(tmp_path), crop="random"), 8, 16, 4).batch(range(8)).video
    assert {bool(clip[0, 0, 0, -1] - clip[0, 0, 0, 0] > 0.2) for clip in strewn} == {True, False}


def test_missing_captions_are_named_or_left_empty(folder: Path, tmp_path: Path) -> None:
    (folder / "v1.txt").unlink()
    with pytest.raises(MediaError, match=r"1 of 4 videos have no caption in a .txt beside each video: v1.mp4; .*missing: empty"):
        Reel(Videos(str(folder)), 4, 16, 4)
    reel = Reel(Videos(str(folder), missing="empty"), 4, 16, 4)
    assert sorted(reel.captions.values())[0] == "" and "4 videos, 1 without a caption" in reel.told
    table = tmp_path / "captions.csv"
    table.write_text("file,prompt\nv0.mp4,zero\nv1,one\nv2.mp4,two\nv3.mp4,\n")
    with pytest.raises(MediaError, match=r"no caption in .*captions.csv: v3.mp4"):
        Reel(Videos(str(folder), captions=str(table)), 4, 16, 4)
    found = Reel(Videos(str(folder), captions=str(table), missing="empty"), 4, 16, 4).captions
    assert {file.stem: text for file, text in found.items()} == {"v0": "zero", "v1": "one", "v2": "two", "v3": ""}
    table.write_text("name,text\nv0.mp4,zero\n")
    with pytest.raises(MediaError, match="columns file, prompt; this one has 'name, text'"):
        Reel(Videos(str(folder), captions=str(table)), 4, 16, 4)
    (folder / "v1.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(MediaError, match=r"v1.txt:1: not a text file \(UTF-8\)"):
        Reel(Videos(str(folder)), 4, 16, 4)


def test_one_video_is_always_left_to_train_on(tmp_path: Path) -> None:
    for name in ("a", "b"):
        film(tmp_path / f"{name}.mp4", 6)
    splits = [Reel(Videos(str(tmp_path), missing="empty", held=0.9), 4, 16, 4, split=split) for split in ("train", "val")]
    assert [len(reel.files) for reel in splits] == [1, 1] and splits[0].files != splits[1].files
    assert len(splits[0].batch([0, 1])) == 2


def frames_in(folder: Path, count: int) -> list[torch.Tensor]:
    """A folder of frames of noise; the frames."""
    folder.mkdir()
    pictures = torch.randint(0, 256, (count, 24, 20, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture.numpy()).save(folder / f"f{i}.png")
    return [picture.permute(2, 0, 1).float() / 255 for picture in pictures]


def test_of_a_folder_of_frames_only_the_windows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = frames_in(tmp_path / "clip", 12)
    reel = Reel(Videos(str(tmp_path), missing="empty", stride=2, crop="random"), 3, 16, 4)
    whole = [read_video(tmp_path / "clip", None, 16, crop=reel.window(row).at)[reel.window(row).first :: 2][:4] for row in range(3)]
    opened: list[Path] = []
    monkeypatch.setattr(module, "read_image", lambda path: opened.append(path) or read_image(path))
    assert torch.equal(reel.batch(range(3)).video, torch.stack(whole)) and len(opened) == 3 * 4 and len(pictures) == 12


def test_folders_of_frames_have_no_times_so_their_windows_are_by_number_whatever_fps_is_asked_for(tmp_path: Path) -> None:
    for name in ("a", "b"):
        frames_in(tmp_path / name, 10)
    plain, timed = (Reel(Videos(str(tmp_path), missing="empty", fps=fps), 16, 16, 8) for fps in (None, 8.0))
    video = timed.batch(range(16)).video
    assert video.shape == (16, 8, 3, 16, 16) and torch.equal(video, plain.batch(range(16)).video)
    assert {timed.window(row).first for row in range(16)} == {0, 1, 2}
    assert "fps 8 is left aside for folders of frames, which have no times: 2 of them" in timed.told and "fps" not in plain.told


@pytest.mark.parametrize(("count", "held"), [(1, 0.1), (2, 0.0)])
def test_where_no_video_is_kept_for_validation_that_is_told(count: int, held: float, tmp_path: Path) -> None:
    for i in range(count):
        film(tmp_path / f"v{i}.mp4", 6)
    train, val = (Reel(Videos(str(tmp_path), missing="empty", held=held), 4, 16, 4, split=split) for split in ("train", "val"))
    assert train.files == val.files and train.held == 0
    assert "none is kept for validation: its figures are of the videos that are trained on" in train.told
    film(tmp_path / "another.mp4", 6)
    more = Reel(Videos(str(tmp_path), missing="empty"), 4, 16, 4)
    assert more.held == 1 and "validation" not in more.told


def test_a_frame_that_cannot_be_read_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    frames_in(tmp_path / "good", 6)
    frames_in(tmp_path / "bad", 6)
    (tmp_path / "bad" / "f3.png").write_bytes((tmp_path / "bad" / "f3.png").read_bytes()[:200])
    reel = Reel(Videos(str(tmp_path), missing="empty"), 4, 16, 4)
    assert [file.name for file in reel.times] == ["good"] and "f3.png: truncated or corrupt" in reel.corrupt["bad"]


def test_a_folder_without_a_window_says_why(tmp_path: Path) -> None:
    film(tmp_path / "still.mp4", 1)
    with pytest.raises(MediaError, match=r"no video has a window of 4 frames \(still.mp4: too short: 1 frames\)"):
        Reel(Videos(str(tmp_path)), 4, 16, 4)
    with pytest.raises(MediaError, match="did you mean"):
        Reel(Videos(str(tmp_path.with_name(tmp_path.name[:-1] + "x"))), 4, 16, 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"path": "x", "cropp": "centre"}, "unknown setting 'cropp'; nearest: crop"),
        ({"path": "x", "crop": "center"}, "crop is centre or random, not 'center'; nearest: centre"),
        ({"path": "x", "missing": "skip"}, "missing is refuse or empty"),
        ({"path": "x", "workers": 0}, "count from 1"),
        ({"path": "x", "workers": "two"}, "workers and stride are whole numbers"),
        ({"path": 5}, "path and captions are paths"),
        ({"crop": "centre"}, "path is missing"),
    ],
)
def test_wrong_settings_are_told(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Videos.of(given)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no real clips here (../shared/data/clips)")
def test_real_clips_are_read(tmp_path: Path) -> None:
    reel = Reel(Videos(str(SHARED), missing="empty", crop="random", workers=2), 8, 32, frames=8)
    assert reel.short == {"tiny-5-frames.mp4": "too short: 5 frames"} and not reel.corrupt and len(reel.times) == 4
    video = reel.batch(range(8)).video
    assert video.shape == (8, 8, 3, 32, 32) and video.std() > 0.1
    assert all(clip.diff(dim=0).abs().mean() > 1e-4 for clip in video)
