"""Figures of attention show what they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wanlab.plots.attention import heads, overlay, profiles
from wanlab.plots.save import save


def test_heads_have_their_numbers_and_labels() -> None:
    values = np.array([[0.1, np.nan], [0.9, 2.0]])
    figure = heads(values, ["a 0", "a 1"], ["first_frame", "entropy"], ["spatial", "sink"])
    texts = [text.get_text() for text in figure.get_axes()[0].texts]
    assert texts == ["0.10", "–", "0.90", "2.00", "spatial", "sink"]


def test_heat_lies_over_every_frame_on_one_scale_a_row(tmp_path: Path) -> None:
    clip, heat = np.random.default_rng(0).random((4, 8, 8, 3)), np.random.default_rng(1).random((4, 2, 2))
    figure = overlay(clip, {"red": heat, "left": 3 * heat}, caption="step 3")
    pictures = [axes.get_images() for axes in figure.get_axes() if axes.get_label() != "scale"]
    assert len(pictures) == 12 and [len(one) for one in pictures] == [1] * 4 + [2] * 8
    assert all(one[1].get_clim() == (0, heat.max()) for one in pictures[4:8])
    assert np.array_equal(pictures[5][1].get_array(), heat[1])
    told = [text.get_text() for text in figure.texts]
    assert {"0", f"{heat.max():.2g}", f"{3 * heat.max():.2g}", "step 3"} <= set(told)
    assert save(figure, tmp_path / "a.png").read_bytes() == save(overlay(clip, {"red": heat, "left": 3 * heat}, caption="step 3"),
                                                                 tmp_path / "b.png").read_bytes()
    with pytest.raises(ValueError, match=r"red: heat is frames h w with 4 frames, got \(3, 2, 2\)"):
        overlay(clip, {"red": heat[:3]})


def test_one_place_among_places_that_cannot_be_attended_to_is_seen() -> None:
    """In temporal attention a patch sees its own place alone; what is drawn there must not be lost among the NaNs around it."""
    heat = np.full((2, 8, 8), np.nan)
    heat[:, 3, 4] = [0.5, 1.0]
    figure = overlay(np.full((2, 16, 16, 3), 0.5), {"heat": heat})
    for frame, value in enumerate(heat[:, 3, 4]):
        drawn = pixels(figure, 2 + frame)
        h, w = (np.array(drawn.shape[:2]) * (3.5, 4.5) / 8).astype(int)
        grey = np.full(3, 0.35 + 0.65 * 0.5)
        expected = 0.65 * np.array(colormaps["inferno"](value)[:3]) + 0.35 * grey
        assert np.allclose(drawn[h, w] / 255, expected, atol=0.01) and np.allclose(drawn[h, w // 2] / 255, grey, atol=0.01)


def test_a_scale_has_the_colours_that_heat_has_on_middle_grey() -> None:
    values = np.linspace(0, 2, 16).reshape(1, 4, 4)
    figure = overlay(np.full((1, 16, 16, 3), 0.5), {"heat": values})
    heat, ramp = pixels(figure, 1), pixels(figure, 2)
    low, high = ramp[-1, len(ramp[0]) // 2], ramp[0, len(ramp[0]) // 2]
    tile = np.array(heat.shape[:2]) // 8
    assert np.abs(heat[tile[0], tile[1]] - low).max() < 12 and np.abs(heat[-tile[0], -tile[1]] - high).max() < 12


def pixels(figure: Figure, at: int) -> np.ndarray:
    """What is drawn in one of a figure's axes, h w 3 from 0 to 255."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    whole = np.asarray(canvas.buffer_rgba())[..., :3].astype(float)
    box = figure.axes[at].get_window_extent()
    top = len(whole) - box.y1
    return whole[round(top): round(top + box.height), round(box.x0): round(box.x1)]


def test_profiles_share_a_scale() -> None:
    values = np.random.default_rng(0).random((5, 3, 3))
    figure = profiles(values, [f"head {i}" for i in range(5)])
    shown = [axes for axes in figure.get_axes() if axes.get_images() and axes.get_title(loc="center")]
    assert [axes.get_title(loc="center") for axes in shown] == [f"head {i}" for i in range(5)]
    assert {axes.get_images()[0].get_clim() for axes in shown} == {(0, values.max())}
