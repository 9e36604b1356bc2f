"""The cache of `wanlab metrics`: a killed call goes on, and whatever decides a value is part of what it is found by."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.runs.test_judging import put, verdict
from wanlab.data.folder import load_video
from wanlab.data.procedural import World
from wanlab.measure import Clips
from wanlab.runs import found, pairing
from wanlab.runs.judging import Request
from wanlab.runs.verdict import Verdict

METRICS = ["fvd", "lpips", "flicker", "recall"]
KILLED = """
import os, signal, sys
from wanlab import cli
from wanlab.runs import pairing

load, left = pairing.load_video, [9]

def dying(path, size=None):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return load(path, size=size)

pairing.load_video = dying
cli.main()
"""


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    clips = World(size=32, split="test", seed=5).batch(range(7)).video
    real = {f"{i}.mp4": clip for i, clip in enumerate(clips)}
    fake = {name: (0.9 * clip + 0.05).flip(0) if name == "3.mp4" else 0.9 * clip for name, clip in real.items()}
    fake["5.mp4"] = fake["5.mp4"][:5]  # too short for fvd, and compared over its length
    return put(tmp_path / "real", real), put(tmp_path / "fake", fake)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was read since the list was last emptied."""
    names: list[str] = []
    load: Callable[..., Any] = load_video

    def counted(path: Path, size: Any = None) -> Any:
        names.append(f"{path.parent.name}/{path.stem}")
        return load(path, size=size)

    monkeypatch.setattr(pairing, "load_video", counted)
    return names


def said(one: Verdict) -> tuple[Any, ...]:
    return tuple((row.metric, row.value, row.ci_low, row.ci_high, row.n, row.n_reference) for row in one.rows), tuple(one.warnings)


def test_a_killed_call_goes_on_where_it_was(folders: tuple[Path, Path], tmp_path: Path, reads: list[str]) -> None:
    real, fake = folders
    cache, out = tmp_path / "cache", tmp_path / "out.json"
    arguments = ["metrics", "--real", str(real), "--fake", str(fake), "--metric", *METRICS, "--batch", "2", "--device", "cpu"]
    command = [sys.executable, "-c", KILLED, *arguments, "--cache", str(cache), "--json", str(out)]
    died = subprocess.run(command, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL and not out.exists(), died.stderr
    rest = Request(real, fake, METRICS, batch=2, device="cpu", out=out, cache=cache)
    resumed, _ = verdict(rest)
    assert reads == ["fake/4", "real/4", "fake/5", "real/5", "fake/6", "real/6"]  # of seven pairs four were finished
    whole, _ = verdict(Request(real, fake, METRICS, batch=2, device="cpu", out=tmp_path / "whole.json"))
    assert said(resumed)[1] == said(whole)[1] and any("too short: 5 frames" in warning for warning in whole.warnings)
    for mine, true in zip(said(resumed)[0], said(whole)[0], strict=True):
        assert [value is None for value in mine] == [value is None for value in true] and mine[0] == true[0]
        known = [value for value in true[1:] if value is not None]
        assert [value for value in mine[1:] if value is not None] == pytest.approx(known, rel=1e-5, abs=1e-9)
    for kind, keys in (("videos", ["video", "metric"]), ("frames", ["video", "metric", "frame"])):
        mine, true = (pd.read_parquet(tmp_path / f"{name}.{kind}.parquet").sort_values(keys) for name in ("out", "whole"))
        pd.testing.assert_frame_equal(mine.reset_index(drop=True), true.reset_index(drop=True), rtol=1e-5)
    reads.clear()
    again, _ = verdict(rest)
    assert reads == [] and said(again) == said(resumed) and json.loads(out.read_text())["pairs"] == 7


def test_what_decides_a_value_finds_it(
    folders: tuple[Path, Path], tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, fake = folders
    for index in range(3, 7):
        (real / f"{index}.mp4").unlink(), (fake / f"{index}.mp4").unlink()

    def read_for(**changed: Any) -> list[str]:
        reads.clear()
        request = {"real": real, "fake": fake, "names": ["fvd", "psnr"], "device": "cpu", "cache": tmp_path / "cache"}
        verdict(Request(**{**request, **changed}))
        return list(reads)

    assert len(read_for()) == 6 and read_for() == [] == read_for(names=["psnr"]) == read_for(batch=1)
    assert len(read_for(names=["ssim"])) == 6 and read_for(names=["ssim", "psnr"]) == []
    assert len(read_for(size=32)) == 6 and len(read_for(clips=Clips("r3d_18", frames=4), weights={"r3d_18": "random"})) == 6
    shutil.copy(fake / "1.mp4", fake / "0.mp4")  # other bytes under a known name
    assert read_for() == ["fake/0", "real/0"] and read_for() == []
    (fake / "2.mp4").write_bytes(b"broken")
    assert read_for() == read_for() == ["fake/2", "real/2"]  # what cannot be read is told each time
    monkeypatch.setattr(found, "_code", lambda: "another version")
    assert len(read_for(names=["flicker"])) == 6


def test_seeded_clips_belong_to_names(folders: tuple[Path, Path], tmp_path: Path, reads: list[str]) -> None:
    _, fake = folders
    videos = {path.stem: load_video(path).video.repeat(3, 1, 1, 1) for path in sorted(fake.glob("[0-2].mp4"))}
    folder = put(tmp_path / "long", {f"{name}.mp4": video for name, video in videos.items()})
    asked = {"names": ["fvd"], "clips": Clips(offset="seeded", seed=4), "device": "cpu", "cache": tmp_path / "cache"}
    first, _ = verdict(Request(folder, folder, **asked))
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for path in folder.iterdir():
        shutil.copy(path, renamed / f"x{path.name}")
    reads.clear()
    other, _ = verdict(Request(folder, renamed, **asked))
    assert len(reads) == 6 and first.rows[0].value == pytest.approx(0, abs=1e-6)
    assert other.rows[0].value is not None and other.rows[0].value > 1e-3
