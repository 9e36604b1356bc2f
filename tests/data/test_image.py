"""Images of every kind that people have, and files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wanlab.data.folder import MediaError, load_image, read_image


def ramp(height: int = 12, width: int = 20) -> np.ndarray:
    """`h w 3` uint8, different in every pixel."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 20 % 256, columns * 12 % 256, (rows + columns) * 7 % 256], -1).astype(np.uint8)


def test_pixels_are_kept_without_a_size(tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a.png")
    image, notes = load_image(tmp_path / "a.png")
    assert image.shape == (3, 12, 20)
    assert image.dtype == torch.float32
    assert torch.equal((image * 255).round().byte(), torch.from_numpy(ramp()).permute(2, 0, 1))
    assert notes == ()


def test_a_size_crops_the_centre_and_resizes_smoothly(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 255  # the middle square
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert read_image(tmp_path / "wide.png", 16).min() > 0.99
    assert read_image(tmp_path / "wide.png", (10, 20)).shape == (3, 10, 20)
    lines = np.zeros((64, 64, 3), np.uint8)
    lines[::2] = 255  # finer than 16 rows can show
    Image.fromarray(lines).save(tmp_path / "lines.png")
    assert (read_image(tmp_path / "lines.png", 16)[:, 2:-2] - 0.5).abs().max() < 0.05


def test_sixteen_bits(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 100).astype(np.uint16).reshape(10, 10)
    Image.fromarray(values).save(tmp_path / "deep.png")
    image, notes = load_image(tmp_path / "deep.png")
    assert "16-bit grey" in notes
    torch.testing.assert_close(image[1], torch.from_numpy(values.astype(np.float32) / 65535))


def test_transparent_parts_are_laid_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, :3] = (255, 0, 0, 255)
    rgba[:, 3:, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    image, notes = load_image(tmp_path / "clear.png")
    assert image[:, 0, 0].tolist() == [1, 0, 0]
    assert image[:, 0, 5].tolist() == [1, 1, 1]
    assert any("white" in note for note in notes)


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("L", "png"), ("1", "png"), ("P", "gif"), ("LA", "png")])
def test_other_colour_spaces(tmp_path: Path, mode: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (16, 16), "white").convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (3, 16, 16)
    assert image.min() > 0.97


def test_floating_point_images(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 0.25, np.float32)).save(tmp_path / "f.tiff")
    assert torch.equal(read_image(tmp_path / "f.tiff"), torch.full((3, 4, 4), 0.25))
    Image.fromarray(np.full((4, 4), 7.0, np.float32)).save(tmp_path / "g.tiff")
    with pytest.raises(MediaError, match=r"g\.tiff.*outside"):
        read_image(tmp_path / "g.tiff")


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(ramp())
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    upright, notes = load_image(tmp_path / "turned.png")
    expected = np.rot90(ramp(), -1).copy()
    assert torch.equal((upright * 255).round().byte(), torch.from_numpy(expected).permute(2, 0, 1))
    assert any("EXIF" in note for note in notes)


def test_the_first_of_several_frames_is_taken_and_said(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    image, notes = load_image(tmp_path / "two.gif")
    assert image[0].min() > 0.9
    assert notes[0].startswith("2 frames")


def test_missing_names_the_nearest(tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "first_frame.png")
    with pytest.raises(MediaError, match=r"first_fame\.png: no such file; did you mean first_frame\.png\?"):
        read_image(tmp_path / "first_fame.png")
    with pytest.raises(MediaError, match="no folder"):
        read_image(tmp_path / "nowhere" / "a.png")


def test_truncated_empty_and_foreign_files_say_so(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for suffix in ("png", "jpg"):
        whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
        Image.fromarray(noise).save(whole)
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(MediaError, match=rf"cut\.{suffix}: truncated or corrupt"):
            read_image(cut)
    (tmp_path / "empty.png").touch()
    with pytest.raises(MediaError, match=r"empty\.png: the file is empty"):
        read_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("a letter, not a picture")
    with pytest.raises(MediaError, match=r"text\.png: not an image"):
        read_image(tmp_path / "text.png")
    with pytest.raises(MediaError, match="a folder, not an image"):
        read_image(tmp_path)


def test_one_pixel_grows_to_any_size(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), "white").save(tmp_path / "dot.png")
    assert read_image(tmp_path / "dot.png", 32).min() > 0.99
    with pytest.raises(ValueError, match="not positive"):
        read_image(tmp_path / "dot.png", 0)


def test_integers_of_32_bits_are_refused(tmp_path: Path) -> None:
    """Nothing says which of their values is white; they were read as white throughout."""
    Image.fromarray(np.full((4, 4), 3_000_000, np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(MediaError, match=r"deep.tif: .*32-bit integers.*8 or 16 bits"):
        load_image(tmp_path / "deep.tif")
