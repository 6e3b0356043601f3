"""sd_notify(3): tell the service manager (or the lab) what we do, and that we are alive."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

_TICK_S = 1.0


def notify(*lines: str) -> None:
    """Send the lines to $NOTIFY_SOCKET; a manager that is not there is no error of ours."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.sendto("\n".join(lines).encode(), address)
        except OSError:
            return


def status(text: object) -> str:
    """Return the STATUS= line for a text; a line break would end it and begin another message."""
    return "STATUS=" + " ".join(str(text).split())


class Manager:
    """The service manager: hears each new status once, and a sign of life in time.

    Args:
        environ: holds WATCHDOG_USEC and WATCHDOG_PID (sd_watchdog_enabled(3)).
        send: as `notify`; tests give their own.
        now: monotonic clock, seconds; tests give their own.
    """

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        send: Callable[[str], None] = notify,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._now = now
        self._told = ""
        self._beaten: float | None = None
        self._half = _watchdog_s(environ) / 2

    @property
    def tick(self) -> float:
        """Seconds between two calls of `tell` and `beat`."""
        return min(_TICK_S, self._half / 4) if self._half else _TICK_S

    def tell(self, text: str) -> None:
        """Send a status line if it is a new one."""
        if text != self._told:
            self._told = text
            self._send(status(text))

    def beat(self, *, alive: bool) -> None:
        """Send WATCHDOG=1 at half of its time; not while something is dead: then a restart helps.

        Args:
            alive: whether all that must live does.
        """
        if not self._half or not alive:
            return
        now = self._now()
        # The next tick would be late already.
        if self._beaten is None or now - self._beaten + self.tick > self._half:
            self._beaten = now
            self._send("WATCHDOG=1")


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """Return the watchdog's time in seconds, 0 when there is none or it is another process's."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (text.isascii() and text.isdigit()) or (pid and pid != str(os.getpid())):
        return 0.0
    return int(text) / 1e6
