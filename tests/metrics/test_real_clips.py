"""On real clips: each corruption is told by the metrics that are meant for it, and a still is never mistaken for a good clip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metrics import (
    estimate_flow,
    flicker,
    frame_scores,
    image_psnr,
    lpips_distance,
    motion_smoothness,
    ms_ssim,
    perceptual_curves,
    ssim,
    temporal_flickering,
    tof,
    warp_error,
)
from metrics.perceptual import tlp_of
from tests.metrics.scenes import blurred, noisy, shuffled, still
from wanlab.data.video import read_video

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "clips"
NAMES = ("generated-cogvideox", pytest.param("cat", marks=pytest.mark.slow), pytest.param("paragliding", marks=pytest.mark.slow))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no real clips beside the checkout (../shared/data)")


@pytest.fixture(scope="module", params=NAMES)
def clip(request: pytest.FixtureRequest) -> Tensor:
    video = read_video(DATA / f"{request.param}.mp4", frames=8)
    return torch.nn.functional.interpolate(video, (176, 176), mode="bilinear", antialias=True)[None].clamp(0, 1)


HARM: dict[str, Callable[[Tensor], Tensor]] = {"blur": blurred, "noise": noisy, "shuffle": shuffled, "still": still}


def test_a_copy_is_perfect_and_every_harm_costs(clip: Tensor) -> None:
    field = estimate_flow(clip)
    assert float(lpips_distance(clip, clip)) == 0 == float(tof(clip, clip)) and float(ssim(clip, clip)) == pytest.approx(1)
    assert float(ms_ssim(clip, clip)) == pytest.approx(1) and float(ms_ssim(blurred(clip), clip)) < 0.999
    for name, harm in HARM.items():
        spoilt = harm(clip)
        assert float(lpips_distance(spoilt, clip)) > 0.01 and float(tof(spoilt, clip)) > 0.005, name
        assert float(ssim(spoilt, clip)) < 0.99, name
    assert float(warp_error(noisy(clip), field)) > 2 * float(warp_error(clip, field))
    assert float(warp_error(shuffled(clip), field)) > 2 * float(warp_error(clip, field))


def test_time_is_told_by_the_metrics_of_time(clip: Tensor) -> None:
    for score in (temporal_flickering, motion_smoothness, lambda video: frame_scores(video).neighbours):
        values = {name: score(video) for name, video in (("still", still(clip)), ("true", clip), ("shuffle", shuffled(clip)))}
        assert float(values["still"].score) > float(values["true"].score) > float(values["shuffle"].score)  # so a still would win
        assert bool(values["still"].still) and not bool(values["true"].still)
    assert float(flicker(noisy(clip))) > float(flicker(clip)) > float(flicker(blurred(clip)))
    true, *spoilt = (float(tlp_of(perceptual_curves(video, clip))) for video in (clip, blurred(clip), still(clip)))
    assert true == 0 < min(spoilt)


def test_a_clip_leaves_its_first_frame(clip: Tensor) -> None:
    found = image_psnr(clip, clip[:, 0])
    assert float(found.first) == 100 and float(found.slope) < 0 and float(found.curve[:, 1:].max()) < 60
