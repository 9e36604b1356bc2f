"""Figures: exact sizes, equal bytes, nothing left behind in matplotlib."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from wanlab.plots import COLOURS, Effect, Point, Window, cost, forest, heatmap, save, strip, styled, windows
from wanlab.plots.cost import front
from wanlab.plots.forest import pages as forest_pages
from wanlab.plots.style import MARKERS, PAGE, SERIES
from wanlab.plots.text import alike, inches, short, shortened
from wanlab.plots.windows import style_of

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


def test_values_against_the_baseline_are_drawn_as_values() -> None:
    far = [Effect(f"c{i}", "psnr", 30.0 + i, 29.0 + i, 31.0 + i, False, "higher", (35.0,), apart=True) for i in range(3)]
    assert {e.kind for e in far} == {"apart"}
    figure = forest(far)
    assert figure.axes[0].get_xlim()[0] > 20 and "value against baseline" in figure.legends[0].get_title().get_text()
    tiles = {("a", str(i)): [effect] for i, effect in enumerate(far)}
    drawn = heatmap(tiles, "row", "column")
    assert {text.get_text() for text in drawn.axes[0].texts} >= {"30", "31", "32"}
    assert any("value against baseline" in text.get_text() for text in drawn.texts)
    mixed = forest([*far, *EFFECTS[:2]])
    assert "difference to, or value against, baseline" in mixed.legends[0].get_title().get_text()
    curve = windows({"a": [Window(effect, i, i + 1) for i, effect in enumerate(far)]})
    assert curve.axes[0].get_ylim()[0] > 20 and "value against baseline" in curve.legends[0].get_title().get_text()


def grid() -> dict[tuple[str, str], list[Effect]]:
    """Three layers by two windows: a hole, a NaN, both directions, one metric without."""
    nothing = float("nan")
    tiles = {(f"layer {row}", f"{2 * column}:{2 * column + 2}"): (row, column) for row in range(3) for column in range(2)}
    made = {
        place: [
            Effect("c", "fvd", row - column, row - column - 1, row - column + 1, row > 1, "lower"),
            Effect("c", "motion_magnitude", nothing if row == 1 else 0.1, nothing, nothing, row == 2),
        ]
        for place, (row, column) in tiles.items()
    }
    made["layer 0", "2:4"] = []
    return made


def curves() -> dict[str, list[Window]]:
    windows = [(0, 4), (4, 8), (None, None)]
    return {name: [Window(e, *window) for window in windows for e in EFFECTS[:2]] for name in ("temporal", "a $x^ series")}


def points() -> list[Point]:
    costs = {"baseline": (2.0, 10.0), "few steps": (1.0, 8.0), "many steps": (16.0, 11.0), "a $x^ cell": (3.0, 9.0)}
    return [Point(name, m, s, v, v - 1, v + 1, "higher") for name, (s, v) in costs.items() for m in ("psnr", "ssim")]


FIGURES = {
    "forest": lambda width: forest(EFFECTS, width),
    "heatmap": lambda width: heatmap(grid(), "layer", "window", width),
    "windows": lambda width: windows(curves(), width),
    "cost": lambda width: cost(points(), width),
    "strip": lambda width: strip({"a": np.random.default_rng(0).random((8, 16, 16, 3)), "b $x^": np.zeros((8, 9, 16, 3))}, width),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_have_their_width_true_type_fonts_and_equal_bytes(tmp_path: Path, name: str) -> None:
    figure = FIGURES[name](3.25)
    pages = [save(figure, tmp_path / "0.pdf"), save(figure, tmp_path / "1.pdf"), save(FIGURES[name](3.25), tmp_path / "2.pdf")]
    first, again, other = (page.read_bytes() for page in pages)
    assert first == again == other and b"/Type3" not in first and b"/FontFile2" in first and b"CreationDate" not in first
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", first)
    assert box is not None and float(box[1]) == pytest.approx(72 * 3.25)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_equal_figures_have_equal_bytes(tmp_path: Path, kind: str) -> None:
    one, two = (save(heatmap(grid(), "layer", "window"), tmp_path / f"{i}.{kind}").read_bytes() for i in range(2))
    assert one == two and len(one) > 1000


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("width", [5.5, 3.25])
def test_no_text_leaves_the_page_or_lies_on_other_text(name: str, width: float, monkeypatch: pytest.MonkeyPatch) -> None:
    figure, drawn = FIGURES[name](width), set()
    draw = Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (drawn.add(text), draw(text, renderer))[1])
    FigureCanvasAgg(figure).draw()
    boxes = {text.get_text(): text.get_window_extent() for text in drawn if text.get_text().strip() and text.get_visible()}
    assert len(boxes) > 5
    for words, box in boxes.items():
        inside = box.x0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y0 >= -1 and box.y1 <= figure.bbox.height + 1
        assert inside, words
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        assert min(min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)) <= 2.0, (one, other)


def test_the_palette_is_told_apart_without_red_green_or_blue() -> None:
    """Under each dichromacy (Vienot 1999, Brettel 1997 simplified, in linear light) no two series look alike."""
    simulations = {
        "protan": [[0.112, 0.888, 0.0], [0.112, 0.888, 0.0], [0.004, -0.004, 1.0]],
        "deutan": [[0.292, 0.708, 0.0], [0.292, 0.708, 0.0], [-0.022, 0.022, 1.0]],
        "tritan": [[1.014, 0.145, -0.159], [0.014, 0.868, 0.118], [0.009, 0.86, 0.131]],
    }
    for matrix in simulations.values():
        for group in (SERIES[:4], [COLOURS[kind] for kind in ("worse", "better", "changed")]):
            seen = [np.array(matrix) @ _linear(colour) for colour in group]
            for one, other in itertools.combinations(seen, 2):
                assert np.abs(one - other).max() > 0.08
    assert len({MARKERS[kind] for kind in ("worse", "better", "changed", "unclear")}) == 4
    styles = [style_of(number) for number in range(len(SERIES))]
    assert len({(style["marker"]) for style in styles}) == len(SERIES)


def _linear(colour: str) -> np.ndarray:
    """A colour in linear light."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def test_a_forest_cuts_off_what_lies_far_beyond_and_says_its_number() -> None:
    near = [Effect(f"c{i}", "m", 0.1 * i, 0.1 * i - 0.1, 0.1 * i + 0.1, False) for i in range(6)]
    figure = forest([*near, Effect("far", "m", 4e6, 3e6, 5e6, True, "lower")])
    (panel,) = figure.axes
    assert panel.get_xlim()[1] < 2 and "+4.0e6" in [text.get_text() for text in panel.texts]
    assert len(forest(near).axes[0].texts) == 0


def test_pages_of_a_forest_hold_every_effect_once() -> None:
    effects = [Effect(f"c{i}", f"m{j}", 0.1, 0, 0.2, False) for i in range(90) for j in range(5)]
    pages = list(forest_pages(effects, 5.5))
    assert sorted((e.cell, e.metric) for page in pages for e in page) == sorted((e.cell, e.metric) for e in effects)
    assert len(pages) > 2 and forest(pages[0]).get_figheight() <= PAGE + 0.3


def test_the_front_is_what_nothing_beats() -> None:
    chance = np.random.default_rng(3)
    for better in ("higher", "lower"):
        some = [Point(str(i), "m", *chance.integers(1, 9, 2).astype(float), 0, 0, better) for i in range(30)]
        sign = 1 if better == "higher" else -1
        kept = front(some)
        for p in some:
            beaten = any(q.seconds <= p.seconds and sign * q.value >= sign * p.value and
                         (q.seconds, q.value) != (p.seconds, p.value) for q in some)  # fmt: skip
            assert ((p.seconds, p.value) in {(k.seconds, k.value) for k in kept}) == (not beaten)
    assert front([Point("a", "m", 1.0, 1.0, 0, 0, "none")]) == []


def test_a_small_difference_that_is_significant_is_not_written_as_none() -> None:
    found = {("a", "x"): (1.5, True), ("a", "y"): (0.031, True), ("b", "x"): (0.002, False), ("b", "y"): (-1.2, True)}
    tiles = {place: [Effect("c", "lpips", x, x - 0.01, x + 0.01, sure, "lower")] for place, (x, sure) in found.items()}
    with styled():
        written = [text.get_text() for panel in heatmap(tiles, "row", "column").axes for text in panel.texts]
    assert "+.03▼" in written and "0▼" not in written


def test_names_are_shortened_to_fit_and_numbers_stay_short() -> None:
    for room in (0.3, 0.8, 2.0):
        assert inches(shortened("generator.up.1.temporal.attn.z", room, 6.5), 6.5) <= room
    assert shortened("short", 2.0, 6.5) == "short" and "…" in shortened("x" * 200, 1.0, 6.5)
    numbers = (0.0, -0.0, 0.0123, -3.456, 1234.5, 1.2e6, -1e-7, float("nan"))
    assert [short(x) for x in numbers] == ["0", "0", ".012", "−3.5", "1234", "1.2e6", "−1.0e-7", "–"]
    assert [alike(x, 7.3, sign=True) for x in (7.3, 0.084, -0.0001)] == ["+7.3", "+.1", "0"]


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
    for empty in (lambda: heatmap({}, "a", "b"), lambda: windows({}), lambda: cost([])):
        with pytest.raises(ValueError, match="at least one"):
            empty()
    with pytest.raises(ValueError, match="not 'gif'"):
        save(forest(EFFECTS), Path("x.gif"))
