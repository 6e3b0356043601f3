"""What the health port says: /healthz (flannel's), /readyz, /metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from ipaddress import IPv4Address

from tunneld.observe import metrics
from tunneld.observe.health import Health
from tunneld.observe.http import Answer, Handler, text

_KEPT_S = 0.25
_PAUSE = 4
"""Metrics are made anew after that many times what it took: a flood costs a fifth of a core."""


class Endpoints:
    """Answers the three paths.

    Args:
        health: as of now; must not block.
        sample: reads all that the metrics show, must not block; what it returns makes the sample of
            it, in another thread.
        public: give the metrics to everybody, not to loopback clients only.
    """

    def __init__(
        self,
        health: Callable[[], Health],
        sample: Callable[[], Callable[[], metrics.Sample]],
        *,
        public: bool,
    ) -> None:
        self._health = health
        self._sample = sample
        self._public = public
        self._lock = asyncio.Lock()
        self._made = b""
        self._good_until = 0.0

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """Path -> what answers it."""
        return {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics}

    async def _healthz(self, _client: IPv4Address) -> Answer:
        # The event loop runs, else nobody would say so.
        return text(HTTPStatus.OK, "ok")

    async def _readyz(self, _client: IPv4Address) -> Answer:
        health = self._health()
        # Degraded is ready: while the store is away traffic goes on, and a restart would not help.
        status = HTTPStatus.OK if health.serving else HTTPStatus.SERVICE_UNAVAILABLE
        return text(status, f"{health.state}: {health}")

    async def _metrics(self, client: IPv4Address) -> Answer:
        if not (self._public or client.is_loopback):
            words = "metrics are for loopback clients; --metrics-public gives them to all"
            return text(HTTPStatus.FORBIDDEN, words)
        async with self._lock:
            began = time.monotonic()
            if began >= self._good_until:
                sample = self._sample()
                # In a thread: with thousands of peers it takes longer than the loop may stall.
                self._made = await asyncio.to_thread(lambda: metrics.render(sample()))
                spent = time.monotonic() - began
                self._good_until = time.monotonic() + max(_KEPT_S, _PAUSE * spent)
        return Answer(HTTPStatus.OK, self._made, metrics.CONTENT_TYPE)
