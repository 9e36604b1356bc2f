"""Maps of realness: every frame over its map, one scale for all, undecided in the middle of it."""

from __future__ import annotations

import numpy as np
import pytest

from wanlab.plots.realness import realness


def test_frames_stand_over_their_maps_on_one_scale() -> None:
    clip, logits = np.random.default_rng(0).random((6, 16, 16, 3)), np.linspace(-1, 3, 6 * 16).reshape(6, 4, 4)
    figure = realness({"true": (clip, logits), "made": (clip[:, :8, :8], -logits / 2)}, frames=3)
    images = [axes.images[0] for axes in figure.axes if axes.images and axes.images[0].get_array().ndim in (2, 3)]
    maps = [image for image in images if image.get_array().ndim == 2 and image.get_array().shape == (4, 4)]
    assert len(maps) == 2 * 3 and {image.get_clim() for image in maps} == {(-3.0, 3.0)}
    assert np.array_equal(maps[2].get_array(), logits[5]) and np.array_equal(maps[5].get_array(), -logits[5] / 2)
    middle = np.array(maps[0].cmap(0.5)[:3])
    assert np.ptp(middle) < 0.02, "undecided has no colour"


@pytest.mark.parametrize(("clips", "message"), [
    ({}, "at least one clip"),
    ({"a": (np.zeros((4, 8, 8, 3)), np.zeros((3, 2, 2)))}, r"a: a clip is f h w 3 and its map f h w, got \(4, 8, 8, 3\)"),
])  # fmt: skip
def test_what_is_no_clip_with_its_map_is_told(clips: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        realness(clips)
