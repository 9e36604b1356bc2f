"""Corrupted copies of real clips, ordered by the metrics that should see each; skipped where there are no real clips."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from tests.runs.test_judging import CORRUPTIONS, METRICS, put, values, verdict
from wanlab.data.folder import read_video
from wanlab.runs.judging import Request

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "clips"
ABSENT = "no real pictures beside the checkout (../shared/data)"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CLIPS.is_dir(), reason=ABSENT)]


def test_corruptions_of_real_clips_are_ordered(tmp_path: Path) -> None:
    true = {path.name: read_video(path, size=128)[:16] for path in sorted(CLIPS.glob("*.mp4"))}
    real = put(tmp_path / "real", true)
    found, said = {}, ""
    for name, harm in CORRUPTIONS.items():
        folder = put(tmp_path / name, {file: harm(video) for file, video in true.items()})
        judged, said = verdict(Request(real, folder, METRICS, device="cpu"))
        found[name] = values(judged)

    def rising(metric: str, *names: str) -> bool:
        return all(found[a][metric] < found[b][metric] for a, b in pairwise(names))

    assert "tiny-5-frames.mp4" in said and "too short: 5 frames" in said
    assert found["copy"]["fvd"] == pytest.approx(0, abs=1e-6) and found["copy"]["lpips"] == 0
    for metric in ("fvd", "lpips"):
        assert rising(metric, "copy", "blur", "more blur") and rising(metric, "copy", "noise", "more noise"), found
    assert rising("ssim", "more blur", "blur", "copy") and rising("warp_error", "copy", "noise", "more noise", "shuffled")
    assert rising("fvd", "copy", "shuffled") and rising("tof", "copy", "shuffled")
    assert rising("subject_consistency", "shuffled", "copy")
    assert rising("fvd", "copy", "frozen") and found["frozen"]["subject_consistency"] is None
