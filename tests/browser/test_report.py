"""The report in a browser: it sorts, plays, compares, fits the screen, and shows foreign text as text."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.browser.chromium import Chromium
from tests.runs.toy import STUDY, Toy, load_toy, resolve_toy
from wanlab.data.folder import write_video
from wanlab.data.procedural import World
from wanlab.runs.study import run_study

pytestmark = [pytest.mark.browser, pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")]

EVIL = '<img src=x onerror=alert(1)> & "co" <script>window.hurt = 1</script>'
TITLE = "A <b>bold</b> title </title><script>window.hurt = 1</script>"

Report = Callable[[int], Chromium]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over three clips with a caption, a note and a title that try to be markup; one video is inside, the rest links."""
    folder = tmp_path_factory.mktemp("report")
    world = World(size=32, split="val")
    for index in range(3):
        write_video(folder / "clips" / f"clip {index}.mp4", world[index].video)
    with open(folder / "captions.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "caption"), ("clip 0.mp4", EVIL), ("clip 1.mp4", "long" * 60)])
    data = f"data: {{kind: folder, path: {folder / 'clips'}, captions: {folder / 'captions.csv'}}}"
    text = STUDY.replace("data: {kind: procedural, split: test, n: 5, seed: 0}", data)
    text = text.replace("name: toy", f"name: toy\ntitle: {json.dumps(TITLE)}").replace("videos: 2", "videos: 3, budget_mb: 0.02")
    text = text.replace("{ablate: text}", f"{{ablate: text, note: {json.dumps(EVIL)}}}")
    (folder / "study.yaml").write_text(text)
    console = Console(file=io.StringIO())
    run_study(folder / "study.yaml", folder / "run", (), "cpu", console=console, load=load_toy(Toy()), resolve=resolve_toy)
    return folder / "run"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def report(browser: Chromium, root: Path) -> Iterator[Report]:
    """Open the report at a width; afterwards the console must not have complained."""

    def go(width: int = 1280) -> Chromium:
        browser.open(root / "report" / "report.html", width)
        browser.until("[...document.querySelectorAll('video[data-name]')].every(video => video.readyState >= 2)")
        return browser

    browser.complaints.clear()
    yield go
    assert browser.complaints == []


def rows(browser: Chromium) -> list[str]:
    """Names of the table's cells from top to bottom."""
    return browser.evaluate("[...document.querySelectorAll('#table tbody th')].map(head => head.firstChild.textContent)")


def values(browser: Chromium, column: int) -> list[float]:
    """The numbers of a column from top to bottom."""
    number = f"row => Number(row.cells[{column}].dataset.value)"
    return browser.evaluate(f"[...document.querySelectorAll('#table tbody tr')].map({number})")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen(report: Report, width: int) -> None:
    page = report(width)
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    page.click("video[data-name]", 1)
    page.until("document.getElementById('compare').open")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    inside = "(e => { const b = e.getBoundingClientRect(); return b.left >= 0 && b.right <= innerWidth; })"
    assert page.evaluate(f"[...document.querySelectorAll('#compare *')].filter(e => !e.closest('select')).every({inside})")


def test_heads_sort_by_click_and_by_key(report: Report) -> None:
    page = report(1280)
    study = rows(page)
    assert study == ["baseline", "text", "detail", "sharp", "both"]
    page.click("#table thead button", 1)
    assert values(page, 1) == sorted(values(page, 1), reverse=True) and rows(page) != study
    assert page.evaluate("document.querySelector('[aria-sort]').textContent.trim()") == "psnr ↑"
    page.click("#table thead th", 1)
    assert values(page, 1) == sorted(values(page, 1))
    page.click("#table thead button", 1)
    assert rows(page) == study and page.evaluate("document.querySelectorAll('[aria-sort]').length") == 0
    page.evaluate("document.querySelector('#table thead button').focus()")
    page.press("Enter")
    assert rows(page) == sorted(study)


def test_videos_load_play_in_step_pause_and_seek(report: Report) -> None:
    page = report(1280)
    clips = page.evaluate("[...document.querySelectorAll('video[data-name]')].map(v => [v.videoWidth, v.duration, !v.error])")
    assert len(clips) == 3 * 6 and all(width == 16 and abs(length - 1) < 0.01 and good for width, length, good in clips)
    inside = page.evaluate("[...document.querySelectorAll('video[data-name]')].filter(v => v.src.startsWith('data:')).length")
    assert 0 < inside < 18
    page.until("document.querySelector('video[data-name]').currentTime > 0.3")
    page.click("#play")
    assert page.evaluate("document.getElementById('play').textContent") == "Play"
    assert page.evaluate("[...document.querySelectorAll('video[data-name]')].every(v => v.paused)")
    page.set("#frame", "6")
    page.until("[...document.querySelectorAll('video[data-name]')].every(v => !v.seeking && Math.floor(v.currentTime * 8) === 5)")
    assert page.evaluate("document.getElementById('count').textContent") == "6 / 8"
    page.set("#speed", "0.25")
    page.click("#play")
    page.until("[...document.querySelectorAll('video[data-name]')].every(v => !v.paused && v.playbackRate === 0.25)")


def test_a_paused_report_stays_paused(report: Report) -> None:
    page = report(1280)
    page.click("#play")
    page.set("#frame", "3")
    page.set("#speed", "1")
    page.click("video[data-name]", 2)
    page.until("document.getElementById('compare').open && document.getElementById('over').readyState >= 2")
    page.evaluate("new Promise(after => setTimeout(after, 400))")
    assert page.evaluate("[...document.querySelectorAll('video')].every(v => v.paused)")
    page.until("[...document.querySelectorAll('#compare video')].every(v => !v.seeking && Math.floor(v.currentTime * 8) === 2)")


def test_two_clips_are_compared_under_a_wipe(report: Report) -> None:
    page = report(1280)
    page.click("video[data-name]", 4)
    page.until("document.getElementById('compare').open")
    names = "[[left, 'left-name'], [right, 'right-name']].map(([s, n]) => `${s.value}|${document.getElementById(n).textContent}`)"
    assert page.evaluate(names) == ["baseline|baseline", "sharp|sharp"]
    page.until("[...document.querySelectorAll('#compare video')].every(v => v.readyState >= 2 && !v.error)")
    edge = "Math.round(100 * document.getElementById('edge').offsetLeft / document.querySelector('.wipe').offsetWidth)"
    shown = "getComputedStyle(document.getElementById('over')).clipPath"
    for place in ("80", "20"):
        page.set("#wipe", place)
        assert page.evaluate(edge) == int(place) and f"{100 - int(place)}%" in page.evaluate(shown)
    page.set("#left", "true clip")
    assert page.evaluate(names) == ["true clip|true clip", "sharp|sharp"]
    page.until("document.getElementById('over').readyState >= 2")
    page.press("Escape")
    page.until("!document.getElementById('compare').open")
    page.click("video[data-name]", 7)  # another sample: its own clips
    page.until("document.getElementById('compare').open && document.getElementById('under').readyState >= 2")
    page.click("#compare form button")
    page.until("!document.getElementById('compare').open")


def test_foreign_text_is_text(report: Report) -> None:
    page = report(1280)
    assert page.evaluate("document.title") == f"{TITLE} · wanlab"
    assert page.evaluate("document.querySelector('h1').textContent") == TITLE
    assert page.evaluate("document.querySelector('.sample h3').firstChild.textContent.trim()") == EVIL
    assert page.evaluate("[...document.querySelectorAll('#table small')].map(e => e.textContent)")[1] == EVIL
    page.click("video[data-name]", 1)
    assert page.evaluate("document.getElementById('compare-title').textContent") == EVIL
    assert page.evaluate("typeof window.hurt + document.querySelectorAll('main img, h1 b').length") == "undefined0"
