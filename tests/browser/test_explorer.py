"""The explorer in a browser: a page without a kernel, and the widget in JupyterLab; pixels are those that Python computes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page

from tests.browser.chromium import until
from tests.browser.conftest import Open
from tests.browser.laboratory import executed, laboratory
from tests.plots.test_explorer import EVIL, SIDES, views
from wanlab.plots.explorer import Explorer
from wanlab.plots.views import View, colours, latent_frame, rgba

pytestmark = pytest.mark.browser

SHOWN = "document.querySelector('.wx-explorer')?.dataset.shown"
START = View("a.attn", 2, "cond", None, (1, 1, 2))
DRAWN = """(() => { const c = document.querySelector('.wx-heat'), copy = new OffscreenCanvas(c.width, c.height);
    const seen = copy.getContext('2d', {willReadFrequently: true}); seen.drawImage(c, 0, 0);
    return [...seen.getImageData(0, 0, c.width, c.height).data]; })()"""


@pytest.fixture
def page(new_tab: Open, tmp_path: Path) -> Page:
    """The static page of two layers."""
    page = new_tab(Explorer(views()).to_html(tmp_path / "page.html").path, 944)
    until(page, SHOWN)
    page.locator(".wx-explorer").focus()                            # once: keys must then work wherever one has clicked
    return page


def same(page: Page, view: View, frame: int, scale: float | None = None) -> None:
    """Wait until the overlay has the pixels that Python computes for a view in a frame of the video; colours within 1 of 255
    where alpha is (a canvas keeps them multiplied by it), alpha exact."""
    one = views().map(view)
    expected = rgba(one, scale or one.high, colours())[latent_frame(frame, 5, SIDES[0])].astype(int)
    deadline = time.monotonic() + 30
    while True:
        drawn = np.array(page.evaluate(DRAWN))
        if drawn.size == expected.size:
            drawn = drawn.reshape(expected.shape)
            near = np.abs(drawn[..., :3] - expected[..., :3]).max() <= 2
            if near and (drawn[..., 3] == expected[..., 3]).all():
                return
        assert time.monotonic() < deadline, f"{view}, frame {frame}: drawn\n{drawn}\nexpected\n{expected}"
        time.sleep(0.05)


def at(page: Page, x: float, y: float) -> None:
    """A click at a fraction of the picture's width and height."""
    stage = page.locator(".wx-stage")
    box = stage.bounding_box()
    assert box is not None
    stage.click(position={"x": x * box["width"], "y": y * box["height"]})


def test_a_click_on_a_patch_paints_what_it_attends_to(page: Page) -> None:
    same(page, START, 1)
    held = views().map(START).high
    at(page, 0.9, 0.2)
    same(page, START._replace(place=(1, 0, 3)), 1, held)            # the scale is held
    page.keyboard.press("f")
    same(page, START._replace(place=(1, 0, 3)), 1)                  # and fitted when asked
    page.locator(".wx-thumb").nth(4).click()
    same(page, START._replace(place=(1, 0, 3)), 4)
    at(page, 0.1, 0.7)
    page.keyboard.press("f")
    same(page, START._replace(place=(2, 1, 0)), 4)                  # a patch of the frame that is shown
    assert "frames 4–5, row 2, column 1" in page.evaluate("document.querySelector('.wx-question').textContent")


SMALL = """(() => { const c = document.querySelector('.wx-small'), box = c.getBoundingClientRect();
    const seen = new OffscreenCanvas(c.width, c.height).getContext('2d', {willReadFrequently: true}); seen.drawImage(c, 0, 0);
    return [...document.querySelectorAll('.wx-thumb')].map((one) => { const at = one.getBoundingClientRect();
        return [0, 1].flatMap((h) => [0, 1, 2, 3].map((w) => [...seen.getImageData(at.left - box.left + at.width * (w + 0.5) / 4,
            at.top - box.top + at.height * (h + 0.5) / 2, 1, 1).data])); }); })()"""


@pytest.mark.parametrize("width", [944, 390])
def test_all_small_frames_have_the_heat_of_theirs(new_tab: Open, tmp_path: Path, width: int) -> None:
    page = new_tab(Explorer(views()).to_html(tmp_path / "page.html").path, width)
    until(page, SHOWN)
    page.fill("input[data-of=layer]", "1")
    view = View("a.cross", 2, "cond", None, None, "a")
    same(page, view, 1)
    one = views().map(view)
    for bare in (False, True):
        page.wait_for_timeout(100)
        drawn = np.array(page.evaluate(SMALL)).reshape(5, 2, 4, 4).astype(float)
        colourful = np.abs(np.diff(drawn[..., :3])).max()
        for frame in range(5):                      # what lies below is grey: it has no part in differences of colours
            expected = rgba(one, one.high, colours())[latent_frame(frame, 5, SIDES[0])].astype(float)
            expected = np.diff(expected[..., :3]) * expected[..., 3:] / 255
            assert bare or np.abs(np.diff(drawn[frame, ..., :3]) - expected).max() <= 5, frame
        assert (drawn[..., 3] == 255).all() and colourful > 30      # without the heat, the video has its own
        page.keyboard.press("o")


def test_sliders_and_keys_do_the_same(page: Page) -> None:
    page.keyboard.press("l")                                         # every map on its own scale
    for key, change in (("]", {"step": 3}), ("[", {"step": 2}), (".", {"head": 0}), (".", {"head": 1}),
                        ("b", {"branch": "uncond"})):
        page.keyboard.press(key)
        start = START._replace(**({"head": 1} if key == "b" else {}))
        same(page, start._replace(**change), 1)
    page.fill("input[data-of=step]", "0")
    same(page, START._replace(step=0, head=1, branch="uncond"), 1)
    page.fill("input[data-of=head]", "0")
    same(page, START._replace(step=0, branch="uncond"), 1)
    page.fill("input[data-of=frame]", "0")
    same(page, START._replace(step=0, branch="uncond"), 0)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    same(page, START._replace(step=0, branch="uncond"), 2)
    page.keyboard.press("ArrowDown")                                # the other layer reads words, and this branch has none
    until(page, "document.querySelector('.wx-question').textContent.includes('a')")
    assert page.evaluate("document.querySelector('input[data-of=layer]').value") == "1"


def test_a_fit_asked_for_before_the_map_is_here_waits_for_it(page: Page) -> None:
    page.evaluate("""(() => { const step = document.querySelector('input[data-of=step]'); step.value = 0;
        step.dispatchEvent(new Event('input')); document.querySelector('[data-act=fit]').click(); })()""")
    same(page, START._replace(step=0), 1)


def test_a_word_chip_shows_where_it_is_read(page: Page) -> None:
    page.fill("input[data-of=layer]", "1")
    same(page, View("a.cross", 2, "cond", None, None, "a"), 1)
    assert page.evaluate("[...document.querySelectorAll('.wx-chip')].map(c => c.textContent)") == ["a", "<b>red</b>", "circle"]
    page.locator(".wx-chip").nth(1).click()
    page.keyboard.press("f")
    same(page, View("a.cross", 2, "cond", None, None, "<b>red</b>"), 1)
    assert page.evaluate("document.querySelectorAll('.wx-explorer b > b, .wx-explorer img').length") == 0
    assert page.evaluate("document.querySelector('.wx-title').textContent") == EVIL


def test_it_plays_and_pauses(page: Page) -> None:
    frame = "JSON.parse(document.querySelector('.wx-explorer').dataset.shown)[0]"
    page.keyboard.press("Space")
    seen = set()
    deadline = time.monotonic() + 30
    while len(seen) < 5 and time.monotonic() < deadline:
        seen.add(page.evaluate(frame))
    assert seen == {0, 1, 2, 3, 4}
    page.click("[data-act=play]")
    now = page.evaluate(frame)
    page.evaluate("new Promise(after => setTimeout(after, 600))")
    assert page.evaluate(frame) == now
    same(page, START, now)


@pytest.mark.parametrize("width", [944, 390])
def test_nothing_is_wider_than_the_screen(new_tab: Open, tmp_path: Path, width: int) -> None:
    page = new_tab(Explorer(views("long" * 60)).to_html(tmp_path / "page.html").path, width)
    until(page, SHOWN)
    assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]


# ------------------------------------------------------------------------------------------------------ in JupyterLab

BOOK = """from tests.plots.test_explorer import views
from wanlab.plots.explorer import Explorer
explorer = Explorer(views())
explorer"""


@pytest.fixture
def book(tmp_path: Path) -> Iterator[str]:
    """The address of a notebook with the explorer in a JupyterLab."""
    with laboratory(tmp_path, BOOK) as address:
        yield address


def test_the_widget_in_jupyterlab(book: str, new_tab: Open, complaints: list[str]) -> None:
    lab = executed(new_tab(book, 1280, 1000), SHOWN)
    same(lab, START, 1)
    held = views().map(START).high
    at(lab, 0.9, 0.2)
    same(lab, START._replace(place=(1, 0, 3)), 1, held)
    lab.keyboard.press("]")                                     # a key that JupyterLab would take
    same(lab, START._replace(place=(1, 0, 3), step=3), 1, held)
    lab.fill("input[data-of=layer]", "1")
    lab.locator(".wx-chip").nth(2).click()
    lab.keyboard.press("f")
    same(lab, View("a.cross", 3, "cond", None, None, "circle"), 1)
    picture = os.environ.get("WANLAB_PICTURES")
    if picture:
        lab.screenshot(path=Path(picture) / "jupyterlab.png")
    lab.locator(".jp-CodeCell .cm-content").last.click()
    lab.keyboard.type("explorer.show(step=0, head=1, word='a')", delay=5)
    lab.keyboard.press("Shift+Enter")                               # Python asks; it is shown in two places now, and both follow
    until(lab, "document.querySelectorAll('.wx-explorer')[1]?.dataset.shown")
    lab.locator("[data-act=fit]").first.click()
    same(lab, View("a.cross", 0, "cond", 1, None, "a"), 1)
    lab.locator(".wx-chip", has_text="circle").last.click()         # asked below, shown above
    lab.locator("[data-act=fit]").first.click()
    same(lab, View("a.cross", 0, "cond", 1, None, "circle"), 1)
    complaints[:] = [one for one in complaints if not one.endswith("to activate.")]         # JupyterLab itself, on a slow machine
