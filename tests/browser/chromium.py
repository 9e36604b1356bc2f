"""A headless Chromium for tests, driven through its DevTools protocol: real clicks, the console, screenshots."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import websocket

PATIENCE = 60.0  # seconds until something that must come is given up


class Chromium:
    """A browser with one tab; use as a context.

    complaints      errors and warnings of the page's console, uncaught exceptions, resources that failed to load
    """

    def __init__(self, profile: Path) -> None:
        found = shutil.which("chromium")
        if found is None:
            raise FileNotFoundError("chromium is not installed (the Debian package chromium)")
        self.complaints: list[str] = []
        self._number = 0
        options = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --mute-audio --no-first-run "
        options += "--disable-background-networking --autoplay-policy=no-user-gesture-required --remote-debugging-port=0"
        command = [found, *options.split(), f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._socket = self._connect(profile / "DevToolsActivePort")
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def _connect(self, file: Path) -> websocket.WebSocket:
        deadline = time.monotonic() + PATIENCE
        while not file.exists() or not file.read_text().strip():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"chromium did not come up (exit code {self._process.poll()})")
            time.sleep(0.05)
        port = file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=PATIENCE) as answer:
            (tab,) = (target for target in json.load(answer) if target["type"] == "page")
        return websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=PATIENCE, suppress_origin=True)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *exception: object) -> None:
        self.call("Browser.close")
        self._socket.close()
        self._process.wait(PATIENCE)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its answer. Raises RuntimeError with the browser's message."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._hear(message.get("method", ""), message.get("params", {}))

    def _hear(self, event: str, what: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = what["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{what['entry']['text']} ({what['entry'].get('url', '')[:100]})")
        elif event == "Runtime.consoleAPICalled" and what["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(part.get("value", part.get("description"))) for part in what["args"]))

    def open(self, page: Path, width: int = 1280, height: int = 900) -> None:
        """Load a file at a width in pixels (below 600 as a telephone) and wait until all of it is there."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.until(f"document.readyState === 'complete' && location.href.endsWith({json.dumps(page.name)})")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression (of a promise: what it resolves to). Raises RuntimeError where it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['exception'].get('description')}")
        return answer["result"].get("value")

    def until(self, expression: str) -> Any:
        """Wait until an expression is true; gives its value."""
        deadline = time.monotonic() + PATIENCE
        while not (value := self.evaluate(expression)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never true: {expression}")
            time.sleep(0.05)
        return value

    def click(self, selector: str, number: int = 0) -> None:
        """A click with the mouse in the middle of the element; whatever lies on top of it would get it."""
        element = f"document.querySelectorAll({json.dumps(selector)})[{number}]"
        box = self.evaluate(
            f"(() => {{ const e = {element}; e.scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def set(self, selector: str, value: str) -> None:
        """Give an input or a select another value, as a user's hand does: with its events."""
        self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.value = {json.dumps(value)};"
            "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true})); })()"
        )

    def press(self, key: str) -> None:
        """A key, such as Escape or Enter."""
        code = {"Escape": 27, "Enter": 13, "Tab": 9}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def screenshot(self, path: Path, whole: bool = True) -> Path:
        """The page (or what is seen of it) as a PNG file."""
        image = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(image["data"]))
        return path
