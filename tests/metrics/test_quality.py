"""PSNR, SSIM, sharpness and adherence against scikit-image, torchmetrics and arithmetic; and bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from metrics import flicker, masked_psnr, motion_magnitude, ms_ssim, psnr, sharpness, ssim
from metrics.quality import ms_ssim_curve, psnr_curve, ssim_curve


def pair(seed: int = 0, shape: tuple[int, ...] = (2, 3, 3, 40, 56), noise: float = 0.1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator)
    return x, (x + noise * torch.randn(shape, generator=generator)).clamp(0, 1)


def test_psnr_is_scikit_image_s() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    x, y = pair()
    expected = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1.0) for a, b in zip(y, x, strict=True)]
    assert psnr(x, y).tolist() == pytest.approx(expected, rel=1e-5)
    assert psnr(x, x).tolist() == [100.0, 100.0]


def test_ssim_is_scikit_image_s() -> None:
    from skimage.metrics import structural_similarity

    x, y = pair()
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = [
        structural_similarity(a.numpy(), b.numpy(), channel_axis=0, data_range=1.0, **window)
        for a, b in zip(x.double().flatten(0, 1), y.double().flatten(0, 1), strict=True)
    ]
    assert ssim(x, y).tolist() == pytest.approx([sum(expected[:3]) / 3, sum(expected[3:]) / 3], rel=1e-5)
    assert ssim(x, x).tolist() == pytest.approx([1.0, 1.0], abs=1e-6)


def test_ssim_is_torchmetrics_inside_the_borders() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = pair(1)
    _, full = structural_similarity_index_measure(
        x.flatten(0, 1), y.flatten(0, 1), data_range=1.0, reduction="none", return_full_image=True
    )
    expected = full[..., 5:-5, 5:-5].mean((1, 2, 3)).view(2, 3).mean(1)
    torch.testing.assert_close(ssim(x, y), expected, rtol=2e-5, atol=2e-5)


def test_curves_are_the_scores_of_single_frames_and_psnr_averages_errors() -> None:
    x, y = pair(3, (2, 11, 3, 24, 20))
    for curve, score in ((psnr_curve, psnr), (ssim_curve, ssim)):
        each = torch.stack([score(x[:, t : t + 1], y[:, t : t + 1]) for t in range(11)], 1)
        torch.testing.assert_close(curve(x, y), each)
    errors = 10 ** (-psnr_curve(x, y) / 10)
    torch.testing.assert_close(psnr(x, y), -10 * errors.mean(1).log10(), rtol=1e-5, atol=1e-4)


def test_ms_ssim_is_torchmetrics_frame_by_frame() -> None:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    x, y = pair(4, (1, 3, 3, 176, 180))
    expected = [multiscale_structural_similarity_index_measure(a[None], b[None], data_range=1.0) for a, b in zip(x[0], y[0])]
    torch.testing.assert_close(ms_ssim_curve(x, y)[0], torch.stack(expected))
    assert ms_ssim(x, x).tolist() == pytest.approx([1], abs=1e-6) and 0 < float(ms_ssim(x, y)) < 1
    with pytest.raises(ValueError, match="176 x 176"):
        ms_ssim(x[..., :175], y[..., :175])


def test_masked_psnr_sees_only_the_mask() -> None:
    x, y = pair()
    mask = torch.zeros(2, 3, 40, 56)
    mask[0, :, :20] = 1
    changed = y.clone()
    changed[0, :, :, 20:] = 0
    found = masked_psnr(changed, x, mask)
    assert float(found[0]) == pytest.approx(float(psnr(y[:1, ..., :20, :], x[:1, ..., :20, :])), rel=1e-5)
    assert found[1].isnan()
    with pytest.raises(ValueError, match="b f h w"):
        masked_psnr(x, y, mask[:, :1])


def test_sharpness_falls_under_blur_and_rises_under_noise() -> None:
    x, _ = pair(2, (2, 2, 3, 64, 64))
    x = 0.5 * x + 0.25
    blurred = torch.nn.functional.avg_pool2d(x.flatten(0, 1), 3, 1, 1).unflatten(0, (2, 2))
    noisy = x + 0.1 * torch.rand(x.shape, generator=torch.Generator().manual_seed(7))
    assert sharpness(x, x).tolist() == [1.0, 1.0]
    assert float(sharpness(blurred, x).max()) < 0.5
    assert float(sharpness(noisy, x).min()) > 1
    assert sharpness(x, torch.full_like(x, 0.5)).isnan().all()


def test_a_still_has_no_flicker_and_no_motion() -> None:
    still = pair()[0][:, :1].expand(-1, 4, -1, -1, -1)
    assert flicker(still).tolist() == [0, 0]
    assert motion_magnitude(still).tolist() == pytest.approx([0, 0], abs=1e-4)
    assert flicker(torch.stack([still[:, 0] * 0, still[:, 0] * 0 + 0.25], 1)).tolist() == pytest.approx([0.25, 0.25])


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(2, 4), st.just(3), st.integers(12, 40), st.integers(12, 40)),
    noise=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_ranges_hold_for_any_shape(shape: tuple[int, ...], noise: float, seed: int) -> None:
    x, y = pair(seed, shape, noise)
    b = shape[0]
    assert psnr(y, x).shape == ssim(y, x).shape == flicker(y).shape == (b,)
    assert float(psnr(y, x).min()) >= 0 and float(psnr(y, x).max()) <= 100
    assert float(ssim(y, x).min()) >= -1 and float(ssim(y, x).max()) <= 1 + 1e-6


BAD = [
    ("integers", torch.zeros(1, 2, 3, 16, 16, dtype=torch.uint8), TypeError, "divide 8-bit"),
    ("no tensor", [[0.0]], TypeError, "torch.Tensor"),
    ("grey", torch.zeros(1, 2, 1, 16, 16), ValueError, "c = 3"),
    ("four axes", torch.zeros(2, 3, 16, 16), ValueError, "b f c h w"),
    ("empty", torch.zeros(0, 2, 3, 16, 16), ValueError, "empty"),
    ("NaN", torch.full((2, 2, 3, 16, 16), torch.nan), ValueError, r"NaN or infinite values in sample\(s\) \[0, 1\]"),
    ("minus one to one", torch.full((1, 2, 3, 16, 16), -1.0), ValueError, r"\[0, 1\], got \[-1"),
    ("0 to 255", torch.full((1, 2, 3, 16, 16), 255.0), ValueError, "got"),
]


@pytest.mark.parametrize(("video", "error", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_no_video_is_refused(video: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        flicker(video)


def test_different_sizes_and_too_few_frames_are_refused() -> None:
    x = torch.zeros(1, 2, 3, 16, 16)
    with pytest.raises(ValueError, match="differ in shape"):
        psnr(x, torch.zeros(1, 2, 3, 16, 18))
    with pytest.raises(ValueError, match="at least 2"):
        flicker(x[:, :1])
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(x[..., :8, :8], x[..., :8, :8])
