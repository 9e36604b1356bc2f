"""Figures: exact sizes, equal bytes, nothing left behind in matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wanlab.plots import Effect, forest, save, strip, styled

EFFECTS = [
    Effect("text", "motion_accuracy", -0.5, -0.6, -0.4, True, "higher"),
    Effect("text", "lpips", 0.1, 0.05, 0.15, True, "lower"),
    Effect("gan_head", "motion_accuracy", 0.0, -0.1, 0.1, False, "higher"),
    Effect("gan_head", "lpips", -0.1, -0.2, -0.01, True, "lower"),
    Effect("a $x^ cell", "sharpness", float("nan"), float("nan"), float("nan"), False),
]


def test_effects_know_their_direction() -> None:
    assert [e.kind for e in EFFECTS] == ["worse", "worse", "unclear", "better", "unclear"]
    assert Effect("a", "m", 1, 0.5, 1.5, True, "none").kind == "changed"


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_equal_figures_have_equal_bytes(tmp_path: Path, kind: str) -> None:
    one, two = (save(forest(EFFECTS[:4]), tmp_path / f"{i}.{kind}").read_bytes() for i in range(2))
    assert one == two and len(one) > 1000


def test_the_style_ends_with_its_context() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    with styled():
        assert matplotlib.rcParams["pdf.fonttype"] == 42
    assert dict(matplotlib.rcParams) == before


def test_a_strip_shows_pixels_as_they_are(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    clips = {"true clip": rng.random((8, 64, 64, 3)), "a_b $c": rng.random((5, 32, 32, 3))}
    path = save(strip(clips, title="<b> $x"), tmp_path / "strip.png")
    with Image.open(path) as image:
        page = np.asarray(image.convert("RGB")).astype(int)
    wanted = (clips["true clip"][0] * 255).round().astype(int)
    corner = np.abs(page[:, :, :] - wanted[0, 0]).sum(-1)
    found = [(y, x) for y, x in zip(*np.nonzero(corner <= 3)) if _same(page, y, x, wanted)]
    assert found, "the first frame stands somewhere on the page, pixel for pixel"


def _same(page: np.ndarray, y: int, x: int, wanted: np.ndarray) -> bool:
    """Whether `wanted` stands at (y, x), each of its pixels as a block of k x k."""
    for k in (1, 2, 3, 4):
        part = page[y : y + 64 * k : k, x : x + 64 * k : k]
        if part.shape == wanted.shape and np.abs(part - wanted).max() <= 1:
            return True
    return False


def test_wrong_input_is_told() -> None:
    with pytest.raises(ValueError, match="at least one effect"):
        forest([])
    with pytest.raises(ValueError, match="at least one clip"):
        strip({})
    with pytest.raises(ValueError, match="a: a clip is f h w 3"):
        strip({"a": np.zeros((3, 4, 5))})
    with pytest.raises(ValueError, match="not 'gif'"):
        save(forest(EFFECTS), Path("x.gif"))
