"""What callers may give as an image, and what they are told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wanlab.data.media import MediaError
from wanlab.pipelines.inputs import as_images, number, rows, sentences, whole

SIZE = 8


@pytest.fixture
def pixels() -> np.ndarray:
    """`h w 3` uint8."""
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def expected(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]


@pytest.mark.parametrize("form", ["path", "text", "pil", "array", "float", "double", "tensor", "batch", "list"])
def test_every_form_of_an_image_is_the_same_image(form: str, pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "first.png"
    Image.fromarray(pixels).save(path)
    image: Any = {
        "path": path, "text": str(path), "pil": Image.fromarray(pixels), "array": pixels,
        "float": pixels.astype(np.float32) / 255, "double": pixels / 255,
        "tensor": expected(pixels)[0], "batch": expected(pixels), "list": [path],
    }[form]  # fmt: skip
    out = as_images(image, SIZE)
    assert out.dtype == torch.float32 and out.shape == (1, 3, SIZE, SIZE)
    assert torch.allclose(out, expected(pixels), atol=1e-6)


@pytest.mark.parametrize("size", [5, 11, (6, 13)])
def test_every_form_of_an_image_is_resized_alike(size: Any, tmp_path: Path) -> None:
    """Enlarged, reduced and cut to another shape: a path, an open image, an array and a tensor give the same numbers."""
    pixels = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "first.png")
    wanted = as_images(tmp_path / "first.png", size)
    for form in (Image.fromarray(pixels), pixels, pixels / 255, expected(pixels)[0]):
        assert torch.equal(as_images(form, size), wanted)


def test_an_open_image_is_turned_upright_and_laid_on_white_as_a_file_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE, 4), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "first.png", exif=turned)
    with Image.open(tmp_path / "first.png") as image:
        found = as_images(image, SIZE)
    assert torch.equal(found, as_images(tmp_path / "first.png", SIZE))
    alpha = pixels[..., 3:] / 255
    laid = np.rot90(pixels[..., :3] / 255 * alpha + 1 - alpha, -1)
    assert torch.allclose(found[0].movedim(0, -1), torch.from_numpy(laid.copy()).float(), atol=1e-6)


def test_a_list_is_rows_of_any_forms_and_sizes(pixels: np.ndarray) -> None:
    out = as_images([pixels, torch.rand(3, 20, 12), Image.new("RGB", (5, 9))], SIZE)
    assert out.shape == (3, 3, SIZE, SIZE) and torch.allclose(out[:1], expected(pixels))


def test_the_largest_centred_square_is_taken() -> None:
    wide = torch.zeros(3, SIZE, SIZE + 6)
    wide[..., 3:-3] = torch.rand(3, SIZE, SIZE)
    assert torch.equal(as_images(wide, SIZE)[0], wide[..., 3:-3])
    assert torch.equal(as_images(wide.mT, SIZE)[0], wide[..., 3:-3].mT)


def test_resizing_keeps_the_mean_and_the_range() -> None:
    image = torch.rand(3, 64, 64).round()
    small = as_images(image, SIZE)
    assert small.min() >= 0 and small.max() <= 1 and small.mean() == pytest.approx(image.mean().item(), abs=0.01)
    assert (as_images(torch.full((3, 4, 4), 0.3), 32) - 0.3).abs().max() < 1e-6


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_pil_images_of_other_modes_become_rgb(mode: str) -> None:
    assert as_images(Image.new("RGB", (SIZE, SIZE), (255, 0, 0)).convert(mode), SIZE).shape == (1, 3, SIZE, SIZE)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(3, 8, 8) * 255, r"must be finite and in \[0, 1\], got .* to 25"),
        (torch.rand(3, 8, 8) * 2 - 1, r"in \[0, 1\], got -"),
        (torch.full((3, 8, 8), float("nan")), "finite"),
        (torch.randint(2, 255, (3, 8, 8), dtype=torch.uint8), r"in \[0, 1\]"),
        (torch.rand(1, 8, 8), r"3 channels, got \(1, 1, 8, 8\)"),
        (torch.rand(8, 8, 3), r"3 channels, got \(1, 8, 8, 3\)"),
        (torch.rand(2, 4, 3, 8, 8), r"c h w or b c h w"),
        (np.zeros((8, 8)), r"h w 3, got \(8, 8\)"),
        (np.zeros((8, 8, 4)), r"h w 3, got \(8, 8, 4\)"),
        (np.full((8, 8, 3), 128.0), r"in \[0, 1\]"),
    ],
)
def test_what_is_no_image_is_told(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_images(image, SIZE)


def test_a_missing_file_is_named_with_the_nearest(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "first.png")
    with pytest.raises(MediaError, match=r"frist\.png.*first\.png"):
        as_images(tmp_path / "frist.png", SIZE)


@pytest.mark.parametrize(("read", "value", "message"), [
    (sentences, None, "prompt is a sentence, or one for each row, got None; '' says nothing"),
    (sentences, ["a", None], "prompt is a sentence.*got None"),
    (whole, None, "seed is a whole number, got None"), (whole, 1.5, "got 1.5"), (whole, "3", "got '3'"),
    (number, "3", "guidance is a number, got '3'"), (number, [1, 2], r"got \[1, 2\]"),
])  # fmt: skip
def test_nothing_is_rounded_or_guessed(read: Any, value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        read(value, {sentences: "prompt", whole: "seed", number: "guidance"}[read])


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    assert whole(np.int64(3), "seed") == whole(torch.tensor(3), "seed") == 3 and sentences("a", "prompt") == ["a"]
    assert number(np.float32(1.5), "guidance") == number(torch.tensor(1.5), "guidance") == 1.5


def test_one_value_serves_all_rows() -> None:
    assert rows("a red circle") == ["a red circle"] and rows("a", 3) == ["a", "a", "a"]
    assert rows(7, 2) == [7, 7] and rows([1, 2], 2) == [1, 2] and rows(range(2)) == [0, 1] and rows(("a", "b")) == ["a", "b"]
    assert [int(seed) for seed in rows(torch.tensor([3, 4]))] == [3, 4] and rows(torch.tensor(5), 2) == [5, 5]
    with pytest.raises(ValueError, match="prompt has 2 rows where the others have 3"):
        rows(["a", "b"], 3, "prompt")
