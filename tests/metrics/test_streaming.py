"""The torchmetrics classes: batches, merges and hostile dtypes give the same number as one pass over everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metrics import FrechetVideoDistance, MeanOverSamples, frechet_distance, moments, psnr


def sets() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(90, 12, generator=generator), 1.5 * torch.randn(70, 12, generator=generator) + 0.3


def filled(x: Tensor, y: Tensor, batch: int) -> FrechetVideoDistance:
    metric = FrechetVideoDistance(None, 12)
    for part in x.split(batch):
        metric.update(part, real=False)
    for part in y.split(batch):
        metric.update(part, real=True)
    return metric


@pytest.mark.parametrize("batch", [1, 7, 90])
def test_streamed_equals_stored(batch: int) -> None:
    x, y = sets()
    assert float(filled(x, y, batch).compute()) == pytest.approx(float(frechet_distance(x, y)), rel=1e-10)


def test_merge_of_parts_equals_the_whole() -> None:
    x, y = sets()
    whole = filled(x, y, 10).compute()
    parts = [filled(x[k::3], y[k::3], 4) for k in range(3)]
    first = parts[0]
    for other in parts[1:]:
        first.merge_state(other)
    assert float(first.compute()) == pytest.approx(float(whole), rel=1e-12)
    merged = moments.merge(torch.stack([part.fake for part in (filled(x[k::3], y, 9) for k in range(3))]))
    for found, expected in zip(
        moments.mean_and_covariance(merged, 12), (x.double().mean(0), x.double().T.cov()), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_an_empty_part_changes_nothing() -> None:
    x, y = sets()
    metric = filled(x, y, 30)
    before = metric.compute()
    metric.merge_state(FrechetVideoDistance(None, 12))
    assert float(metric.compute()) == pytest.approx(float(before), rel=1e-12)


def test_the_state_stays_float64_and_survives_a_huge_mean() -> None:
    x, y = (part.double() + 1e6 for part in sets())
    metric = FrechetVideoDistance(None, 12)
    metric.set_dtype(torch.float32)
    metric.half()
    for real, values in ((False, x), (True, y)):
        for part in values.split(8):
            metric.update(part, real=real)
    assert metric.real.dtype == torch.float64
    assert float(metric.compute()) == pytest.approx(float(frechet_distance(x - 1e6, y - 1e6)), rel=1e-8)


def test_reset_and_bad_updates() -> None:
    metric = filled(*sets(), 30)
    metric.reset()
    with pytest.raises(ValueError, match="at least 2 samples, got 0"), pytest.warns(UserWarning, match="compute"):
        metric.compute()
    with pytest.raises(ValueError, match=r"\(b, 12\)"):
        metric.update(torch.zeros(4, 5), real=True)
    with pytest.raises(ValueError, match="NaN"):
        metric.update(torch.full((4, 12), torch.nan), real=True)


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
