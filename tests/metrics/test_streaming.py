"""Means over samples: what does not apply is left out and counted, and the sums are those of the one-shot function."""

from __future__ import annotations

import pytest
import torch

from metrics import MeanOverSamples, psnr
from metrics.streaming import BETTER


def test_mean_over_samples_leaves_out_what_does_not_apply() -> None:
    metric = MeanOverSamples(lambda values: values)
    metric.update(torch.tensor([1.0, torch.nan]))
    metric.update(torch.tensor([3.0]))
    assert float(metric.compute()) == 2 and float(metric.count) == 2


def test_mean_over_samples_of_a_video_metric() -> None:
    x = torch.rand(5, 2, 3, 16, 16)
    y = (x + 0.1).clamp(0, 1)
    metric = MeanOverSamples(psnr)
    metric.update(x[:2], y[:2])
    metric.update(x[2:], y[2:])
    assert float(metric.compute()) == pytest.approx(float(psnr(x, y).double().mean()), rel=1e-6)


def test_a_mean_is_better_where_its_score_is() -> None:
    from metrics import GuardedMean, flicker, sharpness, temporal_flickering
    from wanlab.measure import available

    means = [MeanOverSamples(psnr), MeanOverSamples(flicker), MeanOverSamples(sharpness), GuardedMean(temporal_flickering)]
    assert [mean.higher_is_better for mean in means] == [True, False, None, True]
    assert MeanOverSamples(lambda video: video).higher_is_better is None
    known = available()
    assert all(known[name].higher_is_better == better for name, better in BETTER.items() if name in known)
