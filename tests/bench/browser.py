"""A real browser without a screen: Chromium, spoken to over a pipe (the DevTools protocol).

With --remote-debugging-pipe it reads JSON messages from descriptor 3 and writes to 4, each ended by
a zero byte: no port, no library.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DEADLINE_S = 60.0
_ARGUMENTS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # it refuses to run as root with one; it opens our own files only
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
)


def find_chromium() -> str | None:
    """Return a Chromium in PATH, by any of its names."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Browser:
    """One page of a running browser.

    Attributes:
        complaints: what the console, the log and uncaught exceptions said.
        requested: every URL that the page asked for.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in = to_browser, from_browser
        self._half = b""
        self._count = 0
        self._session: str | None = None
        self._events: list[str] = []
        self.complaints: list[str] = []
        self.requested: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, path: Path, *, width: int, scheme: str) -> None:
        """Load a file at a width and with a preferred colour scheme, and wait until it is there."""
        self.complaints, self.requested, self._events = [], [], []
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.call("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def _receive(self) -> dict[str, Any]:
        """Return the next message; what it tells is noted."""
        until = time.monotonic() + _DEADLINE_S
        while b"\0" not in self._half:
            ready, _, _ = select.select([self._in], [], [], max(until - time.monotonic(), 0))
            if not ready:
                raise TimeoutError("the browser does not answer")
            chunk = os.read(self._in, 1 << 20)
            if not chunk:
                raise RuntimeError("the browser has gone away")
            self._half += chunk
        text, _, self._half = self._half.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, told = message.get("method", ""), message.get("params", {})
        self._events.append(method)
        if method == "Log.entryAdded":
            self.complaints.append(told["entry"]["text"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(str(told["args"]))
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"]))
        elif method == "Network.requestWillBeSent":
            self.requested.append(told["request"]["url"])


def _pipe() -> list[int]:
    """Return a pipe whose descriptors are not among those that Chromium wants."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return high


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Run Chromium while the block runs.

    Args:
        profile: an empty directory for what it keeps.
    """
    to_read, to_write = _pipe()
    from_read, from_write = _pipe()
    # The shell moves the pipes to the descriptors that Chromium wants.
    script = f'exec "$@" 3<&{to_read} 4>&{from_write} {to_read}<&- {from_write}>&-'
    argv = [
        "bash",
        "-c",
        script,
        "bash",
        find_chromium() or "chromium",
        *_ARGUMENTS,
        f"--user-data-dir={profile}",
    ]
    with subprocess.Popen(
        argv,
        pass_fds=(to_read, from_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HOME": str(profile)},
    ) as process:
        os.close(to_read)
        os.close(from_write)
        try:
            page = Browser(to_write, from_read)
            yield page
            page._session = None  # the browser itself is meant, not the page
            page.call("Browser.close")
            process.wait(_DEADLINE_S)
        finally:
            if process.poll() is None:
                process.kill()
            os.close(to_write)
            os.close(from_read)
