"""The explorer without a browser: maps as bytes, what a page holds within its budget, figures, errors, foreign text."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wanlab.plots.explorer import Explorer, answer
from wanlab.plots.views import HIDDEN, TOP, Layer, Map, View, Views, colours, latent_frame, rgba

EVIL = '</script><img src=x onerror=alert(1)> & "red"'
SIDES = (3, 2, 4)


def heat(view: View) -> np.ndarray:
    """A map of two heads, or of the view's, that depends on all that it says; its last row cannot be attended to from a patch."""
    said = f"{view.layer} {view.step} {view.branch} {view.place} {view.word}"
    values = np.random.default_rng(list(said.encode())).random((2, *SIDES)).astype(np.float32)
    if view.word is None:
        values[:, :, -1] = np.nan
    return values if view.head is None else values[[view.head]]


def views(title: str = EVIL) -> Views:
    """Two layers of a video of five frames: one that reads words, one that does not."""
    video = np.random.default_rng(0).random((5, 16, 32, 3))
    layers = [Layer("a.attn", 2, (0, 1, 2, 3), ("cond", "uncond"), SIDES, SIDES),
              Layer("a.cross", 2, (0, 1, 2, 3), ("cond", "uncond"), SIDES, None, words=True)]
    return Views(video, layers, heat, {"cond": ["a", "<b>red</b>", "circle"], "uncond": []}, title)


def test_bytes_say_the_values_to_half_a_level() -> None:
    values = np.random.default_rng(1).random((2, 3, 4)) * 0.03
    values[0, 1, 2] = np.nan
    one = Map.of(values, word=False)
    seen = ~np.isnan(values)
    assert one.values.dtype == np.uint8 and one.high == np.nanmax(values) and one.total == pytest.approx(np.nansum(values))
    assert (one.values == HIDDEN).sum() == 1 and one.values[0, 1, 2] == HIDDEN and one.values[seen].max() == TOP
    assert np.abs(one.values[seen] / TOP * one.high - values[seen]).max() <= one.high / TOP / 2 + 1e-12


def test_a_map_of_zeros_or_of_nothing_is_a_map() -> None:
    assert Map.of(np.zeros((1, 2, 2)), word=True).values.max() == 0
    assert (Map.of(np.full((1, 2, 2), np.nan), word=False).values == HIDDEN).all()


def test_pixels_follow_one_scale() -> None:
    ramp, table = Map.of(np.array([[[0.0, 0.5, 1.0, np.nan]]]), word=False), colours()
    own, held = rgba(ramp, 1.0, table), rgba(ramp, 2.0, table)
    assert own[0, 0, 2, :3].tolist() == table[255].tolist() and own[0, 0, 3].tolist() == [0, 0, 0, 0]
    assert held[0, 0, 2].tolist() == own[0, 0, 1].tolist()            # half of the scale is the same colour in any map
    assert rgba(ramp, 0.5, table)[0, 0, 1:3, :3].tolist() == [table[255].tolist()] * 2


@pytest.mark.parametrize(("video", "frames", "found"), [
    (8, 8, [0, 1, 2, 3, 4, 5, 6, 7]), (9, 3, [0, 1, 1, 1, 1, 2, 2, 2, 2]), (8, 2, [0, 1, 1, 1, 1, 1, 1, 1]), (4, 1, [0, 0, 0, 0]),
    (8, 4, [0, 0, 1, 1, 2, 2, 3, 3])])
def test_frames_of_the_video_find_theirs_in_a_map(video: int, frames: int, found: list[int]) -> None:
    assert [latent_frame(frame, video, frames) for frame in range(video)] == found


@pytest.mark.parametrize(("change", "said"), [
    ({"layer": "a.atn"}, "no layer 'a.atn'; there are a.attn, a.cross"),
    ({"step": 9}, "holds no step 9; it has 0, 1, 2, 3"),
    ({"branch": None}, "holds no branch None; it has cond, uncond"),
    ({"head": 2}, "has 2 heads, no head 2"),
    ({"place": (3, 0, 0)}, r"has 3x2x4 patches .* is outside"),
    ({"word": "red"}, "carry no words"),
    ({"layer": "a.cross", "word": "green"}, "the prompt has no word 'green'; it has: a <b>red</b> circle"),
    ({"layer": "a.cross", "branch": "uncond", "word": "red"}, "none in this branch")])
def test_what_is_not_there_is_answered_with_what_is(change: dict[str, object], said: str) -> None:
    explorer = Explorer(views())
    before = explorer.view
    with pytest.raises(LookupError, match=re.escape(said) if "*" not in said else said):
        explorer.show(**change)
    assert explorer.view == before
    asked = {"place": None, **change} if "word" in change else change
    assert re.search(said, answer(explorer.views, before._replace(**asked), 7)["error"])  # so does the widget


def test_a_head_is_its_own_map_and_none_is_the_mean() -> None:
    shown, view = views(), View("a.attn", 1, "cond", 1, (0, 1, 2))
    assert np.array_equal(shown.map(view).values, Map.of(heat(view._replace(head=None))[1], False).values)
    mean = heat(view._replace(head=None)).astype(float).mean(0)
    assert shown.map(view._replace(head=None)).high == pytest.approx(np.nanmax(mean))


def test_no_head_is_computed_twice_or_for_nothing() -> None:
    asked: list[View] = []
    shown, view = views(), View("a.attn", 1, "cond", None, (0, 1, 2))
    shown.heat = lambda view: asked.append(view) or heat(view)      # type: ignore[func-returns-value]
    maps = [shown.map(view._replace(head=head)) for head in (None, 1, 0, 1)]
    assert len(asked) == 1 and np.array_equal(maps[1].values, maps[3].values) and not np.array_equal(maps[1].values, maps[2].values)
    alone = [shown.map(view._replace(head=head, step=2)) for head in (1, 1, 0)]
    assert [one.head for one in asked] == [None, 1, 0]
    assert np.array_equal(alone[0].values, alone[1].values)
    assert np.array_equal(alone[2].values, shown.map(view._replace(head=0, step=2)).values)
    assert np.array_equal(shown.map(view._replace(head=1)).values, maps[1].values)


def test_the_widget_answers_a_view_with_one_map_of_bytes() -> None:
    pytest.importorskip("anywidget")
    explorer = Explorer(views())
    widget = explorer.widget
    widget.view = {**widget.view, "step": 3, "head": 1, "place": [2, 0, 1], "id": 5}          # as the page sets it
    expected = explorer.views.map(View("a.attn", 3, "cond", 1, (2, 0, 1)))
    assert widget.answer["id"] == 5 and widget.answer["values"] == expected.values.tobytes()
    assert explorer.view == View("a.attn", 3, "cond", 1, (2, 0, 1))
    explorer.show(layer="a.cross", word="circle")
    assert widget.view["word"] == "circle" and widget.answer["sides"] == list(SIDES)
    sent = {name for name in widget.traits(sync=True) if not name.startswith("_")} - {"layout", "tabbable", "tooltip"}
    assert sent == {"setup", "view", "answer"} and len(widget.answer["values"]) == np.prod(SIDES)


def test_what_a_notebook_keeps_shows_a_picture_without_a_kernel() -> None:
    """Beside the widget, of which a viewer without a kernel knows nothing; and the text is the same in every session."""
    pytest.importorskip("anywidget")
    from IPython.core.formatters import DisplayFormatter

    explorer = Explorer(views("a red circle")).show(step=3, head=1)
    data, _ = DisplayFormatter().format(explorer)
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["text/plain"] == "Explorer: a.attn · step 3, cond · head 1 · patch 2, 2, 3 of 3x2x4"
    drawn = np.asarray(Image.open(io.BytesIO(data["image/png"])).convert("RGB")).astype(int)
    assert np.ptp(drawn, -1).max() > 60 and drawn.shape[1] >= 700 and len(data["image/png"]) < 60_000


def test_without_the_widget_a_notebook_shows_the_picture_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    data, _ = Explorer(views())._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG") and "pip install 'wanlab[notebook]'" in data["text/plain"]


def test_a_page_within_its_budget_has_everything(tmp_path: Path) -> None:
    page = Explorer(views()).to_html(tmp_path / "page.html")
    assert page.dropped == () and page.size == (tmp_path / "page.html").stat().st_size
    data = told(page.path)
    assert len(data["sheets"]) == 2 * 4 * 2 * 3 and data["setup"]["note"] == ""


def test_a_page_over_its_budget_says_what_it_left_out(tmp_path: Path) -> None:
    explorer = Explorer(views()).show(step=1, branch="uncond", head=1)
    whole = explorer.to_html(tmp_path / "whole.html").size
    with pytest.warns(UserWarning, match="left out steps 0, 2"):
        page = explorer.to_html(tmp_path / "page.html", budget_mb=(whole - 2500) / 1e6)
    assert page.size <= whole - 2500 and page.dropped[0] == "steps 0, 2" and "steps 0, 2" in str(page)
    data = told(page.path)
    (held,) = (layer for layer in data["setup"]["layers"] if layer["name"] == "a.attn")
    assert held["steps"] == [1, 3] and "steps 0, 2" in data["setup"]["note"] and "a.attn|1|uncond|1" in data["sheets"]
    with pytest.raises(ValueError, match=r"not even the map that is shown fits into 0\.001 MB"):
        explorer.to_html(tmp_path / "none.html", budget_mb=0.001)
    assert not (tmp_path / "none.html").exists()


def test_foreign_text_is_no_markup(tmp_path: Path) -> None:
    text = Explorer(views()).to_html(tmp_path / "page.html").path.read_text()
    assert "<img" not in text and "<b>red" not in text and text.count("</script>") == 2
    assert "&lt;/script&gt;" in text and told(tmp_path / "page.html")["setup"]["title"] == EVIL
    assert not re.search(r"<[a-z][^>]* (src|href)=|https?://", text)     # nothing from outside


def told(path: Path) -> dict[str, dict]:
    """The data of a page."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(data)


@pytest.mark.parametrize("change", [{"place": (1, 0, 2)}, {"layer": "a.cross", "word": "<b>red</b>"}])
def test_the_figure_shows_each_frame_and_its_heat(change: dict[str, object]) -> None:
    figure = Explorer(views("$x_{")).show(**change).figure()
    figure.canvas.draw()
    assert [axes.get_label() for axes in figure.axes].index("scale") == 2 * 5
    drawn = np.ma.filled(figure.axes[5].images[1].get_array(), np.nan)
    shown = Explorer(views()).show(**change)
    one = shown.views.map(shown.view)
    assert np.nanmax(np.abs(drawn - np.where(one.values[0] == HIDDEN, np.nan, one.values[0] / TOP * one.high))) < 1e-6
    assert sum(len(axes.patches) for axes in figure.axes) == (2 if "place" in change else 0)   # two of five frames are the second's
