"""The explorer in a browser: a page without a kernel, and the widget in JupyterLab; pixels are those that Python computes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.browser.chromium import Chromium
from tests.plots.test_explorer import EVIL, SIDES, views
from wanlab.plots.explorer import Explorer
from wanlab.plots.views import View, colours, latent_frame, rgba

pytestmark = [pytest.mark.browser, pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")]

ROOT = Path(__file__).resolve().parents[2]
START = View("a.attn", 2, "cond", None, (1, 1, 2))
DRAWN = """(() => { const c = document.querySelector('.wx-heat'), copy = new OffscreenCanvas(c.width, c.height);
    const seen = copy.getContext('2d', {willReadFrequently: true}); seen.drawImage(c, 0, 0);
    return [...seen.getImageData(0, 0, c.width, c.height).data]; })()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Chromium, tmp_path: Path) -> Iterator[Chromium]:
    """The static page of two layers; afterwards the console must not have complained."""
    browser.complaints.clear()
    browser.open(Explorer(views()).to_html(tmp_path / "page.html").path, 944)
    browser.until("document.querySelector('.wx-explorer')?.dataset.shown")
    yield browser
    assert browser.complaints == []


def same(browser: Chromium, view: View, frame: int, scale: float | None = None) -> None:
    """Wait until the overlay has the pixels that Python computes for a view in a frame of the video; colours within 1 of 255
    where alpha is (a canvas keeps them multiplied by it), alpha exact."""
    one = views().map(view)
    expected = rgba(one, scale or one.high, colours())[latent_frame(frame, 5, SIDES[0])].astype(int)
    deadline = time.monotonic() + 30
    while True:
        drawn = np.array(browser.evaluate(DRAWN))
        if drawn.size == expected.size:
            drawn = drawn.reshape(expected.shape)
            near = np.abs(drawn[..., :3] - expected[..., :3]).max() <= 2
            if near and (drawn[..., 3] == expected[..., 3]).all():
                return
        assert time.monotonic() < deadline, f"{view}, frame {frame}: drawn\n{drawn}\nexpected\n{expected}"
        time.sleep(0.05)


def at(browser: Chromium, x: float, y: float) -> None:
    """A click at a fraction of the picture's width and height."""
    box = browser.evaluate("""(() => { const stage = document.querySelector('.wx-stage');
        stage.scrollIntoView({block: 'center'});
        const b = stage.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()""")
    for kind in ("mousePressed", "mouseReleased"):
        place = {"x": box[0] + x * box[2], "y": box[1] + y * box[3]}
        browser.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)


def press(browser: Chromium, key: str) -> None:
    browser.evaluate("document.querySelector('.wx-explorer').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key)


def test_a_click_on_a_patch_paints_what_it_attends_to(page: Chromium) -> None:
    same(page, START, 1)
    held = views().map(START).high
    at(page, 0.9, 0.2)
    same(page, START._replace(place=(1, 0, 3)), 1, held)            # the scale is held
    press(page, "f")
    same(page, START._replace(place=(1, 0, 3)), 1)                  # and fitted when asked
    page.click(".wx-thumb", 4)
    same(page, START._replace(place=(1, 0, 3)), 4)
    at(page, 0.1, 0.7)
    press(page, "f")
    same(page, START._replace(place=(2, 1, 0)), 4)                  # a patch of the frame that is shown
    assert "frame 3, row 2, column 1" in page.evaluate("document.querySelector('.wx-question').textContent")


def test_sliders_and_keys_do_the_same(page: Chromium) -> None:
    press(page, "l")                                                # every map on its own scale
    for key, change in (("]", {"step": 3}), ("[", {"step": 2}), (".", {"head": 0}), (".", {"head": 1}),
                        ("b", {"branch": "uncond"})):
        press(page, key)
        start = START._replace(**({"head": 1} if key == "b" else {}))
        same(page, start._replace(**change), 1)
    page.set("input[data-of=step]", "0")
    same(page, START._replace(step=0, head=1, branch="uncond"), 1)
    page.set("input[data-of=head]", "0")
    same(page, START._replace(step=0, branch="uncond"), 1)
    page.set("input[data-of=frame]", "0")
    same(page, START._replace(step=0, branch="uncond"), 0)
    press(page, "ArrowRight")
    press(page, "ArrowRight")
    same(page, START._replace(step=0, branch="uncond"), 2)
    press(page, "ArrowDown")                                        # the other layer reads words, and this branch has none
    page.until("document.querySelector('.wx-question').textContent.includes('a')")
    assert page.evaluate("document.querySelector('input[data-of=layer]').value") == "1"


def test_a_word_chip_shows_where_it_is_read(page: Chromium) -> None:
    page.set("input[data-of=layer]", "1")
    same(page, View("a.cross", 2, "cond", None, None, "a"), 1)
    assert page.evaluate("[...document.querySelectorAll('.wx-chip')].map(c => c.textContent)") == ["a", "<b>red</b>", "circle"]
    page.click(".wx-chip", 1)
    press(page, "f")
    same(page, View("a.cross", 2, "cond", None, None, "<b>red</b>"), 1)
    assert page.evaluate("document.querySelectorAll('.wx-explorer b > b, .wx-explorer img').length") == 0
    assert page.evaluate("document.querySelector('.wx-title').textContent") == EVIL


def test_it_plays_and_pauses(page: Chromium) -> None:
    frame = "JSON.parse(document.querySelector('.wx-explorer').dataset.shown)[0]"
    press(page, " ")
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
def test_nothing_is_wider_than_the_screen(browser: Chromium, tmp_path: Path, width: int) -> None:
    browser.open(Explorer(views("long" * 60)).to_html(tmp_path / "page.html").path, width)
    browser.until("document.querySelector('.wx-explorer')?.dataset.shown")
    assert browser.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]


# ------------------------------------------------------------------------------------------------------ in JupyterLab

BOOK = """import sys
sys.path.insert(0, {root!r})
from tests.plots.test_explorer import views
from wanlab.plots.explorer import Explorer
explorer = Explorer(views())
explorer"""


@pytest.fixture
def lab(browser: Chromium, tmp_path: Path) -> Iterator[Chromium]:
    """JupyterLab on a free port with a token, at a notebook that was run."""
    import nbformat

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(BOOK.format(root=str(ROOT)))])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, tmp_path / "book.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, token = f"http://127.0.0.1:{port}", "for-this-test-alone"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path}",
               "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "run"),
                   "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "spaces")}
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        answered(f"{address}/api/status?token={token}", server, tmp_path / "lab.log")
        browser.call("Emulation.setDeviceMetricsOverride", width=1280, height=1000, deviceScaleFactor=1, mobile=False)
        browser.call("Page.navigate", url=f"{address}/lab/tree/book.ipynb?token={token}")
        patience(browser, "document.querySelector('.jp-Notebook .jp-CodeCell .cm-content')")
        browser.click(".jp-Notebook .jp-CodeCell .cm-content")
        patience(browser, "document.body.innerText.includes('(ipykernel) | Idle')")     # the status bar: a kernel is there
        browser.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, modifiers=8)
        browser.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter", windowsVirtualKeyCode=13, modifiers=8)
        patience(browser, "document.querySelector('.wx-explorer')?.dataset.shown")
        yield browser
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def answered(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                json.load(answer)
                return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"JupyterLab did not come up:\n{log.read_text()[-2000:]}") from error
            time.sleep(0.5)


def patience(browser: Chromium, expression: str) -> None:
    """Wait longer than for a page: a laboratory starts, and a kernel imports torch."""
    for _ in range(3):
        try:
            browser.until(f"Boolean({expression})")
            return
        except TimeoutError:
            continue
    browser.until(f"Boolean({expression})")


def test_the_widget_in_jupyterlab(lab: Chromium) -> None:
    same(lab, START, 1)
    held = views().map(START).high
    at(lab, 0.9, 0.2)
    same(lab, START._replace(place=(1, 0, 3)), 1, held)
    press(lab, "]")                                                 # a key that JupyterLab would take
    same(lab, START._replace(place=(1, 0, 3), step=3), 1, held)
    lags = []
    for turn in range(20):
        before = lab.evaluate("document.querySelector('.wx-explorer').dataset.painted")
        lab.set("input[data-of=step]", str(turn % 4 if turn % 4 != 3 or turn else 0))
        lab.until(f"document.querySelector('.wx-explorer').dataset.painted !== {json.dumps(before)}")
        lags.append(float(lab.evaluate("document.querySelector('.wx-explorer').dataset.lag")))
    print(f"slider to repaint: median {statistics.median(lags):.1f} ms, slowest {max(lags):.1f} ms")
    lab.set("input[data-of=layer]", "1")
    lab.click(".wx-chip", 2)
    press(lab, "f")
    same(lab, View("a.cross", 3, "cond", None, None, "circle"), 1)
    picture = os.environ.get("WANLAB_PICTURES")
    if picture:
        lab.screenshot(Path(picture) / "jupyterlab.png", whole=False)
