"""One browser for all tests of pages; a console that complains fails the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.chromium import chromium, missing, tab

Open = Callable[..., Page]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if missing():
        pytest.skip(missing())
    with chromium() as browser:
        yield browser


@pytest.fixture
def complaints() -> list[str]:
    """What consoles said; a test that expects a complaint takes it out."""
    return []


@pytest.fixture
def new_tab(browser: Browser, complaints: list[str]) -> Iterator[Open]:
    """Open a page: `new_tab(path, width=390)`. Afterwards tabs are closed, and their consoles must not have complained."""
    pages = []

    def go(address: Path | str, width: int = 1280, height: int = 900, dark: bool = False) -> Page:
        pages.append(tab(browser, complaints, address, width, height, dark))
        return pages[-1]

    yield go
    for page in pages:
        page.context.close()
    assert complaints == []
