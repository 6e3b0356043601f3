"""Keeps the own lease: renews it in time, puts it again when it is gone, tells when it is lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tunneld import allocate
from tunneld.observe.log import fields

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from tunneld.allocate import Held
    from tunneld.store import Entry, Store

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Owns what we hold.

    Args:
        store: where the lease lives.
        held: as acquired.
        ttl: seconds that a renewal grants.
        margin: seconds before its end at which it is renewed.
        now: monotonic clock; tests give their own.

    Attributes:
        held: the lease and its entry.
        put_again: how often our key was gone and had to be put anew.
    """

    def __init__(
        self,
        store: Store,
        held: Held,
        *,
        ttl: float,
        margin: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._ttl = ttl
        # A margin as long as the lease would renew without end.
        self._margin = min(margin, ttl / 2)
        self._now = now
        self._renew = asyncio.Event()
        self.put_again = 0
        self._take(held)

    def _take(self, held: Held) -> None:
        self.held = held
        left = held.entry.expires_in
        self._deadline = None if left is None else self._now() + left

    @property
    def expires_in(self) -> float | None:
        """Seconds until the lease ends (negative when past); None: a permanent reservation."""
        return None if self._deadline is None else self._deadline - self._now()

    @property
    def announced(self) -> bool:
        """Whether the store holds what we want it to say, and nothing is overdue."""
        left = self.expires_in
        return not self._renew.is_set() and (left is None or left > 0)

    def announce(self, public_ip: IPv4Address) -> None:
        """Have the lease written again with another public IP."""
        attrs = replace(self.held.lease.attrs, public_ip=public_ip)
        self.held = replace(self.held, lease=replace(self.held.lease, attrs=attrs))
        self._renew.set()

    def confirm(self) -> None:
        """Have the lease written again although nothing is due: what we hold is from a cache."""
        self._renew.set()

    def seen(self, entry: Entry | None) -> None:
        """Take note of our key as the store shows it now; None: it is gone."""
        if entry is None:
            log.warning("our key is gone from the store", extra=fields(key=self.held.lease.key))
            self._renew.set()
        elif entry.value != self.held.entry.value:
            self._renew.set()
        elif entry.mod_revision >= self.held.entry.mod_revision:
            self._take(replace(self.held, entry=entry))

    async def keep(self) -> None:
        """Renew for ever.

        Raises:
            LeaseLostError: another owner claims the subnet.
            StoreUnavailableError: call again later; what was due stays due.
        """
        while True:
            await self._due()
            self._renew.clear()
            try:
                held = await allocate.renew(self._store, self.held, self._ttl)
            except BaseException:
                self._renew.set()
                raise
            # Somebody may have called `announce` meanwhile; that is not written yet.
            lease = self.held.lease
            self.put_again += _is_new(held.entry, self.held.entry)
            self._take(replace(held, lease=lease))
            log.info(
                "lease renewed", extra=fields(key=lease.key, expires_in_s=held.entry.expires_in)
            )

    async def _due(self) -> None:
        left = self.expires_in
        timeout = None if left is None else max(left - self._margin, 0.0)
        try:
            await asyncio.wait_for(self._renew.wait(), timeout)
        except TimeoutError:
            return


def _is_new(now: Entry, before: Entry) -> bool:
    """Tell whether a renewal has put another key in the place of the one that was held.

    In a store that was wiped revisions begin again, and may well come out the same.
    """
    put = now.expires_in is not None and now.create_revision == now.mod_revision
    return put or now.create_revision != before.create_revision
