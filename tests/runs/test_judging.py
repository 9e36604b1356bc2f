"""`wanlab metrics` on folders: corruptions in their order, pairs, bad files by name, values and curves, one batch in memory."""

from __future__ import annotations

import errno
import io
import json
import weakref
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from wanlab.data.folder import Footage, MediaError, write_video
from wanlab.data.procedural import World
from wanlab.measure import Clips, MissingWeights, UnknownMetric
from wanlab.runs import pairing
from wanlab.runs.files import RunFolderError
from wanlab.runs.judging import Request, judge
from wanlab.runs.pairing import Item, Reader, pair
from wanlab.runs.verdict import CurveFile, Verdict, save_values


def blurred(video: Tensor, radius: int) -> Tensor:
    return functional.avg_pool2d(functional.pad(video, (radius,) * 4, mode="replicate"), 2 * radius + 1, 1)


def noisy(video: Tensor, sigma: float) -> Tensor:
    return (video + sigma * torch.randn(video.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


CORRUPTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "copy": lambda video: video,
    "blur": lambda video: blurred(video, 1),
    "more blur": lambda video: blurred(video, 4),
    "noise": lambda video: noisy(video, 0.03),
    "more noise": lambda video: noisy(video, 0.12),
    "shuffled": lambda video: video[torch.randperm(len(video), generator=torch.Generator().manual_seed(3))],
    "frozen": lambda video: video[:1].expand_as(video),
}
METRICS = "fvd lpips ssim warp_error tof flicker subject_consistency adherence_psnr".split()


def put(folder: Path, videos: dict[str, Tensor]) -> Path:
    for name, video in videos.items():
        write_video(folder / name, video, lossless=True)
    return folder


def verdict(request: Request) -> tuple[Verdict, str]:
    said, told = io.StringIO(), io.StringIO()
    found = judge(request, Console(file=said, width=200), Console(file=told, width=500))
    return found, said.getvalue() + " ".join(told.getvalue().split())


def values(found: Verdict) -> dict[str, Any]:
    return {row.metric.partition("[")[0]: row.value for row in found.rows}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten rendered clips as lossless files."""
    videos = World(size=64, split="test", seed=5).batch(range(10)).video
    return put(tmp_path_factory.mktemp("clips"), {f"{i}.mp4": video for i, video in enumerate(videos)})


def test_corruptions_are_ordered_by_the_metrics_that_see_them(clips: Path, tmp_path: Path) -> None:
    from wanlab.data.folder import read_video

    true = {path.name: read_video(path) for path in sorted(clips.glob("[0-5].mp4"))}
    real = put(tmp_path / "real", true)
    found: dict[str, dict[str, Any]] = {}
    for name, harm in CORRUPTIONS.items():
        folder = put(tmp_path / name, {file: harm(video) for file, video in true.items()})
        found[name] = values(verdict(Request(real, folder, METRICS, device="cpu"))[0])

    def rising(metric: str, *names: str) -> bool:
        numbers = [found[name][metric] for name in names]
        return all(a < b for a, b in pairwise(numbers))

    assert found["copy"]["fvd"] == pytest.approx(0, abs=1e-6) and found["copy"]["lpips"] == 0 and found["copy"]["tof"] == 0
    assert found["copy"]["ssim"] == pytest.approx(1) and found["copy"]["adherence_psnr"] == 100
    for metric in ("fvd", "lpips"):
        assert rising(metric, "copy", "blur", "more blur") and rising(metric, "copy", "noise", "more noise"), found
    assert rising("ssim", "more blur", "blur", "copy") and rising("ssim", "more noise", "noise", "copy")
    assert rising("warp_error", "copy", "noise", "more noise") and rising("flicker", "copy", "noise", "more noise")
    for metric in ("fvd", "tof", "warp_error"):
        assert rising(metric, "copy", "shuffled"), metric
    assert rising("fvd", "copy", "frozen") and rising("tof", "copy", "frozen") and found["frozen"]["flicker"] == 0
    assert found["frozen"]["motion_magnitude"] == pytest.approx(0, abs=1e-4)  # which is why a still has no consistency:
    assert found["frozen"]["subject_consistency"] is None and found["frozen"]["adherence_psnr"] == 100


def test_seven_distances_and_their_files(clips: Path, tmp_path: Path) -> None:
    names = "fvd kvd jedi precision recall density coverage psnr lpips motion_smoothness".split()
    out = tmp_path / "deep" / "out.json"
    found, said = verdict(Request(clips, clips, names, device="cpu", out=out))
    read = json.loads(out.read_text())
    rows = {row["metric"].partition("[")[0]: row for row in read["rows"]}
    assert list(rows) == [*names, "motion_magnitude"] and read["pairing"] == "by name" and read["pairs"] == 10
    assert rows["fvd"]["bias"] > 0 and rows["fvd"]["infinity"] is None and rows["kvd"]["bias"] is None
    fvd = rows["fvd"]
    assert fvd["n"] == fvd["n_reference"] == 10 and fvd["ci_low"] <= fvd["value"] <= fvd["ci_high"]
    assert rows["recall"]["value"] == rows["coverage"]["value"] == 1 and rows["precision"]["better"] == "higher"
    assert "n = 10 with 188 features is far above" in said and "give n >= 470" in said
    assert "motion_magnitude stands beside" in said
    table = pd.read_parquet(out.with_name("out.videos.parquet"))
    assert set(table.video) == {f"{i}.mp4" for i in range(10)} and (table[table.metric == "psnr"].value == 100).all()
    curves = pd.read_parquet(out.with_name("out.frames.parquet"))
    lpips = curves[curves.metric == rows["lpips"]["metric"]]
    assert sorted(set(lpips.frame)) == [1, 3, 5, 7] and len(lpips) == 40 and lpips.value.max() == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.frames.parquet", "out.json", "out.videos.parquet"]
    assert all(row.metric.partition("[")[0] in said for row in found.rows)


def test_a_preset_changes_name_and_number(clips: Path) -> None:
    given = {"r3d_18": "random"}
    asked = Request(clips, clips, ["fvd", "fvd[motionnet]"], Clips("r3d_18", frames=4, stride=2), given, device="cpu")
    found, said = verdict(asked)
    assert [row.metric.partition(":")[0] for row in found.rows] == ["fvd[r3d_18|4f|s2|r3d_18", "fvd[motionnet|8f|net"]
    assert "n = 10 with 512 features" in said


def names_of(found: pairing.Pairing) -> list[tuple[str, str | None]]:
    return [(item.name, item.real and item.real.name) for item in found.pairs]


def test_pairs_by_name_else_by_order_else_none(tmp_path: Path) -> None:
    def folder(name: str, *files: str) -> Path:
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(b"x")
        return tmp_path / name

    ab, ba = folder("ab", "a.mp4", "b.mp4"), folder("ba", "b.mkv", "c.mp4", "a.avi")
    xy, three = folder("xy", "x.mp4", "y.mp4"), folder("three", "1.mp4", "2.mp4", "3.mp4")
    by_name = pair(ba, ab)
    assert names_of(by_name) == [("a.mp4", "a.avi"), ("b.mp4", "b.mkv")] and by_name.how == "by name"
    assert by_name.alone == {"fake": [], "real": ["c.mp4"]} and [item.name for item in by_name.items] == ["a.mp4", "b.mp4", "c.mp4"]
    by_order = pair(xy, ab)
    assert names_of(by_order) == [("a.mp4", "x.mp4"), ("b.mp4", "y.mp4")] and by_order.how.startswith("by order")
    assert pair(three, ab).pairs == [] and len(pair(three, ab).items) == 5
    assert pair(None, ab).items == (Item("a.mp4", ab / "a.mp4"), Item("b.mp4", ab / "b.mp4"))


@pytest.fixture
def mixed(clips: Path, tmp_path: Path) -> Path:
    """Two good videos and everything that people have in their folders."""
    from wanlab.data.folder import read_video

    folder = tmp_path / "mixed"
    good = {path.name: read_video(path) for path in sorted(clips.glob("[0-4].mp4"))}
    put(folder, {"0.mp4": good["0.mp4"], "1.mp4": good["1.mp4"], "2.mp4": good["2.mp4"][:3], "3.mp4": good["3.mp4"][..., :32, :48]})
    (folder / "4.mp4").write_bytes((folder / "0.mp4").read_bytes()[:700])
    (folder / "5.mp4").write_bytes(b"")
    (folder / "notes.txt").write_text("not a video")
    (folder / ".hidden.mp4").write_bytes(b"x")
    pixels = (good["0.mp4"] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    for index, frame in enumerate(pixels):
        for name, image in (
            ("6", Image.fromarray(frame).convert("L")),
            ("7", Image.fromarray((frame[..., 0].astype(np.uint16)) * 257)),
            ("8", Image.fromarray(np.concatenate([frame, frame[..., :1]], -1), "RGBA")),
        ):
            (folder / name).mkdir(exist_ok=True)
            image.save(folder / name / f"{index}.png")
    (folder / "9").mkdir()
    for index in range(8):
        Image.fromarray(np.full((64, 64), 1.5, np.float32)).save(folder / "9" / f"{index}.tiff")
    return folder


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_bad_files_are_named_and_counted_and_the_rest_is_judged(clips: Path, mixed: Path) -> None:
    found, said = verdict(Request(clips, mixed, ["fvd", "psnr", "flicker", "ssim"], device="cpu"))
    rows = {row.metric.partition("[")[0]: row for row in found.rows}
    assert set(found.left_out["fake"]) == {"4.mp4", "5.mp4", "9"} and found.left_out["real"] == {}
    assert "truncated" in found.left_out["fake"]["4.mp4"] and found.left_out["fake"]["5.mp4"] == "the file is empty"
    assert "outside [0, 1]" in found.left_out["fake"]["9"]
    assert "fake: 3 left out" in said and "16-bit grey: 7" in said and "transparent parts were laid on white: 8" in said
    assert "psnr: 1 left out: 48 x 32 pixels against 64 x 64 of the reference; ask for one --size: 3.mp4" in said
    assert "1 pairs of different lengths were compared over their common beginning: 2.mp4 (3 frames)" in said
    assert "too short: 3 frames, a clip of 8 spans 8: 2.mp4" in said
    assert rows["flicker"].n == 7 and rows["psnr"].n == 6 and rows["fvd"].n == 6 and rows["fvd"].n_reference == 10
    squared, _ = verdict(Request(clips, mixed, ["psnr"], size=32, device="cpu"))
    assert squared.rows[0].n == 7


def test_lossy_files_are_told(clips: Path, tmp_path: Path) -> None:
    from wanlab.data.folder import read_video

    video = read_video(clips / "0.mp4")
    write_video(tmp_path / "lossy" / "0.mp4", video)
    for suffix in ("png", "jpg"):
        (tmp_path / suffix / "0").mkdir(parents=True)
        for index, frame in enumerate(video):
            pixels = (frame.movedim(0, -1) * 255).round().byte().numpy()
            Image.fromarray(pixels).save(tmp_path / suffix / "0" / f"{index}.{suffix}")
    for side, told in (("lossy", "fake: yuv420p h264, read as decoded"), ("jpg", "fake: JPEG, read as decoded"), ("png", "")):
        found, said = verdict(Request(clips, tmp_path / side, ["psnr"], device="cpu"))
        assert (found.rows[0].value == 100) == (not told) == ("as decoded" not in said)
        assert not told or (told in said and any(told in warning for warning in found.warnings))


def test_too_few_for_a_number_say_n(clips: Path, tmp_path: Path) -> None:
    from wanlab.data.folder import read_video

    one = put(tmp_path / "one", {"0.mp4": read_video(clips / "0.mp4")})
    found, said = verdict(Request(clips, one, ["fvd", "precision", "psnr"], device="cpu"))
    assert [row.value for row in found.rows] == [None, None, 100] and [row.n for row in found.rows] == [1, 1, 1]
    assert "no number, n = 1 and 10: it needs at least 2" in said and "it needs at least 6 on each side" in said
    assert "real: 9 without a partner" in said
    alone, _ = verdict(Request(None, one, ["flicker", "motion_magnitude"], device="cpu"))
    assert all(row.n == 1 for row in alone.rows)


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"fake": "empty"}, MediaError, "no videos and no folders of frames here"),
    ({"fake": "absent"}, MediaError, "no such file"),
    ({"fake": "broken", "real": None, "names": ["dynamic_degree"]}, MediaError, "nothing could be judged: fake: 2 left out"),
    ({"names": ["motion_accuracy"]}, ValueError, "need the truth of rendered videos"),
    ({"names": ["psnrr"]}, UnknownMetric, "nearest: psnr"),
    ({"names": ["fvd[tf1]"]}, MissingWeights, "i3d: no weights on this machine"),
    ({"names": ["fvd"], "clips": Clips("motionnet", frames=16)}, ValueError, "defined on clips of 8 frames"),
    ({"names": ["fvd"], "clips": Clips("vidoegpt")}, ValueError, "nearest: videogpt"),
    ({"clips": Clips("vidoegpt")}, ValueError, "nearest: videogpt"),
    ({"clips": Clips(offset="sedeed")}, ValueError, "no offset 'sedeed'; nearest: seeded"),
    ({"clips": Clips(frames=100)}, ValueError, "--frames 100: it is of set distances .fvd, kvd, ...., and none is asked for"),
    ({"names": ["fvd"], "clips": Clips(seed=3)}, ValueError, "--seed 3: fvd as asked for does not use it"),
    ({"names": ["fvd[videogpt]"], "clips": Clips(frames=8)}, ValueError, "--frames 8: fvd.videogpt. as asked for does not use"),
    ({"prompts": Path("p.csv")}, ValueError, "--prompts p.csv: none of psnr reads prompts"),
    ({"real": None, "names": ["psnr"]}, ValueError, "needs a reference: give --real"),
    ({"fake": "three"}, ValueError, "no pairs could be made"),
])  # fmt: skip
def test_what_cannot_be_judged_is_said(clips: Path, tmp_path: Path, change: dict[str, Any], error: type, message: str) -> None:
    for name, files in (("empty", 0), ("broken", 2), ("three", 3)):
        (tmp_path / name).mkdir()
        for index in range(files):
            (tmp_path / name / f"{'ab'[index % 2]}{index}.mp4").write_bytes(b"no video")
    if "fake" in change:
        change = {**change, "fake": tmp_path / change["fake"]}
    with pytest.raises(error, match=message):
        verdict(Request(**{"real": clips, "fake": clips, "names": ["psnr"], "device": "cpu", **change}))


def test_one_batch_is_alive_however_many_videos_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty pairs that are made when they are read: at no time more than one batch of pairs is held."""
    alive, most = set(), [0]

    def made(path: Path, size: Any = None) -> Footage:
        video = torch.rand(12, 3, 32, 32, generator=torch.Generator().manual_seed(int(path.stem)))
        alive.add(id(video))
        weakref.finalize(video, alive.discard, id(video))
        most[0] = max(most[0], len(alive))
        return Footage(video, 8.0, ())

    for side in ("real", "fake"):
        (tmp_path / side).mkdir()
        for index in range(40):
            (tmp_path / side / f"{index}.mp4").write_bytes(b"x")
    monkeypatch.setattr(pairing, "load_video", made)
    found, _ = verdict(Request(tmp_path / "real", tmp_path / "fake", ["psnr", "fvd"], batch=4, device="cpu"))
    assert found.rows[0].n == 40 and most[0] <= 2 * 4 + 1
    most[0] = 0
    monkeypatch.setattr(pairing, "BATCH_BYTES", 1)  # videos so large that each is a batch
    verdict(Request(tmp_path / "real", tmp_path / "fake", ["psnr", "fvd"], batch=4, device="cpu"))
    assert most[0] <= 3


def test_a_reader_keeps_shapes_apart_and_counts_everything(mixed: Path) -> None:
    reader = Reader(None, batch=3)
    items = pair(None, mixed).items
    taken = [(count, read and read.names) for count, read in reader.batches(items)]
    assert sum(count for count, _ in taken) == len(items) == 10
    assert [names for _, names in taken if names] == [["0.mp4", "1.mp4"], ["2.mp4"], ["3.mp4"], ["6", "7", "8"]]


def test_a_full_disk_is_told_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    curves = CurveFile(tmp_path / "curves.parquet")
    curves.add("clip", "psnr", [0, 1], [20.0, 21.0])
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(RunFolderError, match=r"the disk is full .* while writing .*curves\.parquet"):
        curves.close(keep=True)
    with pytest.raises(RunFolderError, match=r"the disk is full .* while writing .*values\.parquet"):
        save_values(tmp_path / "values.parquet", {"psnr": {"clip": 20.5}})
    assert not list(tmp_path.iterdir())
