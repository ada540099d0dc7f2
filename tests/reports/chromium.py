"""A small client of Chromium's DevTools protocol over pipes: it needs nothing but the browser."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
MAX_SECONDS = 60.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--remote-debugging-pipe",
)


def find_chromium() -> str | None:
    """Return the path of the browser; None if it is not installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """A page of the browser.

    Attributes:
        requests: Addresses that the page asked for, apart from its own file and data in it.
        errors: Messages of the console that are errors or warnings, and exceptions.
    """

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self.browser, self.target, self.session = browser, target, session
        self.requests: list[str] = []
        self.errors: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        return self.browser.call(method, self.session, **parameters)

    def open(self, file: Path) -> None:
        """Open a file and wait until it has loaded."""
        self.browser.loaded.discard(self.session)
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.browser.wait(lambda: self.session in self.browser.loaded)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression; a promise is waited for."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise AssertionError(done["exceptionDetails"].get("exception", {}).get("description", done))
        return done["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true, also while the page is opened again."""
        deadline = time.monotonic() + MAX_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):  # the page is gone, or not complete yet
                if self.evaluate(f"Boolean({expression})"):
                    return
            with contextlib.suppress(AssertionError):
                self.evaluate("new Promise((done) => setTimeout(done, 30))")
        raise AssertionError(f"never true: {expression}")

    def accessible(self, roles: Collection[str], until: str) -> list[tuple[str, str]]:
        """Return role and name of everything of some roles that a screen reader finds.

        The browser builds this tree in the background, names last: it is complete when the name ``until`` is there and
        nothing lacks one. After a while it is returned as it is.
        """
        found: list[tuple[str, str]] = []
        for _ in range(50):
            nodes = [node for node in self.call("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]
            every = [(node.get("role", {}).get("value"), node.get("name", {}).get("value")) for node in nodes]
            found = [(role, name) for role, name in every if role in roles]
            if until in (name for _, name in every) and all(name for _, name in found):
                break
            self.evaluate("new Promise((done) => setTimeout(done, 100))")
        return found

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window and the preferred theme; up to 600 pixels it is a phone."""
        phone = width <= 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key, such as ``Tab``, ``Enter`` or ``ArrowLeft``."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        text = {"Enter": "\r", " ": " "}.get(key, text)
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Type text into what has the focus."""
        self.call("Input.insertText", text=text)

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a point of the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag the mouse from one point of the window to another."""
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        moves = [("mouseMoved", start, 0), ("mousePressed", start, 1), ("mouseMoved", middle, 1)]
        for kind, (x, y), buttons in [*moves, ("mouseMoved", end, 1), ("mouseReleased", end, 0)]:
            button = "none" if kind == "mouseMoved" and not buttons else "left"
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=buttons, clickCount=1)

    def screenshot(self, file: Path, full: bool = False) -> None:
        """Write what is shown, or the whole page, as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        more = {"clip": clip, "captureBeyondViewport": True} if full else {}
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **more)["data"]))


class Browser:
    """A running browser."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self.process, self._write, self._read = process, write, read
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}
        self.loaded: set[str] = set()

    def new_page(self) -> Page:
        """Open an empty page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, target, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        self.wait(lambda: number in self._answers)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def wait(self, condition: Any) -> None:
        """Handle messages of the browser until a condition holds."""
        deadline = time.monotonic() + MAX_SECONDS
        while not condition():
            ready, _, _ = select.select([self._read], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                raise AssertionError("the browser does not answer")
            received = os.read(self._read, 2**20)
            if not received:
                raise AssertionError("the browser ended")
            *messages, self._buffer = (self._buffer + received).split(b"\0")
            for message in messages:
                self._handle(json.loads(message))

    def _handle(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        session, parameters = message.get("sessionId", ""), message.get("params", {})
        page = self._pages.get(session)
        if page is None:
            return
        match message["method"]:
            case "Page.loadEventFired":
                self.loaded.add(session)
            case "Network.requestWillBeSent" if not parameters["request"]["url"].startswith(("data:", "file:")):
                page.requests.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                details = parameters["exceptionDetails"]
                page.errors.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning"):
                page.errors.append(" ".join(str(argument.get("value")) for argument in parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                page.errors.append(parameters["entry"]["text"])


@contextlib.contextmanager
def running_chromium(path: str) -> Iterator[Browser]:
    """Start the browser with an empty profile, and end it afterwards."""
    to_read, write = os.pipe()
    read, to_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        script = f'exec 3<&{to_read} 4>&{to_write}; exec "$0" "$@"'
        process = subprocess.Popen(
            ["bash", "-c", script, path, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        browser = Browser(process, write, read)
        try:
            yield browser
        finally:
            with contextlib.suppress(OSError, AssertionError):
                browser.call("Browser.close")
            process.wait(MAX_SECONDS)
            os.close(write)
            os.close(read)
