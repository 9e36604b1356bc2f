"""The documents as a site, opened from disk in Chromium: nothing comes from a server, and its search finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.chromium import PATIENCE
from tests.browser.conftest import Open

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site() -> Path:
    """As `dev.py docs` builds it, in an environment of its own."""
    run = subprocess.run([sys.executable, "dev.py", "docs"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return ROOT / "site"


@pytest.mark.parametrize("page", ["index.html", "command-line.html", "api/selections-and-edits.html", "decisions/index.html"])
def test_pages_are_whole_without_a_server(page: str, site: Path, new_tab: Open) -> None:
    shown = new_tab(site / page)
    addresses = shown.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert not [one for one in addresses if one.startswith("http")]
    assert shown.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    assert shown.locator("h1").inner_text().strip()


def test_search_finds_the_reference(site: Path, new_tab: Open) -> None:
    shown = new_tab(site / "index.html")
    shown.locator(".md-search__input").click()
    shown.keyboard.type("LedgerError")
    shown.locator(".md-search-result__item").first.wait_for(timeout=PATIENCE)
    assert "Sites and traces" in shown.locator(".md-search-result__list").inner_text()
