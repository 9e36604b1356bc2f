"""Every kernel against somebody else's, and TensorFlow's against a loop that follows its definition pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn import functional

from metrics.resizing import Resize, centre, resample


def frames(height: int, width: int, n: int = 2) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


def tensorflow(image: Tensor, rows: int, columns: int) -> Tensor:
    """`h w` -> `rows columns` by TensorFlow 1's definition of resize_bilinear with align_corners=False, a pixel at a time."""
    height, width = image.shape
    out = torch.empty(rows, columns)
    for i in range(rows):
        y = i * height / rows
        top, bottom = math.floor(y), min(math.floor(y) + 1, height - 1)
        for j in range(columns):
            x = j * width / columns
            left, right = math.floor(x), min(math.floor(x) + 1, width - 1)
            a, b = y - top, x - left
            out[i, j] = (image[top, left] * (1 - a) * (1 - b) + image[top, right] * (1 - a) * b
                         + image[bottom, left] * a * (1 - b) + image[bottom, right] * a * b)  # fmt: skip
    return out


@pytest.mark.parametrize(("height", "width", "size"), [(9, 13, (5, 5)), (8, 8, (16, 12)), (31, 17, (14, 14)), (6, 10, (6, 4))])
def test_the_tensorflow_kernel_is_the_definition(height: int, width: int, size: tuple[int, int]) -> None:
    source = frames(height, width, 1)
    found = resample(source, size, "tf1")
    expected = torch.stack([tensorflow(channel, *size) for channel in source[0]])
    torch.testing.assert_close(found[0], expected, rtol=0, atol=2e-6)
    assert float((found - resample(source, size, "bilinear")).abs().mean()) > 0.01  # not the same kernel


def test_the_tensorflow_kernel_has_no_half_pixel_centres() -> None:
    ramp = torch.arange(8.0)[None, None, None].expand(1, 3, 4, 8)
    assert resample(ramp, (4, 4), "tf1")[0, 0, 0].tolist() == [0, 2, 4, 6]
    assert resample(ramp, (4, 4), "bilinear")[0, 0, 0].tolist() == [0.5, 2.5, 4.5, 6.5]
    assert resample(ramp, (4, 16), "tf1")[0, 0, 0, -3:].tolist() == [6.5, 7, 7]  # the border repeats


@pytest.mark.parametrize("size", [(17, 23), (40, 64), (5, 5)])
def test_torch_s_kernels_are_torch_s(size: tuple[int, int]) -> None:
    source = frames(30, 44)
    for kernel, mode, antialias in (("bilinear", "bilinear", False), ("antialias", "bilinear", True), ("bicubic", "bicubic", True)):
        expected = functional.interpolate(source, size, mode=mode, antialias=antialias, align_corners=False)
        assert torch.equal(resample(source, size, kernel), expected)


@pytest.mark.parametrize(("kernel", "filter_"), [("antialias", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)])
def test_antialiased_kernels_are_pillow_s_up_to_its_eight_bits(kernel, filter_) -> None:
    """Pillow rounds to 8 bits after each axis; the kernels here round nothing, and those without antialiasing are far off."""
    grey = (frames(120, 160, 1)[0, 0] * 255).round()
    theirs = torch.from_numpy(np.asarray(Image.fromarray(grey.to(torch.uint8).numpy()).resize((56, 42), filter_), np.float32))

    def apart(kernel) -> Tensor:
        return (resample(grey[None, None], (42, 56), kernel)[0, 0] - theirs).abs()

    assert float(apart(kernel).max()) <= 1.5 and float(apart(kernel).mean()) < 0.5
    assert float(apart("bilinear").mean()) > 10 and float(apart("tf1").mean()) > 10


@pytest.mark.parametrize(("height", "width"), [(480, 854), (720, 480), (64, 64), (37, 91), (225, 224)])
def test_a_crop_takes_the_shorter_side_and_the_ceil_of_the_longer(height: int, width: int) -> None:
    """Written out as VideoGPT and common_metrics do it: resize to whole pixels, then cut."""
    source = frames(height, width, 1)
    side = 56
    scale = side / min(height, width)
    target = (side, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), side)
    whole = functional.interpolate(source, target, mode="bilinear", align_corners=False)
    top, left = (target[0] - side) // 2, (target[1] - side) // 2
    expected = whole[:, :, top : top + side, left : left + side]
    assert torch.equal(Resize("bilinear", "crop", (side, side))(source), expected)
    squashed = functional.interpolate(source, (side, side), mode="bilinear", align_corners=False)
    assert torch.equal(Resize("bilinear", "squash", (side, side))(source), squashed)


def test_a_centre_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="frames of 4 x 9 hold no centre of 5 x 5"):
        centre(frames(4, 9), (5, 5))


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_a_constant_stays_and_the_range_holds(height: int, width: int, rows: int, columns: int) -> None:
    constant = torch.full((1, 3, height, width), 0.3)
    source = frames(height, width, 1)
    for kernel in ("tf1", "bilinear", "antialias"):
        assert torch.allclose(resample(constant, (rows, columns), kernel), torch.tensor(0.3), atol=1e-6)
        found = resample(source, (rows, columns), kernel)
        assert found.shape == (1, 3, rows, columns)
        assert float(found.min()) >= -1e-6 and float(found.max()) <= 1 + 1e-6
    for kernel in ("bilinear", "antialias", "tf1"):
        cut = Resize(kernel, "crop", (12, 12))(source)
        assert cut.shape == (1, 3, 12, 12)
