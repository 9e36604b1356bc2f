"""Against known truth: true clips of the procedural world score as true, and each kind of falsehood is told."""

from __future__ import annotations

import pytest
import torch

from metrics import colour_accuracy, flow_error, trajectory_error, warp_error
from metrics.warp import truth_field
from wanlab.data.clip import Clips
from wanlab.data.procedural import COLOURS, World

N = 24


@pytest.fixture(scope="module")
def clips() -> Clips:
    return World(size=64, split="test", seed=3).batch(range(N), truth=True)


def test_true_clips_keep_their_colours_and_their_tracks(clips: Clips) -> None:
    colour = colour_accuracy(clips.video, clips.factors, COLOURS)
    assert float(colour.nanmean()) == 1 and int(colour.isnan().sum()) < N / 4
    error = trajectory_error(clips.video, clips.factors, clips.tracks, COLOURS, clips.masks)
    assert float(error.nanmean()) < 0.003 and float(error.nan_to_num(0).max()) < 0.01
    assert float(trajectory_error(clips.video, clips.factors, clips.tracks, COLOURS).nanmean()) < 0.005  # covered ones too


def test_a_still_a_shuffle_and_an_empty_clip_leave_the_track(clips: Clips) -> None:
    def error(video: torch.Tensor) -> float:
        return float(trajectory_error(video, clips.factors, clips.tracks, COLOURS, clips.masks).nanmean())

    true, still = error(clips.video), error(clips.video[:, :1].expand_as(clips.video))
    assert error(clips.video[:, [0, 2, 1, 4, 3, 6, 5, 7]]) > 5 * true
    assert still > 20 * true
    assert error(torch.full_like(clips.video, 0.5)) == pytest.approx(still, rel=0.1)  # what is gone counts as still


def test_lost_and_foreign_colours_are_told(clips: Clips) -> None:
    grey = clips.video.mean(2, keepdim=True).expand_as(clips.video)
    assert float(colour_accuracy(grey, clips.factors, COLOURS).nanmean()) == 0
    assert float(colour_accuracy(clips.video.flip(2), clips.factors, COLOURS).nanmean()) < 0.6  # red for blue
    row = [{"objects": [{"colour": "red", "occluded_last": False}]}]
    picture = torch.full((1, 1, 3, 64, 64), 0.5)
    picture[0, 0, :, 8:24, 8:24] = torch.tensor(COLOURS["red"])[:, None, None]
    assert colour_accuracy(picture, row, COLOURS).tolist() == [1]
    picture[0, 0, :, 40:56, 40:56] = torch.tensor(COLOURS["green"])[:, None, None]
    assert colour_accuracy(picture, row, COLOURS).tolist() == [0.5]
    covered = [{"objects": [{"colour": "red", "occluded_last": True}]}]
    assert colour_accuracy(picture, covered, COLOURS).isnan().all()


def test_flow_and_warping_know_true_motion_from_none(clips: Clips) -> None:
    field, true = truth_field(clips.flow_pairs[:12], clips.occlusion[:12]), clips.video[:12]
    found = [float(flow_error(video, field).nanmean()) for video in (true, true[:, :1].expand_as(true), true.flip(1))]
    assert found[0] < 0.75 * found[1] < found[2]
    assert float(warp_error(true, field).mean()) < 0.2 * float(warp_error(true.flip(1), field).mean())


def test_wrong_truth_is_refused(clips: Clips) -> None:
    with pytest.raises(ValueError, match="tracks must be b f m 2"):
        trajectory_error(clips.video, clips.factors, clips.tracks[:, :3], COLOURS)
    with pytest.raises(ValueError, match="masks must be"):
        trajectory_error(clips.video, clips.factors, clips.tracks, COLOURS, clips.masks[:, :1])
    with pytest.raises(ValueError, match="24 videos but 1 factors"):
        colour_accuracy(clips.video, clips.factors[:1], COLOURS)
    with pytest.raises(ValueError, match="unknown colour"):
        colour_accuracy(clips.video[:1], [{"objects": [{"colour": "beige"}]}], COLOURS)
    assert trajectory_error(clips.video[:1], [{"objects": []}], clips.tracks[:1], COLOURS).isnan().all()
