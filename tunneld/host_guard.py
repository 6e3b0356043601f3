"""Find other hosts that have our public IP: they share our lease and take our packets."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from tunneld.observe.log import fields
from tunneld.store import HostStore, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address

    from tunneld.store import Store

log = logging.getLogger(__name__)

EVERY_S = 20.0
"""How often this host says that it lives."""

_FIRST_S = 2.5
"""Pause after the first time; each further one is twice as long, up to `EVERY_S`.

Two hosts that start together are named within seconds: a claim that was prolonged twice is alive.
"""


class HostGuard:
    """Tells and is told; it changes nothing, because it cannot know which of two hosts is right.

    Args:
        store: only one that is a `HostStore` can tell hosts apart.
        public_ip: returns the address that we announce.

    Attributes:
        doubles: names of other live hosts that have our public IP.
    """

    def __init__(self, store: Store, public_ip: Callable[[], IPv4Address]) -> None:
        self._store = store
        self._public_ip = public_ip
        self._told = ""
        self.doubles: tuple[str, ...] = ()

    async def run(self) -> None:
        """Claim our public IP for ever."""
        store = self._store
        if not isinstance(store, HostStore):
            await asyncio.Event().wait()
            return
        pause = _FIRST_S
        while True:
            public_ip = self._public_ip()
            try:
                self._take(public_ip, await store.claim_host(public_ip))
            except StoreUnavailableError as error:
                # An outage is told by the store; a missing right is told here, once.
                if str(error) != self._told:
                    self._told = str(error)
                    pair = fields(public_ip=public_ip, error=error)
                    log.info("cannot look for other hosts with our public IP", extra=pair)
            await asyncio.sleep(pause)
            pause = min(2 * pause, EVERY_S)

    def _take(self, public_ip: IPv4Address, doubles: tuple[str, ...]) -> None:
        before, self.doubles = self.doubles, doubles
        if doubles and doubles != before:
            log.error(
                "another host has our public IP; give each its own with --public-ip or --iface",
                extra=fields(public_ip=public_ip, hosts=", ".join(doubles)),
            )
        elif before and not doubles:
            log.info("no other host has our public IP any more", extra=fields(public_ip=public_ip))
