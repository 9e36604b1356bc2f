"""The door: names, protocols, batches, memory; and that it opens on our package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wanlab import measure
from wanlab.data.procedural import World
from wanlab.measure import Batch, Memory, UnknownMetric, available, resolve

SHORT = (
    "fvd lpips psnr ssim warp_error flicker motion_accuracy shape_accuracy adherence_psnr sharpness motion_magnitude "
    "background_psnr"
).split()


@pytest.fixture(scope="module")
def batch() -> Batch:
    """Eight true clips, slightly noisy, against themselves."""
    clips = World(size=64, split="val", seed=3).batch(range(8), truth=True)
    noise = 0.04 * torch.randn(clips.video.shape, generator=torch.Generator().manual_seed(0))
    return Batch(
        video=(clips.video + noise).clamp(0, 1), reference=clips.video, image=clips.video[:, 0], factors=clips.factors,
        masks=clips.masks, tracks=clips.tracks, flow_pairs=clips.flow_pairs, occlusion=clips.occlusion,
    )  # fmt: skip


def perfect(batch: Batch) -> Batch:
    return Batch(**{**batch.__dict__, "video": batch.reference})


def test_every_short_name_is_there_with_direction_and_needs() -> None:
    known = available()
    assert set(SHORT) <= set(known)
    assert known["fvd"].kind == "set" and known["fvd"].higher_is_better is False
    assert known["psnr"].higher_is_better is True and known["motion_magnitude"].higher_is_better is None
    assert known["background_psnr"].needs == {"reference", "masks"}
    assert all(info.summary for info in known.values())


SHIPPED = [name for name, info in available().items() if not info.weights]


def test_names_carry_the_protocol_and_resolve_again() -> None:
    measures = resolve(SHIPPED)
    names = [found.name for found in measures]
    assert len(set(names)) == len(names)
    by_key = {found.key: found.name for found in measures}
    assert by_key["warp_error"] == "warp_error[farneback|reference]"
    assert by_key["warp_error_self"] == "warp_error[farneback|self]"
    assert by_key["fvd"].startswith("fvd[motionnet|8f|net:")
    assert by_key["lpips"].startswith("lpips[home-squeeze|uniform|s2|net:")
    assert [found.key for found in resolve(names)] == SHIPPED


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownMetric, match=r"unknown metric 'warp_eror'; nearest: warp_error"):
        resolve(["psnr", "warp_eror"])


def test_every_measure_scores_a_batch_and_prefers_the_truth(batch: Batch) -> None:
    for found in resolve(SHIPPED):
        if found.kind == "set":
            continue
        noisy, clean = found.score(batch), found.score(perfect(batch))
        assert noisy.shape == (8,) and noisy.dtype == torch.float32
        if found.higher_is_better is not None and found.key not in ("motion_accuracy", "shape_accuracy", "ghost"):
            worse = float((clean - noisy).mean())
            assert worse * (1 if found.higher_is_better else -1) > 0, found.name


def test_scores_do_not_depend_on_the_batch(batch: Batch) -> None:
    halves = [
        Batch(**{key: value[rows] if value is not None else None for key, value in batch.__dict__.items()})
        for rows in (slice(0, 3), slice(3, 8))
    ]
    for found in resolve(SHIPPED):
        if found.kind == "sample":
            whole = found.score(batch)
            parts = torch.cat([found.score(half) for half in halves])
            torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6, equal_nan=True)


def test_fvd_of_a_set_with_itself_is_zero_and_rises_with_noise(batch: Batch) -> None:
    (fvd,) = resolve(["fvd"])
    x, y = fvd.features(batch), fvd.features(batch, "reference")
    assert x.shape == y.shape and x.dtype == torch.float32
    assert fvd.distance(y, y) == pytest.approx(0, abs=1e-9)
    assert fvd.distance(x, y) > 0 and fvd.bias(x, y) > 0
    low, high = fvd.interval(x, y)
    assert 0 <= low <= fvd.distance(x, y) <= high
    delta, low, high, p = fvd.difference(x, y, y)
    assert low <= delta <= high and 0 <= p <= 1 and delta == pytest.approx(fvd.distance(x, y), rel=1e-6)


def test_what_a_measure_needs_is_asked_for(batch: Batch) -> None:
    bare = Batch(video=batch.video)
    for name in ("psnr", "lpips", "motion_accuracy", "adherence_psnr"):
        with pytest.raises(ValueError, match=f"{name} needs the batch's"):
            resolve([name])[0].score(bare)
    with pytest.raises(ValueError, match="8 videos but 2 in reference"):
        resolve(["psnr"])[0].score(Batch(video=batch.video, reference=batch.video[:2]))
    broken = batch.video.clone()
    broken[1] = torch.nan
    with pytest.raises(ValueError, match=r"flicker: .*NaN.*\[1\].*samples a, b"):
        resolve(["flicker"])[0].score(Batch(video=broken[:2], ids=["a", "b"]))


def test_memory_computes_each_clip_once_and_forgets_the_oldest() -> None:
    made = []

    def make(clip: torch.Tensor) -> float:
        made.append(float(clip.mean()))
        return made[-1]

    memory = Memory(2)
    clips = torch.arange(3.0)[:, None].expand(3, 4)
    assert memory.of(clips[:2], make) == [0, 1] and memory.of(clips[:2].clone(), make) == [0, 1]
    assert made == [0, 1]
    memory.of(clips[2:], make)
    memory.of(clips[:1], make)  # forgotten: made again
    assert made == [0, 1, 2, 0]


def test_a_stranger_called_metrics_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.py").write_text("psnr = None\n")
    code = "from wanlab import measure; measure.package()"
    root = Path(measure.__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]; {code}"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert run.returncode != 0
    assert "shadowed by" in run.stderr and str(tmp_path / "metrics.py") in run.stderr
