"""A JupyterLab of one's own, started for one notebook."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page

from tests.browser.chromium import until

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240_000      # milliseconds: a laboratory starts, and a kernel imports torch
TOKEN = "for-this-laboratory-alone"


@contextmanager
def laboratory(folder: Path, code: str) -> Iterator[str]:
    """JupyterLab on a free port, with one notebook of one cell; gives the notebook's address. The repository is importable."""
    import nbformat

    cell = nbformat.v4.new_code_cell(f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}")
    book = nbformat.v4.new_notebook(cells=[cell])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, folder / "book.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}",
               "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_RUNTIME_DIR": str(folder / "run"),
                   "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "spaces")}
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        answered(f"http://127.0.0.1:{port}/api/status?token={TOKEN}", server, folder / "lab.log")
        yield f"http://127.0.0.1:{port}/lab/tree/book.ipynb?token={TOKEN}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def answered(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + PATIENCE / 1000
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                json.load(answer)
                return
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"JupyterLab did not come up:\n{log.read_text()[-2000:]}") from error
            time.sleep(0.5)


def executed(page: Page, shown: str) -> Page:
    """Run the notebook's cell, and wait until an expression is true. RuntimeError with what it shows instead."""
    page.locator(".jp-Notebook .jp-CodeCell .cm-content").click(timeout=PATIENCE)
    until(page, "document.body.innerText.includes('(ipykernel) | Idle')", PATIENCE)     # the status bar: a kernel is there
    page.keyboard.press("Shift+Enter")
    try:
        until(page, shown, PATIENCE)
    except TimeoutError as error:
        said = page.locator(".jp-OutputArea").all_inner_texts()
        raise RuntimeError(f"the notebook shows no {shown}; it says: {said}") from error
    return page
