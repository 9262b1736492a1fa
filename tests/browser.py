"""A headless Chromium for the tests, driven over its DevTools pipe: no port, no other package.

It is found as `CHROMIUM` in the environment, or under one of its usual names on the path. A test
that cannot have it fails.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0  # seconds for an answer: the machine may be busy


def executable() -> str:
    """Where the browser is; `RuntimeError` saying how to have one."""
    names = [os.environ["CHROMIUM"]] if os.environ.get("CHROMIUM") else NAMES
    found = [path for path in map(shutil.which, names) if path]
    if not found:
        raise RuntimeError(
            f"none of {', '.join(names)} is on the path: on Debian, "
            "apt-get install chromium-headless-shell; elsewhere name one in CHROMIUM"
        )
    return found[0]


class Page:
    """One open page, and everything that was fetched or complained of while it was."""

    def __init__(self, browser: Browser, session: str):
        self._browser, self._session = browser, session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def show(self, *, dark: bool = False, width: int = 1000, height: int = 900) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def screenshot(self) -> bytes:
        """The whole page as a PNG."""
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(taken["data"])

    def pdf(self) -> bytes:
        self.call("Emulation.setEmulatedMedia", media="print", features=[])
        printed = self.call(
            "Page.printToPDF", preferCSSPageSize=True, paperWidth=8.27, paperHeight=11.69
        )
        return base64.b64decode(printed["data"])

    @property
    def fetched(self) -> list[str]:
        """The address of every request that was made, the page's own file among them."""
        return [each["request"]["url"] for each in self._events("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[str]:
        """What the console was told, and every exception."""
        names = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event) for name in names for event in self._events(name)]

    def _events(self, name: str) -> list[dict[str, Any]]:
        return [
            event["params"]
            for event in self._browser.events
            if event["method"] == name and event.get("sessionId") == self._session
        ]


class Browser:
    """A browser process; commands go to it and events come back, each a JSON text and a NUL."""

    def __init__(self, profile: Path):
        self.events: list[dict[str, Any]] = []
        self._number, self._buffer = 0, b""
        command = [
            executable(),
            "--headless",
            "--no-sandbox",  # a container's root has none
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # Chromium reads 3 and writes 4: copies that are neither keep one from closing the other.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (theirs_in, theirs_out)]
        quiet = os.open(os.devnull, os.O_WRONLY)
        self._pid = os.posix_spawn(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, ends[0], 3),
                (os.POSIX_SPAWN_DUP2, ends[1], 4),
                (os.POSIX_SPAWN_DUP2, quiet, 1),
                (os.POSIX_SPAWN_DUP2, quiet, 2),
            ],
            setpgroup=0,
        )
        for end in (theirs_in, theirs_out, quiet, *ends):
            os.close(end)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._number += 1
        asked: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session:
            asked["sessionId"] = session
        os.write(self._out, json.dumps(asked).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while True:
            said = self._next(deadline, method)
            if said.get("id") == self._number:
                assert "error" not in said, (method, said["error"])
                answer: dict[str, Any] = said["result"]
                return answer
            if "method" in said:
                self.events.append(said)

    def _next(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser did not answer {method} in {PATIENCE:.0f} s")
            chunk = os.read(self._in, 1 << 16)
            if not chunk:
                raise RuntimeError(f"the browser ended before it answered {method}")
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        said: dict[str, Any] = json.loads(text)
        return said

    def open(self, path: Path) -> Page:
        """Open a file, and wait until it has loaded and drawn."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.show()
        address = path.resolve().as_uri()
        page.call("Page.navigate", url=address)
        deadline = time.monotonic() + PATIENCE
        ready = (
            f"document.readyState === 'complete' && location.href === '{path.resolve().as_uri()}'"
        )
        while not page.evaluate(ready):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} did not load in {PATIENCE:.0f} s")
            time.sleep(0.02)
        return page

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        # Its helpers are in its group; none may outlive the test.
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser for as long as the context lasts, with a profile of its own."""
    opened = Browser(profile)
    try:
        yield opened
    finally:
        opened.close()
