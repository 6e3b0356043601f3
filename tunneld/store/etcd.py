"""The etcd store: flannel's keys in etcd v3, so that tunneld and flanneld share a cluster.

Leases are flannel's: an etcd lease is granted and the key put in a transaction. What blocks runs in
the threads of `EtcdClient`; the event loop never waits for the network.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from ipaddress import IPv4Address
from typing import TypeVar

from tunneld.store import (
    Entry,
    NoNetworkConfigError,
    StoreEvent,
    StoreHealth,
    StoreUnavailableError,
)
from tunneld.store.etcd_client import CALL_TIMEOUT, Connection, EtcdClient
from tunneld.store.etcd_hosts import Hosts
from tunneld.store.etcd_keys import Grants, Keys
from tunneld.store.etcd_options import EtcdOptions
from tunneld.store.etcd_watch import Timing, Watch

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class EtcdStore:
    """A `Store` in a cluster of etcd servers; it connects by itself, at the first call.

    Args:
        options: the etcd flags.
        timing: of the watch.
        call_timeout: seconds that one server has for one answer.
        identity: of this host; tests give their own.
    """

    def __init__(
        self,
        options: EtcdOptions,
        *,
        timing: Timing | None = None,
        call_timeout: float = CALL_TIMEOUT,
        identity: str | None = None,
    ) -> None:
        self._options = options
        self._timing = timing or Timing()
        self._client = EtcdClient(options, timeout=call_timeout)
        self._keys = Keys(options.prefix, Grants())
        self._hosts = Hosts(options.prefix, identity)
        self._watches: set[Watch] = set()
        self._recalled: tuple[tuple[Entry, ...], int] = (), 0
        self._health = StoreHealth("connecting", None)
        self._closed = False

    @property
    def url(self) -> str:
        """The servers and the prefix, without any secret."""
        servers = ",".join(str(endpoint) for endpoint in self._options.endpoints)
        return f"etcd:{servers}{self._options.prefix}"

    def health(self) -> StoreHealth:
        """Return how the last access went; never blocks."""
        return self._health

    async def get_config(self) -> bytes:
        """Return the value of `<prefix>/config`.

        Raises:
            NoNetworkConfigError: it is not there, or empty.
            StoreUnavailableError: no server answers.
        """
        config = await self._call(self._keys.read_config)
        if config is None or not config.strip():
            key = self._keys.config.decode()
            example = f'etcdctl put {key} \'{{"Network":"100.96.0.0/16"}}\''
            raise NoNetworkConfigError(f"{self.url}: no network config at {key}", remedy=example)
        return config

    async def list_entries(self) -> tuple[Entry, ...]:
        """Return all entries, ordered by key; `expires_in` of others' leases is infinite.

        Raises:
            StoreUnavailableError: no server answers.
        """
        return (await self._call(self._keys.list)).entries

    async def watch(self) -> AsyncGenerator[StoreEvent, None]:
        """Yield `Listed` first, then every change, by whomever; `close` ends it."""
        if self._closed:
            return
        watch = Watch(
            self._client,
            self._keys,
            reached=self._reached,
            failed=self._unreached,
            timing=self._timing,
        )
        watch.recall(*self._recalled)
        # Once only: what a later watch finds gone has been gone for long.
        self._recalled = (), 0
        self._watches.add(watch)
        try:
            async with contextlib.aclosing(watch.events()) as events:
                async for event in events:
                    yield event
        finally:
            self._watches.discard(watch)

    def recall(self, peers: Iterable[Entry], revision: int) -> None:
        """Have the next `watch` guard these peers too, see `RecallingStore`."""
        self._recalled = tuple(peers), revision

    async def create(self, key: str, value: bytes, ttl: float) -> Entry | None:
        """Grant a lease of `ttl` seconds and put `key` if it does not exist; None when it does.

        Raises:
            StoreUnavailableError: no server answers; the key may have been put all the same.
        """
        return await self._call(lambda c: self._keys.create(c, key, value, ttl))

    async def renew(self, entry: Entry, value: bytes, ttl: float) -> Entry | None:
        """Put `entry.key` again on a new lease if nobody else has; None when somebody has.

        A permanent reservation (a key without an etcd lease) stays permanent.

        Raises:
            StoreUnavailableError: no server answers; the key may have been put all the same.
        """
        return await self._call(lambda c: self._keys.renew(c, entry, value, ttl))

    async def remove(self, entry: Entry) -> bool:
        """Delete `entry.key` if nobody else has written it since; False when somebody has.

        Raises:
            StoreUnavailableError: no server answers; the key may be gone all the same.
        """
        return await self._call(lambda c: self._keys.remove(c, entry))

    async def claim_host(self, public_ip: IPv4Address) -> tuple[str, ...]:
        """Say that this host has a public IP; returns the others that say the same.

        Raises:
            StoreUnavailableError: no server answers, or the user may not write these keys.
        """
        # Not by `_call`: a user without rights on these keys is no outage of the store.
        return await self._client.call(lambda c: self._hosts.claim(c, str(public_ip)))

    async def close(self) -> None:
        """End the watches, the calls and their threads; idempotent."""
        self._closed = True
        for watch in tuple(self._watches):
            watch.stop()
        self._client.close()

    async def _call(self, function: Callable[[Connection], _T]) -> _T:
        try:
            result = await self._client.call(function)
        except StoreUnavailableError as error:
            self._unreached(error)
            raise
        self._reached()
        return result

    def _reached(self) -> None:
        if self._health.state == "disconnected":
            _log.info("%s is available again", self.url)
        self._health = StoreHealth("connected", time.monotonic())

    def _unreached(self, error: StoreUnavailableError) -> None:
        if self._closed:
            return
        if self._health.detail != str(error):
            _log.warning("%s: %s", self.url, error)
        self._health = self._health.failed(error)
