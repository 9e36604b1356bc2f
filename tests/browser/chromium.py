"""Debian's Chromium, headless, through Playwright; no browser is downloaded."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

PATIENCE = 60_000       # milliseconds until something that must come is given up


def missing() -> str:
    """Why there is no browser; empty where there is one."""
    return "" if shutil.which("chromium") else "chromium is not installed (the Debian package chromium)"


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, while the context lasts. FileNotFoundError where none is installed."""
    if missing():
        raise FileNotFoundError(missing())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), chromium_sandbox=False,
                                             args=["--autoplay-policy=no-user-gesture-required"])
        yield browser
        browser.close()


def tab(browser: Browser, complaints: list[str], address: Path | str, width: int, height: int, dark: bool) -> Page:
    """A tab of a size in pixels (narrower than 600: a telephone's) with a page, all of it loaded. What its console complains
    of is added to a list.

    Complaints are errors and warnings of the console, exceptions that nobody caught, and resources that failed to load.
    """
    context = browser.new_context(viewport={"width": width, "height": height}, is_mobile=width < 600,
                                  color_scheme="dark" if dark else "light")
    context.set_default_timeout(PATIENCE)
    page = context.new_page()

    def hear(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            complaints.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address.resolve().as_uri() if isinstance(address, Path) else address, timeout=4 * PATIENCE)      # JupyterLab is large
    return page


def until(page: Page, expression: str, patience: float = PATIENCE) -> None:
    """Wait until an expression is true.

    Page.wait_for_function does not do in pages whose policy runs their own script alone: it asks again through eval.
    """
    deadline = time.monotonic() + patience / 1000
    while not page.evaluate(f"Boolean({expression})"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"never true: {expression}")
        page.wait_for_timeout(50)
