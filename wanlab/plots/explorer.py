"""The explorer: a video with heat over it, as a widget in a notebook, a page without a kernel, or a figure."""

from __future__ import annotations

import io
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wanlab.plots.views import HIDDEN, TOP, Layer, View, Views, colours, latent_frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from wanlab.plots.page import Page

HERE = Path(__file__).parent
LARGEST = 512       # pixels of a frame's longer side; frames are for looking at, heat is exact


class Explorer:
    """Shown in a notebook: sliders and keys for frame, step, branch, layer and head; a click on a patch shows what it attends to
    in every frame, a click on a word where it is read. The maps stay in Python; a change sends one of them, as uint8.

    `view` is what is shown. Without the extra `notebook`, `figure()` and `to_html()` work, and a notebook shows the figure.
    """

    def __init__(self, views: Views) -> None:
        self.views, self._view = views, views.start()

    @property
    def view(self) -> View:
        """What is shown now."""
        return _view(self.widget.view) if "widget" in self.__dict__ else self._view

    def show(self, **change: Any) -> Explorer:
        """Show something else: layer, step, branch, head (None: the mean), place (frame, h, w) or word.

        LookupError says what there is.
        """
        if "place" in change or "word" in change:
            change = {"place": None, "word": None, **change}
        view = self.view._replace(**change)
        self.views.check(view)
        self._view = view
        if "widget" in self.__dict__:
            self.widget.view = {**view._asdict(), "id": self.widget.view["id"] + 1}
        return self

    @cached_property
    def widget(self) -> Any:
        """The anywidget. ImportError says what to install."""
        try:
            import anywidget  # noqa: F401
        except ImportError as error:
            raise ImportError("the explorer in a notebook needs anywidget: pip install 'wanlab[notebook]'; without it "
                              "explorer.to_html(path) and explorer.figure() work") from error
        from wanlab.plots.widget import Canvas

        return Canvas(self.views, self._view)

    def __repr__(self) -> str:
        return f"Explorer: {caption(self.view, self.views.layer(self.view.layer))}"

    def _repr_mimebundle_(self, **asked: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The widget, and beside it the figure, which is what a kept notebook shows where there is no kernel."""
        still = {"text/plain": repr(self), "image/png": self._picture()}
        try:
            data, about = self.widget._repr_mimebundle_(**asked)
        except ImportError as error:
            return {**still, "text/plain": str(error)}, {}
        return {**data, **still}, about

    def _picture(self) -> bytes:
        """The figure as a small PNG."""
        from PIL import Image

        drawn, packed = io.BytesIO(), io.BytesIO()
        self.figure().savefig(drawn, format="png", dpi=130)
        Image.open(drawn).convert("RGB").quantize(128).save(packed, "PNG", optimize=True)
        return packed.getvalue()

    def to_html(self, path: str | Path, budget_mb: float = 20) -> Page:
        """One page without kernel or network: maps as bytes within `budget_mb` (1e6 bytes), beginning with what is shown now.

        What the budget has no room for is left out: steps, then branches, heads and layers, at last patches that can be asked;
        the page and what is returned say so. ValueError where one map does not fit.
        """
        from wanlab.plots.page import write

        return write(self.views, self.view, Path(path), int(budget_mb * 1e6))

    def figure(self, width: float = 5.5, frames: int = 8) -> Figure:
        """What is shown now as a figure: frames of the video, and below them the heat; the patch that is asked is framed."""
        from wanlab.plots.attention import overlay
        from wanlab.plots.heat import framed

        view, layer = self.view, self.views.layer(self.view.layer)
        one = self.views.map(view)
        heat = np.where(one.values == HIDDEN, np.nan, one.values / TOP * one.high)
        count = len(self.views.video)
        spread = np.stack([heat[latent_frame(frame, count, len(heat))] for frame in range(count)])
        if len(heat) == 1:
            spread[1:] = np.nan                         # of the conditioning image alone
        name = "heat" if view.word is None else f"“{view.word}”"
        figure = overlay(self.views.video, {name: spread}, width, frames, caption(view, layer))
        shown = np.unique(np.linspace(0, count - 1, min(frames, count)).round().astype(int))
        if view.place is not None:
            f, h, w = view.place
            for axes, frame in zip(figure.axes, shown, strict=False):
                if latent_frame(int(frame), count, layer.sides[0]) == f and (layer.sides[0] > 1 or frame == 0):
                    framed(axes, (h, w), layer.sides[1:], 1.0)
        return figure


def caption(view: View, layer: Layer) -> str:
    """A view in words."""
    head = "mean of heads" if view.head is None else f"head {view.head}"
    sides = "x".join(map(str, layer.sides))
    asked = f"“{view.word}”" if view.place is None else f"patch {', '.join(str(at + 1) for at in view.place)} of {sides}"
    moment = ", ".join(str(part) for part in (None if view.step is None else f"step {view.step}", view.branch) if part is not None)
    return " · ".join(part for part in (view.layer, moment, head, asked) if part)


def setup(views: Views, layers: list[dict[str, Any]] | None = None, note: str = "") -> dict[str, Any]:
    """What a page or widget is told once. layers: as plain data with `kept` (heads) and `places` (that can be asked; None: all)."""
    shown = layers or [{**layer.told(), "kept": list(range(layer.heads)), "places": None} for layer in views.layers]
    words = {"null" if branch is None else branch: list(told) for branch, told in views.words.items()}
    return {"title": views.title, "frames": pictures(views.video), "fps": 4 if len(views.video) < 24 else 12, "layers": shown,
            "words": words, "colours": colours().tobytes(), "note": note}


def pictures(video: np.ndarray) -> list[bytes]:
    """The frames as JPEG files, at most LARGEST pixels long."""
    from PIL import Image

    files = []
    for frame in (video.clip(0, 1) * 255 + 0.5).astype(np.uint8):
        image, file = Image.fromarray(frame), io.BytesIO()
        image.thumbnail((LARGEST, LARGEST))
        image.save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def answer(views: Views, view: View, number: int) -> dict[str, Any]:
    """The answer to a view as what is sent: one uint8 map; where there is none, why."""
    try:
        one = views.map(view)
    except LookupError as error:
        return {"id": number, "error": str(error.args[0]) if error.args else str(error)}
    return {"id": number, "values": one.values.tobytes(), "sides": list(one.values.shape), "high": one.high, "total": one.total}


def _view(asked: dict[str, Any]) -> View:
    held = {name: asked.get(name) for name in View._fields}
    return View(**{**held, "place": None if held["place"] is None else tuple(held["place"])})
