"""Film strips with the heat of a feature: sizes, order, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest

from wanlab.plots.patches import patches


def row(words: str = "a red circle moves left", frames: int = 8, grid: int = 4) -> tuple:
    draw = np.random.default_rng(0)
    heat = draw.random((frames, grid, grid))
    return words, draw.random((frames, 16, 16, 3)), heat, tuple(int(one) for one in np.unravel_index(heat.argmax(), heat.shape))


def test_each_clip_has_its_words_its_frames_and_its_heat() -> None:
    figure = patches([row(), row("a very long prompt " * 12)], width=4.0)
    assert figure.get_size_inches()[0] == 4.0 and len(figure.axes) == 2 * 2 * 8 + 1
    told = [text.get_text() for text in figure.texts]
    assert "a red circle moves left" in told and any(text.startswith("a very long") and "…" in text for text in told)
    framed = [axes for axes in figure.axes if axes.patches]
    assert len(framed) == 2, "the strongest patch of each clip, once"
    figure.savefig(io.BytesIO(), format="png")


def test_of_a_long_clip_the_frame_of_the_patch_is_always_shown() -> None:
    words, clip, heat, _ = row(frames=30)
    figure = patches([(words, clip, heat, (13, 0, 0))])
    assert len(figure.axes) == 16 + 1 and "14" in [text.get_text() for text in figure.texts]
    assert len([axes for axes in figure.axes if axes.patches]) == 1


def test_single_pictures_stand_beside_each_other() -> None:
    figure = patches([row(frames=1) for _ in range(4)], width=4.0)
    wide, tall = figure.get_size_inches()
    assert wide == 4.0 and tall < 2.5 and len(figure.axes) == 8 + 1


@pytest.mark.parametrize("frames", [1, 8])
def test_the_common_scale_is_told(frames: int) -> None:
    weak = row(frames=frames)
    strong = (weak[0], weak[1], 4.6 * weak[2] / weak[2].max(), weak[3])
    figure = patches([weak, strong])
    told = [text.get_text() for text in figure.texts]
    assert {"0", "4.6", "up to 4.6", f"up to {weak[2].max():.2g}"} <= set(told)
    drawn = [axes.images[1].get_clim() for axes in figure.axes if len(axes.images) > 1]
    assert len(drawn) == 2 * frames + 1 and all(np.allclose(one, (0, 4.6)) for one in drawn)


def test_other_shapes_are_told() -> None:
    words, clip, heat, place = row()
    with pytest.raises(ValueError, match="at least one clip"):
        patches([])
    with pytest.raises(ValueError, match=r"got \(8, 16, 16, 3\) and \(5, 4, 4\)"):
        patches([(words, clip, heat[:5], place)])
