"""A steady trickle of datagrams between two containers that shows how long an outage lasts."""

from __future__ import annotations

import itertools
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Self

from tunneld.errors import TunneldError

if TYPE_CHECKING:
    from types import TracebackType

    from tunneld.lab import Container

PORT = 9001
INTERVAL_S = 0.001


class Flow:
    """Sends one datagram a millisecond while the block runs, and remembers every arrival.

    Sender and receiver share this machine's monotonic clock; each datagram carries its time of
    departure, so an arrival can be told from one that was under way before a fault.
    """

    def __init__(self, sender: Container, receiver: Container) -> None:
        self._source = sender.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sink = receiver.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sink.bind((str(receiver.address), PORT))
        self._sink.settimeout(0.1)
        self._to = (str(receiver.address), PORT)
        self._arrivals: list[tuple[float, float]] = []
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, name="flow-send"),
            threading.Thread(target=self._receive, name="flow-receive"),
        ]
        self.sent = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._source.close()
        self._sink.close()

    def wait_for_arrivals(self, count: int = 1, *, after: float, timeout: float = 10.0) -> float:
        """Wait until `count` datagrams that left after the moment `after` have arrived.

        Returns:
            When the first of them arrived (`time.monotonic()`).

        Raises:
            TunneldError: they did not within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                fresh = []
                for departed, arrived in reversed(self._arrivals):
                    if departed <= after:
                        break
                    fresh.append(arrived)
                if len(fresh) >= count:
                    return fresh[-1]
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TunneldError(f"no traffic for {timeout:g} s: it was not repaired")
                self._changed.wait(left)

    def wait_sent(self, count: int) -> None:
        """Wait until `count` more datagrams have been sent, whether they arrive or not."""
        goal = self.sent + count
        with self._changed:
            while self.sent < goal:
                self._changed.wait(1.0)

    def gap(self, since: float) -> float:
        """Return the longest time without an arrival from just before `since` on, seconds."""
        with self._changed:
            arrivals = [arrived for _, arrived in self._arrivals]
        start = next((i for i, arrived in enumerate(arrivals) if arrived >= since), len(arrivals))
        window = arrivals[max(start - 1, 0) :]
        return max((b - a for a, b in itertools.pairwise(window)), default=0.0)

    def _send(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            # An ICMP error or a full queue is part of what is measured here: it did not arrive.
            try:
                self._source.sendto(struct.pack("d", time.monotonic()), self._to)
            except OSError:
                continue
            finally:
                with self._changed:
                    self.sent += 1
                    self._changed.notify_all()

    def _receive(self) -> None:
        while not self._stop.is_set():
            try:
                (departed,) = struct.unpack("d", self._sink.recv(64)[:8])
            except TimeoutError:
                continue
            with self._changed:
                self._arrivals.append((departed, time.monotonic()))
                self._changed.notify_all()
