"""What moves, flickers and is foretold: a still wins every such score and is marked, corruptions are ordered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metrics import GuardedMean, dynamic_degree, flicker, motion_magnitude, motion_smoothness, temporal_flickering, tof, weights
from metrics.flow import dis, farneback
from metrics.guard import FROZEN, guarded
from metrics.smoothness import compiled, halfway, interpolation_curve
from metrics.tecogan import box, inner, tof_curve
from metrics.temporal import flicker_curve, motion_curves, slope
from metrics.vbench import SPEED, normalised, step_speeds
from tests.metrics.scenes import noisy, shuffled, sliding, still


def test_flicker_and_motion_are_the_means_of_their_curves() -> None:
    video = sliding(3, 5)
    assert flicker_curve(video).shape == motion_curves(video).mean.shape == (1, 4)
    assert float(flicker(video)) == pytest.approx(float(flicker_curve(video).mean()))
    assert float(motion_magnitude(video)) == pytest.approx(3 / 96, rel=0.1)


def test_a_still_is_marked_and_what_moves_is_not() -> None:
    video = sliding(2, 6)
    both = torch.cat([still(video), video, noisy(still(video), 0.01)])
    found = temporal_flickering(both)
    assert found.still.tolist() == [True, False, True]  # a still with sensor noise is a still
    assert found.score[0] == 1 and found.moving.isnan().tolist() == [True, False, True]
    assert float(found.motion[0]) < 1e-4 < FROZEN < float(found.motion[1])


def test_a_clip_that_stops_halfway_is_half_frozen() -> None:
    video = sliding(2, 9)
    video[:, 5:] = video[:, 4:5]
    found = guarded(torch.tensor([1.0]), video)
    assert found.frozen.tolist() == [0.5] and not bool(found.still)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_mean_over_a_data_set_does_not_depend_on_how_many_processes_share_it(processes: int) -> None:
    clips = [sliding(k, 3 + k, seed=k) for k in (1, 2, 3)] + [still(sliding(1, 9))]  # of different lengths
    parts = [GuardedMean(temporal_flickering) for _ in range(processes)]
    for k, clip in enumerate(clips):
        parts[k % processes].update(clip)
    for other in parts[1:]:
        parts[0].merge_state(other)
    found = {name: float(value) for name, value in parts[0].compute().items()}
    each = torch.cat([temporal_flickering(clip).moving for clip in clips]).double()
    assert found["score"] == pytest.approx(float(each[:3].mean()), rel=1e-12)
    assert found["still"] == 0.25 and found["n"] == 4
    assert parts[0].half().sums.dtype == torch.float64


def test_a_data_set_of_stills_has_no_score_and_an_empty_one_is_an_error() -> None:
    metric = GuardedMean(temporal_flickering)
    with pytest.raises(ValueError, match="no sample"), pytest.warns(UserWarning, match="compute"):
        metric.compute()
    metric.update(still(sliding(1, 4)))
    found = metric.compute()
    assert found["score"].isnan() and found["still"] == 1


def test_temporal_flickering_is_vbench_s_formula_on_8_bit_frames() -> None:
    video = torch.rand(2, 4, 3, 20, 24)
    frames = (video * 255).round()
    expected = (255 - (frames[:, 1:] - frames[:, :-1]).abs().mean((1, 2, 3, 4))) / 255
    torch.testing.assert_close(temporal_flickering(video).score, expected)
    assert normalised("temporal_flickering", 1.0) == 1 and normalised("temporal_flickering", 0.6293) == 0
    with pytest.raises(KeyError, match="dynamic_degree"):
        normalised("sharpness", 1.0)


def test_smoothness_falls_from_slide_to_jitter_to_shuffle() -> None:
    video = sliding(2, 9)
    jitter = torch.stack([frame.roll(shift, -1) for frame, shift in zip(video[0], [0, 2, 0, -2, 0, 1, 0, -2, 0])])[None]
    clips = torch.cat([still(video), video, noisy(video, 0.03), jitter, shuffled(video)])
    score = motion_smoothness(clips).score
    assert score[0] > 0.9999 and score[1] > 0.995
    assert score.tolist() == sorted(score.tolist(), reverse=True)


def test_the_frame_in_between_is_found_and_may_come_from_any_function() -> None:
    video = sliding(2, 3)
    middle = halfway(video[:, 0], video[:, 2])
    assert float((middle - video[:, 1]).abs()[..., 8:-8].mean()) < 0.01
    mean = interpolation_curve(video, lambda a, b: (a + b) / 2)
    expected = ((((video[:, 0] + video[:, 2]) / 2) * 255).round() - (video[:, 1] * 255).round()).abs().mean() / 255
    assert float(mean) == pytest.approx(float(expected), rel=1e-5)
    assert interpolation_curve(sliding(2, 6)).shape == (1, 2)  # the last of an even number has no partner
    with pytest.raises(ValueError, match="interpolator gave"):
        interpolation_curve(video, lambda a, b: a[..., :8])
    with pytest.raises(ValueError, match="at least 3"):
        motion_smoothness(video[:, :2])


class Halves(torch.nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a + b) / 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_an_exported_interpolator_is_run_only_under_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "amt.pt"
    torch.jit.script(Halves()).save(str(path))
    video = sliding(2, 5)
    found = interpolation_curve(video, compiled(f"{path}@{weights.sha256(path)}"))
    torch.testing.assert_close(found, interpolation_curve(video, lambda a, b: (a + b) / 2))
    with pytest.raises(weights.WeightsError, match="not opened"):
        compiled(f"{path}@{'0' * 64}")
    with pytest.raises(weights.WeightsError, match="a TorchScript file is a program"):
        compiled(path)


def test_dynamic_degree_asks_for_a_quarter_of_the_frames_to_move_fast() -> None:
    fast = sliding(5, 9, size=96)  # 5 pixels of 96: over 6/256 of the side, which is 2.25
    assert dynamic_degree(torch.cat([fast, still(fast), sliding(1, 9)])).tolist() == [1, 0, 0]
    late = fast.clone()
    late[:, :8] = late[:, :1]  # one moving step of 9 frames, two are wanted
    assert dynamic_degree(late).tolist() == [0]
    speeds = step_speeds(fast)
    assert speeds.shape == (1, 8) and float(speeds.mean()) == pytest.approx(5 / 96, rel=0.1) and SPEED == 6 / 256


def test_dynamic_degree_of_two_frames_is_a_verdict() -> None:
    pair = sliding(5, 2)
    assert dynamic_degree(torch.cat([pair, still(pair)])).tolist() == [1, 0]
    assert step_speeds(sliding(1, 25), fps=24).shape == (1, 8)  # every third frame
    with pytest.raises(ValueError, match="at 8 per second, got 1"):
        dynamic_degree(sliding(1, 3), fps=24)
    with pytest.raises(ValueError, match="positive"):
        dynamic_degree(pair, fps=0)


def test_tof_is_the_difference_of_known_motions() -> None:
    slow, fast = sliding(1, 8), sliding(3, 8)
    assert float(tof(slow, slow)) == 0
    assert float(tof(fast, slow)) == pytest.approx(2, rel=0.1)
    assert float(tof(still(slow), slow)) == pytest.approx(1, rel=0.1)
    assert tof_curve(fast, slow).shape == (1, 7)
    assert float(tof(noisy(slow, 0.02), slow)) < float(tof(still(slow), slow)) < float(tof(shuffled(slow), slow))


@given(height=st.integers(48, 2000), width=st.integers(48, 2000))
def test_tof_s_box_is_the_largest_that_fits(height: int, width: int) -> None:
    for part, whole in zip(box(height, width), (height, width), strict=True):
        side = part.stop - part.start
        assert side % 32 == 0 and whole - 16 - 32 < side <= whole - 16
        assert abs((whole - part.stop) - part.start) <= 1


def test_tof_s_box_and_ends_are_tecogan_s() -> None:
    assert box(128, 64) == (slice(16, 112), slice(16, 48))
    assert box(480, 832) == (slice(16, 464), slice(16, 816))
    assert inner(torch.tensor([[9.0, 9, 1, 2, 3, 9, 9]])).tolist() == [2]  # 8 frames: steps between frames 2 to 5
    with pytest.raises(ValueError, match="48 x 48"):
        tof(torch.rand(1, 6, 3, 40, 64), torch.rand(1, 6, 3, 40, 64))
    with pytest.raises(ValueError, match="at least 6"):
        tof(sliding(1, 5), sliding(1, 5))
    assert float(tof(sliding(1, 2), sliding(1, 2), cut=0, crop=False)) == 0


@pytest.mark.parametrize("flow", [farneback, dis])
def test_a_still_has_no_flow(flow: object) -> None:
    video = still(sliding(1, 3))
    assert float(motion_curves(video, flow=flow).fastest.max()) < FROZEN / 2  # type: ignore[arg-type]


def test_slope_is_numpy_s_and_leaves_out_what_is_missing() -> None:
    import numpy as np

    curve = torch.rand(3, 9)
    expected = [np.polyfit(np.arange(9), row, 1)[0] for row in curve.double().numpy()]
    assert slope(curve).tolist() == pytest.approx(expected, rel=1e-5)
    curve[0, 4] = torch.nan
    expected = np.polyfit(np.delete(np.arange(9), 4), np.delete(curve[0].double().numpy(), 4), 1)[0]
    assert float(slope(curve)[0]) == pytest.approx(expected, rel=1e-5)
    assert slope(torch.tensor([[1.0]])).isnan().all()


@settings(max_examples=15)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(3, 5), st.just(3), st.integers(24, 40), st.integers(24, 40)),
    seed=st.integers(0, 99),
)
def test_scores_keep_their_ranges_for_any_shape(shape: tuple[int, ...], seed: int) -> None:
    video = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    for found in (temporal_flickering(video), motion_smoothness(video)):
        assert found.score.shape == found.motion.shape == found.frozen.shape == shape[:1]
        assert float(found.score.min()) >= 0 and float(found.score.max()) <= 1
        assert float(found.frozen.min()) >= 0 and float(found.frozen.max()) <= 1
    assert set(dynamic_degree(video).tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("score", [flicker, temporal_flickering, motion_smoothness, dynamic_degree])
def test_what_is_no_video_is_refused(score: object) -> None:
    call = score  # type: ignore[assignment]
    with pytest.raises(ValueError, match="at least"):
        call(torch.rand(1, 1, 3, 32, 32))  # type: ignore[operator]
    for bad, message in ((torch.full((1, 4, 3, 32, 32), torch.nan), "NaN"), (torch.full((1, 4, 3, 32, 32), 2.0), r"\[0, 1\]")):
        with pytest.raises(ValueError, match=message):
            call(bad)  # type: ignore[operator]


def test_equal_frames_have_no_motion_whatever_the_flow_estimator_says() -> None:
    """Farneback sees up to 0.0014 widths of motion in a frozen photograph, more than the guard's threshold."""
    def restless(now: Tensor, after: Tensor) -> Tensor:
        return torch.ones(len(now), 2, *now.shape[-2:])

    held = sliding(frames=4).clone()
    held[:, 2] = held[:, 1]
    motion = motion_curves(held, flow=restless)
    for curve in (motion.mean[0], motion.fastest[0]):
        assert curve[1] == 0 and (curve[[0, 2]] > 0).all()
