"""Figures of attention show what they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wanlab.plots.attention import heads, overlay, profiles
from wanlab.plots.save import save


def test_heads_have_their_numbers_and_labels() -> None:
    values = np.array([[0.1, np.nan], [0.9, 2.0]])
    figure = heads(values, ["a 0", "a 1"], ["first_frame", "entropy"], ["spatial", "sink"])
    texts = [text.get_text() for text in figure.get_axes()[0].texts]
    assert texts == ["0.10", "–", "0.90", "2.00", "spatial", "sink"]


def test_heat_lies_over_every_frame_on_one_scale_a_row(tmp_path: Path) -> None:
    clip, heat = np.random.default_rng(0).random((4, 8, 8, 3)), np.random.default_rng(1).random((4, 2, 2))
    figure = overlay(clip, {"red": heat, "left": 3 * heat})
    pictures = [axes.get_images() for axes in figure.get_axes()]
    assert len(pictures) == 12 and [len(one) for one in pictures] == [1] * 4 + [2] * 8
    assert all(one[1].get_clim() == (0, heat.max()) for one in pictures[4:8])
    assert np.array_equal(pictures[5][1].get_array(), heat[1])
    assert f"0 to {3 * heat.max():.2g}" in [text.get_text() for text in figure.texts]
    assert save(figure, tmp_path / "a.png").read_bytes() == save(overlay(clip, {"red": heat, "left": 3 * heat}),
                                                                 tmp_path / "b.png").read_bytes()
    with pytest.raises(ValueError, match=r"red: heat is frames h w with 4 frames, got \(3, 2, 2\)"):
        overlay(clip, {"red": heat[:3]})


def test_profiles_share_a_scale() -> None:
    values = np.random.default_rng(0).random((5, 3, 3))
    figure = profiles(values, [f"head {i}" for i in range(5)])
    shown = [axes for axes in figure.get_axes() if axes.get_images() and axes.get_title(loc="center")]
    assert [axes.get_title(loc="center") for axes in shown] == [f"head {i}" for i in range(5)]
    assert {axes.get_images()[0].get_clim() for axes in shown} == {(0, values.max())}
