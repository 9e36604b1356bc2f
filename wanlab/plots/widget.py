"""The explorer as an anywidget: the page asks for a view, Python answers with one uint8 map."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import anywidget
import traitlets

from wanlab.plots.explorer import HERE, _view, answer, setup
from wanlab.plots.views import View, Views


class Canvas(anywidget.AnyWidget):
    """`setup` is sent once; `view` is set by the page (or by Python), `answer` follows it, and says what it took (`spent`, ms).

    The page is not told back what it said (echo_update): that would stand in line before the answer.
    """

    _esm = (HERE / "explorer.js").read_text(encoding="utf-8")
    _css = (HERE / "explorer.css").read_text(encoding="utf-8")
    setup = traitlets.Dict().tag(sync=True)
    view = traitlets.Dict().tag(sync=True, echo_update=False)
    answer = traitlets.Dict().tag(sync=True)

    def __init__(self, views: Views, start: View) -> None:
        self._views = views
        first = {**start._asdict(), "id": 0}
        super().__init__(setup=setup(views), view=first, answer=answer(views, start, 0))

    @traitlets.observe("view")
    def _asked(self, change: Any) -> None:
        asked = change["new"]
        if asked and hasattr(self, "_views") and asked.get("id") != self.answer.get("id"):
            began = perf_counter()
            found = answer(self._views, _view(asked), asked["id"])
            self.answer = {**found, "spent": 1e3 * (perf_counter() - began)}
