"""Whoever wants to know how the daemon is: the health port and the service manager."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from tunneld.observe import health
from tunneld.observe.endpoints import Endpoints
from tunneld.observe.http import HttpServer
from tunneld.observe.metrics import Sample
from tunneld.observe.notify import Manager

if TYPE_CHECKING:
    from contextlib import AsyncExitStack
    from ipaddress import IPv4Address

    from tunneld.observe.document import Draft
    from tunneld.service import Service


class Reporter:
    """Judges the daemon and tells.

    Args:
        service: returns it, None before the start sequence is through.
        draft: returns the status document as of now.

    Attributes:
        stopping: a signal or an error ends the daemon.
    """

    def __init__(self, service: Callable[[], Service | None], draft: Callable[[], Draft]) -> None:
        self._service = service
        self._draft = draft
        self._manager = Manager()
        self._waiting = ""
        self.stopping = False

    def waiting(self, text: str) -> None:
        """Take note of what the start sequence waits for, in words."""
        self._waiting = text
        self._manager.tell(text)

    def health(self) -> health.Health:
        """Judge as of now; never blocks."""
        return health.assess(self._service(), stopping=self.stopping, waiting=self._waiting)

    def sample(self) -> Callable[[], Sample]:
        """Read what the metrics show; returns what makes them, in whichever thread."""
        service = self._service()
        parts = service.parts if service else None
        draft = self._draft()
        finish = partial(
            Sample,
            serving=self.health().serving,
            quarantined=len(parts.subnet_map.quarantined) if parts else 0,
            put_again=parts.keeper.put_again if parts else 0,
            conflicts=len(service.guard.doubles) if service else 0,
            taken_at=time.time(),
        )
        return lambda: finish(draft.document())

    async def serve(
        self, stack: AsyncExitStack, address: IPv4Address, port: int, *, public: bool
    ) -> None:
        """Open the health port until the stack unwinds.

        Args:
            stack: closes it.
            address: to listen on.
            port: TCP port; 0: no health port.
            public: give the metrics to everybody, not to loopback clients only.

        Raises:
            StartError: the address or the port cannot be had.
        """
        if port:
            ends = Endpoints(self.health, self.sample, public=public)
            server = HttpServer(address, port, ends.handlers)
            await server.start()
            stack.push_async_callback(server.close)

    async def tell_manager(self) -> None:
        """Tell the service manager how we are, for ever."""
        while True:
            now = self.health()
            self._manager.tell(str(now))
            self._manager.beat(alive=now.alive)
            await asyncio.sleep(self._manager.tick)
