"""The door: names, protocols, batches, memory; and that it opens on our package."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wanlab import measure
from wanlab.data.procedural import World
from wanlab.measure import Batch, Clips, Memory, MissingWeights, UnknownMetric, available, key_of, resolve

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


def rows_of(batch: Batch, rows: slice) -> Batch:
    return Batch(**{key: value[rows] if value is not None else None for key, value in batch.__dict__.items()})


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
SAMPLES = [name for name in SHIPPED if available()[name].kind == "sample" and name != "ms_ssim"]  # that one: 176 pixels
BLIND = ("motion_accuracy", "shape_accuracy", "ghost", "lag_drift")  # to a little noise


def test_names_carry_the_protocol_and_resolve_again() -> None:
    measures = resolve(SHIPPED)
    names = [found.name for found in measures]
    assert [found.key for found in resolve("psnr")] == ["psnr"]
    assert len(set(names)) == len(names)
    by_key = {found.key: found.name for found in measures}
    assert by_key["warp_error"] == "warp_error[farneback|reference]"
    assert by_key["warp_error_self"] == "warp_error[farneback|self]"
    assert by_key["fvd"].startswith("fvd[motionnet|8f|net:")
    assert by_key["lpips"].startswith("lpips[home-squeeze|uniform|s2|net:")
    assert [found.key for found in resolve(names)] == SHIPPED
    assert [key_of(name) for name in (*SHIPPED, *names)] == 2 * SHIPPED


def test_keys_are_told_without_building_anything() -> None:
    keys = {
        "lpips[alex]": "lpips[alexnet]", "clip_text[clipscore]": "clip_score", "warp_error[self|dis]": "warp_error_self[dis]",
        "fvd[videogpt|16f|s1|i3d:12345678]": "fvd[videogpt]", "kvd[r3d_18|8f|s2|first]": "kvd[r3d_18|8f|s2|first]", "mine": "mine",
    }  # fmt: skip
    assert {name: key_of(name) for name in keys} == keys


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownMetric, match=r"unknown metric 'warp_eror'; nearest: warp_error"):
        resolve(["psnr", "warp_eror"])


def test_every_measure_scores_a_batch_and_prefers_the_truth(batch: Batch) -> None:
    batch = rows_of(batch, slice(0, 2))
    for found in resolve(SAMPLES):
        noisy, clean = found.score(batch), found.score(perfect(batch))
        assert noisy.shape == (2,) and noisy.dtype == torch.float32
        if found.higher_is_better is not None and found.key not in BLIND:
            worse = float((clean - noisy).nanmean())
            assert worse * (1 if found.higher_is_better else -1) > 0, found.name


def test_scores_do_not_depend_on_the_batch(batch: Batch) -> None:
    batch = rows_of(batch, slice(0, 2))
    halves = [rows_of(batch, slice(0, 1)), rows_of(batch, slice(1, 2))]
    for found in resolve(SAMPLES):
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


def test_seven_distances_come_from_one_extraction(batch: Batch) -> None:
    names = "fvd kvd jedi precision recall density coverage".split()
    measures = resolve(names)
    calls: list[int] = []
    extract = measures[0].source.extractor
    network = extract.network
    network.register_forward_pre_hook(lambda module, given: calls.append(len(given[0])))
    rows = [(found.features(batch), found.features(batch, "reference")) for found in measures]
    assert calls == [8] + [1] * 8  # the samples as one batch, each reference by itself, to be remembered
    assert all(torch.equal(x, rows[0][0]) and torch.equal(y, rows[0][1]) for x, y in rows)
    values = {found.stem: found.distance(*pair) for found, pair in zip(measures, rows, strict=True)}
    same = {found.stem: found.distance(pair[1], pair[1]) for found, pair in zip(measures, rows, strict=True)}
    ideal = {"fvd": 0, "jedi": 0, "precision": 1, "recall": 1, "density": 1, "coverage": 1}
    assert {stem: same[stem] for stem in ideal} == pytest.approx(ideal, abs=1e-9)
    assert values["fvd"] > 0 and values["jedi"] > 0 and values["kvd"] > same["kvd"]
    for found, pair in zip(measures, rows, strict=True):
        low, high = found.interval(*pair)
        value, (least, most) = found.distance(*pair), found.bounds
        assert least <= low <= value <= high <= most or (math.isnan(low) and value in (least, most))  # a share at its bound
        assert found.higher_is_better == (found.stem in ("precision", "recall", "density", "coverage"))
    assert [found.bias(*rows[0]) > 0 for found in measures] == [True] + [False] * 6  # NaN for the others


def test_names_choose_networks_flows_and_protocols() -> None:
    flows = resolve(["warp_error[dis]", "warp_error_self[dis|self]", "warp_error[self|farneback]", "tof"])
    assert [found.name for found in flows] == [
        "warp_error[dis|reference]", "warp_error[dis|self]", "warp_error[farneback|self]", "tof[tecogan|farneback]",
    ]  # fmt: skip
    assert [found.key for found in flows] == ["warp_error[dis]", "warp_error_self[dis]", "warp_error_self", "tof"]
    given = {"r3d_18": "random"}
    first, second, third = resolve(["fvd[r3d_18]", "kvd[r3d_18|8f|s2|first]", "fvd"], weights=given, clips=Clips(offset="seeded"))
    assert first.name == "fvd[r3d_18|16f|s1|seeded|r3d_18:random]" and first.key == "fvd[r3d_18|seeded]"
    assert second.name == "kvd[r3d_18|8f|s2|r3d_18:random]" and second.key == "kvd[r3d_18|8f|s2|first]"
    assert third.name.startswith("fvd[motionnet|8f|seeded|net:")
    (drawn,) = resolve(["fvd[r3d_18|seeded]"], weights=given, clips=Clips(seed=5))
    assert drawn.name == "fvd[r3d_18|16f|s1|seeded|seed5|r3d_18:random]" and drawn.key == "fvd[r3d_18|seeded|seed5]"
    assert [one.name for one in resolve([drawn.name, drawn.key], weights=given)] == [drawn.name] * 2
    for wrong, message in (("fvd[vidoegpt]", "nearest: videogpt"), ("lpips[alx]", "has no 'alx'"), ("psnr[x]", "has no 'x'")):
        with pytest.raises(UnknownMetric, match=message):
            resolve([wrong])
    with pytest.raises(ValueError, match="at least 9 frames"):
        resolve(["fvd[videogpt|8f]"])


def test_weights_are_asked_for_and_a_full_name_takes_no_others() -> None:
    with pytest.raises(MissingWeights, match=r"fvd\[videogpt\]: i3d: no weights on this machine.*--weights i3d=PATH"):
        resolve(["fvd[videogpt]"])
    with pytest.raises(MissingWeights, match=r"lpips\[alex\]: alexnet: no weights"):
        resolve(["lpips[alex]"])
    with pytest.raises(MissingWeights, match=r"make it fvd\[motionnet\|8f\|net:"):
        resolve(["fvd[motionnet|8f|net:00000000]"])


def test_curves_go_with_their_scores(batch: Batch) -> None:
    lpips, warp, psnr, sharpness = resolve(["lpips", "warp_error", "psnr", "sharpness"])
    assert lpips.curve(batch).frames == (1, 3, 5, 7) and warp.curve(batch).frames == tuple(range(7))
    for found in (lpips, warp):
        torch.testing.assert_close(found.curve(batch).values.mean(1), found.score(batch))
    assert psnr.curve(batch).values.shape == (8, 8) and sharpness.curve(batch) is None
    still = Batch(video=batch.reference[:, :1].expand_as(batch.reference))
    for found in resolve(["subject_consistency", "motion_smoothness", "temporal_flickering"]):
        assert found.still and found.score(still).isnan().all() and found.score(batch).isfinite().all()


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
