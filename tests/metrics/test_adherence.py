"""Closeness to the conditioning image: exact at the first frame, falling as the clip moves away."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metrics import image_lpips, image_psnr, image_ssim, psnr, ssim
from tests.metrics.scenes import sliding, still


def test_the_first_frame_is_exact_and_the_rest_decays() -> None:
    video = sliding(1, 5)
    image = video[:, 0]
    for score, best, worse in ((image_psnr, 100.0, -1), (image_ssim, 1.0, -1), (image_lpips, 0.0, 1)):
        found = score(video, image)
        assert float(found.first) == pytest.approx(best, abs=1e-5) and found.curve.shape == (1, 5)
        assert worse * float(found.slope) > 0
        assert (worse * np.diff(found.curve[0].double().numpy()) > 0).all()
        expected = np.polyfit(np.arange(5), found.curve[0].double().numpy(), 1)[0]
        assert float(found.slope) == pytest.approx(expected, rel=1e-4)
        assert float(score(still(video), image).slope) == pytest.approx(0, abs=1e-6)
        assert score(video[:, :1], image).slope.isnan().all()


def test_curves_are_the_plain_scores_of_each_frame() -> None:
    video = sliding(2, 3)
    image = sliding(2, 3, seed=5)[:, 0]
    for t in range(3):
        assert float(image_psnr(video, image).curve[0, t]) == pytest.approx(float(psnr(video[:, t : t + 1], image[:, None])))
        assert float(image_ssim(video, image).curve[0, t]) == pytest.approx(float(ssim(video[:, t : t + 1], image[:, None])))


def test_a_larger_image_is_resampled_and_a_wrong_one_refused() -> None:
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    large = torch.nn.functional.interpolate(ramp, (128, 128), mode="bilinear", align_corners=False)
    assert float(image_psnr(ramp[:, None], large).first) > 35
    with pytest.raises(ValueError, match="1 videos but 2 images"):
        image_psnr(ramp[:, None], ramp.expand(2, -1, -1, -1))
    with pytest.raises(ValueError, match=r"image must lie in \[0, 1\]"):
        image_psnr(ramp[:, None], 255 * ramp)
