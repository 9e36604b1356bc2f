"""The report in a browser: it sorts, plays, compares, fits the screen, and shows foreign text as text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page
from rich.console import Console

from tests.browser.chromium import until
from tests.browser.conftest import Open
from tests.runs.toy import STUDY, Toy, load_toy, resolve_toy
from wanlab.data.folder import write_video
from wanlab.data.procedural import World
from wanlab.runs.study import run_study

pytestmark = pytest.mark.browser

EVIL = '<img src=x onerror=alert(1)> & "co" <script>window.hurt = 1</script>'
TITLE = "A <b>bold</b> title </title><script>window.hurt = 1</script>"

IN_SIGHT = """[...document.querySelectorAll('video[data-name]')].filter(video => {
    const box = video.getBoundingClientRect(); return box.bottom > 0 && box.top < innerHeight; })"""

Report = Callable[..., Page]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over three clips with a caption, a note and a title that try to be markup; one video is inside, the rest links."""
    folder = tmp_path_factory.mktemp("report")
    world = World(size=32, split="val")
    for index in range(3):
        write_video(folder / "clips" / f"clip {index}.mp4", world[index].video)
    with open(folder / "captions.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "prompt"), ("clip 0.mp4", EVIL), ("clip 1.mp4", "long" * 60)])
    data = f"data: {{kind: folder, path: {folder / 'clips'}, captions: {folder / 'captions.csv'}}}"
    text = STUDY.replace("data: {kind: procedural, split: test, n: 5, seed: 0}", data)
    text = text.replace("name: toy", f"name: toy\ntitle: {json.dumps(TITLE)}").replace("videos: 2", "videos: 3, budget_mb: 0.02")
    text = text.replace("{ablate: text}", f"{{ablate: text, note: {json.dumps(EVIL)}}}")
    (folder / "study.yaml").write_text(text)
    console = Console(file=io.StringIO())
    run_study(folder / "study.yaml", folder / "run", (), "cpu", console=console, load=load_toy(Toy()), resolve=resolve_toy)
    return folder / "run"


@pytest.fixture
def report(new_tab: Open, root: Path) -> Report:
    """Open the report at a width."""

    def go(width: int = 1280, dark: bool = False) -> Page:
        page = new_tab(root / "report" / "report.html", width, dark=dark)
        until(page, "[...document.querySelectorAll('video[data-name]')].every(video => video.readyState >= 2)")
        return page

    return go


def rows(page: Page) -> list[str]:
    """Names of the table's cells from top to bottom."""
    return page.evaluate("[...document.querySelectorAll('#table tbody th')].map(head => head.firstChild.textContent)")


def values(page: Page, column: int) -> list[float]:
    """The numbers of a column from top to bottom."""
    number = f"row => Number(row.cells[{column}].dataset.value)"
    return page.evaluate(f"[...document.querySelectorAll('#table tbody tr')].map({number})")


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen(report: Report, width: int) -> None:
    page = report(width)
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    assert page.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    page.locator("video[data-name]").nth(1).click()
    until(page, "document.getElementById('compare').open")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    inside = "(e => { const b = e.getBoundingClientRect(); return b.left >= 0 && b.right <= innerWidth; })"
    assert page.evaluate(f"[...document.querySelectorAll('#compare *')].filter(e => !e.closest('select')).every({inside})")


def test_heads_sort_by_click_and_by_key(report: Report) -> None:
    page = report(1280)
    study = rows(page)
    assert study == ["baseline", "text", "detail", "sharp", "both"]
    page.locator("#table thead button").nth(1).click()
    assert values(page, 1) == sorted(values(page, 1), reverse=True) and rows(page) != study
    assert page.evaluate("document.querySelector('[aria-sort]').textContent.trim()") == "psnr ↑"
    page.locator("#table thead th").nth(1).click()
    assert values(page, 1) == sorted(values(page, 1))
    page.locator("#table thead button").nth(1).click()
    assert rows(page) == study and page.evaluate("document.querySelectorAll('[aria-sort]').length") == 0
    page.evaluate("document.querySelector('#table thead button').focus()")
    page.keyboard.press("Enter")
    assert rows(page) == sorted(study)


def test_videos_load_play_in_step_pause_and_seek(report: Report) -> None:
    page = report(1280)
    clips = page.evaluate("[...document.querySelectorAll('video[data-name]')].map(v => [v.videoWidth, v.duration, !v.error])")
    assert len(clips) == 3 * 6 and all(width == 16 and abs(length - 1) < 0.01 and good for width, length, good in clips)
    inside = page.evaluate("[...document.querySelectorAll('video[data-name]')].filter(v => v.src.startsWith('data:')).length")
    assert 0 < inside < 18
    page.evaluate("document.querySelector('.sample').scrollIntoView()")
    until(page, "document.querySelector('video[data-name]').currentTime > 0.3")
    page.click("#play")
    assert page.evaluate("document.getElementById('play').textContent") == "Play"
    assert page.evaluate("[...document.querySelectorAll('video[data-name]')].every(v => v.paused)")
    page.fill("#frame", "6")
    until(page, f"{IN_SIGHT}.every(v => !v.seeking && Math.floor(v.currentTime * 8) === 5)")
    assert page.evaluate("document.getElementById('count').textContent") == "6 / 8"
    page.select_option("#speed", "0.25")
    page.click("#play")
    until(page, f"{IN_SIGHT}.length >= 6 && {IN_SIGHT}.every(v => !v.paused && v.playbackRate === 0.25)")
    until(page, f"{IN_SIGHT}[0].currentTime > 0.2")
    times = page.evaluate(f"{IN_SIGHT}.map(v => v.currentTime)")
    assert max(times) - min(times) < 1 / 8  # all show the same frame, or neighbours at its edge


def test_a_paused_report_stays_paused(report: Report) -> None:
    page = report(1280)
    page.click("#play")
    page.fill("#frame", "3")
    page.select_option("#speed", "1")
    page.locator("video[data-name]").nth(2).click()
    until(page, "document.getElementById('compare').open && document.getElementById('over').readyState >= 2")
    page.evaluate("new Promise(after => setTimeout(after, 400))")
    assert page.evaluate("[...document.querySelectorAll('video')].every(v => v.paused)")
    there = "v => !v.seeking && Math.floor(v.currentTime * 8) === 2"
    until(page, f"[...document.querySelectorAll('#compare video')].every({there})")


def test_two_clips_are_compared_under_a_wipe(report: Report) -> None:
    page = report(1280)
    page.locator("video[data-name]").nth(4).click()
    until(page, "document.getElementById('compare').open")
    names = "[[left, 'left-name'], [right, 'right-name']].map(([s, n]) => `${s.value}|${document.getElementById(n).textContent}`)"
    assert page.evaluate(names) == ["baseline|baseline", "sharp|sharp"]
    until(page, "[...document.querySelectorAll('#compare video')].every(v => v.readyState >= 2 && !v.error)")
    edge = "Math.round(100 * document.getElementById('edge').offsetLeft / document.querySelector('.wipe').offsetWidth)"
    shown = "getComputedStyle(document.getElementById('over')).clipPath"
    for place in ("80", "20"):
        page.fill("#wipe", place)
        assert page.evaluate(edge) == int(place) and f"{100 - int(place)}%" in page.evaluate(shown)
    page.select_option("#left", "true clip")
    assert page.evaluate(names) == ["true clip|true clip", "sharp|sharp"]
    until(page, "document.getElementById('over').readyState >= 2")
    page.keyboard.press("Escape")
    until(page, "!document.getElementById('compare').open")
    page.locator("video[data-name]").nth(7).click()  # another sample: its own clips
    until(page, "document.getElementById('compare').open && document.getElementById('under').readyState >= 2")
    page.click("#compare form button")
    until(page, "!document.getElementById('compare').open")


def test_a_dialog_that_opens_again_at_once_shows_its_clips(report: Report) -> None:
    """The event of the first closing comes when the second pair is there already."""
    page = report(1280)
    page.locator("video[data-name]").nth(4).click()
    until(page, "document.getElementById('compare').open")
    page.evaluate("document.getElementById('compare').close(), document.querySelectorAll('video[data-name]')[7].click()")
    until(page, "[...document.querySelectorAll('#compare video')].every(v => v.readyState >= 2)")
    assert page.evaluate("document.getElementById('compare').open")


def test_a_clip_that_was_never_in_sight_can_be_compared(new_tab: Open, root: Path) -> None:
    """A page of many clips loads those that are near."""
    many = root / "report" / "many.html"
    many.write_text((root / "report" / "report.html").read_text().replace('preload="auto"', 'preload="none"'))
    page = new_tab(many, 390, 300)
    last = "[...document.querySelectorAll('video[data-name]')].at(-1)"
    assert page.evaluate(f"[{last}.readyState, {last}.click()][0]") == 0
    until(page, "[...document.querySelectorAll('#compare video')].every(v => v.readyState >= 2)")


def test_the_wipe_moves_pixels(report: Report) -> None:
    """Left of the edge stands one clip, right of it the other: sliding changes the picture between the two edges alone."""
    page = report(1280)
    page.click("#play")  # paused: what changes is the wipe
    page.fill("#frame", "8")
    page.locator("video[data-name]").nth(2).click()
    until(page, "document.getElementById('compare').open")
    page.select_option("#left", "true clip")
    still = "v.readyState >= 2 && !v.seeking && v.currentTime > 0.9"
    until(page, f"[...document.querySelectorAll('#compare video')].every(v => {still})")
    x, y, side = page.evaluate("(b => [b.x, b.y, b.width])(document.querySelector('.wipe').getBoundingClientRect())")
    seen = {}
    for place in (25, 75):
        page.fill("#wipe", str(place))
        page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        with Image.open(io.BytesIO(page.screenshot())) as image:
            seen[place] = np.asarray(image.convert("RGB").crop((int(x), int(y), int(x + side), int(y + side)))).astype(int)
    middle = slice(int(0.1 * side), int(0.8 * side))  # above the names at the lower edge
    changed = (np.abs(seen[25] - seen[75]).max(-1)[middle] > 8).mean(0)  # share of each column
    between, outside = changed[int(0.3 * side) : int(0.7 * side)], changed[: int(0.2 * side)]
    assert between.mean() > 0.25 and outside.max() == 0


def test_figures_are_shown_and_follow_no_script(report: Report, complaints: list[str]) -> None:
    page = report(1280)
    of = "i => [i.complete, i.naturalWidth > 300, i.src.slice(0, 26)]"
    sizes = page.evaluate(f"[...document.querySelectorAll('.drawn img')].map({of})")
    assert sizes and all(size == [True, True, "data:image/svg+xml;base64,"] for size in sizes)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hurt = 2\">')")
    page.evaluate("new Promise(after => setTimeout(after, 200))")
    assert page.evaluate("typeof window.hurt") == "undefined"  # the page's policy runs its own script alone
    assert complaints and all("Content Security Policy" in said for said in complaints)
    complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_in_dark(report: Report, scheme: str) -> None:
    page = report(1400, dark=scheme == "dark")
    colours = page.evaluate(
        "(() => { const number = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);"
        "const paper = number(getComputedStyle(document.body).backgroundColor);"
        "return [paper, ...['h1', '.lead', '.numbers td', 'nav a', '.interval', '.note, .files'].map("
        "s => number(getComputedStyle(document.querySelector(s)).color))]; })()"
    )
    paper, *inks = colours
    assert all(contrast(paper, ink) >= 4.5 for ink in inks)  # WCAG 2 AA
    assert (sum(paper) > 380) == (scheme == "light")


def contrast(one: list[float], other: list[float]) -> float:
    """WCAG 2's contrast of two sRGB colours: 1 to 21."""

    def luminance(colour: list[float]) -> float:
        linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_foreign_text_is_text(report: Report) -> None:
    page = report(1280)
    assert page.evaluate("document.title") == f"{TITLE} · wanlab"
    assert page.evaluate("document.querySelector('h1').textContent") == TITLE
    assert page.evaluate("document.querySelector('.sample h3').firstChild.textContent.trim()") == EVIL
    assert page.evaluate("[...document.querySelectorAll('#table small')].map(e => e.textContent)")[1] == EVIL
    page.locator("video[data-name]").nth(1).click()
    assert page.evaluate("document.getElementById('compare-title').textContent") == EVIL
    strange = "document.querySelectorAll('main img:not(.drawn img), h1 b').length"
    assert page.evaluate(f"typeof window.hurt + {strange}") == "undefined0"
