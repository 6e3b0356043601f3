"""The Store protocol: where the network config and the leases live.

A store is a tiny versioned map under one prefix: one config document and one entry per lease.
Both implementations (etcd and the file store) promise the same things:

* `create` and `renew` are transactions: they never overwrite another node's claim.
* `watch` begins with a `Listed`, then yields single events; after any gap it yields a `Listed`
  again, so a consumer that diffs whole values never misses a change.
* An entry that cannot be read costs only itself.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Protocol, runtime_checkable

from tunneld.errors import TunneldError


class StoreUnavailableError(TunneldError):
    """The store does not answer now; the caller keeps what it has and tries again."""


class NoNetworkConfigError(TunneldError):
    """The store answers and holds no network config yet; the caller waits for one."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key below `<prefix>/subnets/`.

    Attributes:
        key: the last component of the key, for example `100.96.1.0-24`.
        value: the raw bytes as stored.
        create_revision: order in which keys came to be; breaks ties between two keys of one subnet.
        mod_revision: changes with each write of the key; `renew` and `remove` compare it.
        expires_in: seconds until the entry vanishes; None: a permanent reservation.
    """

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    expires_in: float | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """The whole content at one moment: the first event of a watch and the one after each gap."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Put:
    """One entry was created or changed."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Deleted:
    """One entry was removed or has expired."""

    key: str


StoreEvent = Listed | Put | Deleted


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """What `status` shows of the store.

    Attributes:
        state: "connecting", "connected" or "disconnected".
        last_sync: `time.monotonic()` of the last listing or event that came; None before the first.
        detail: the last error in words, or an empty string.
        away_since: `time.monotonic()` of the first error of this outage; None: there is no outage.
    """

    state: str
    last_sync: float | None
    detail: str = ""
    away_since: float | None = None

    def failed(self, error: object) -> StoreHealth:
        """Return what follows an access that failed now."""
        since = time.monotonic() if self.away_since is None else self.away_since
        return StoreHealth("disconnected", self.last_sync, str(error), since)


@runtime_checkable
class HostStore(Protocol):
    """A store that several hosts share and that can tell them apart: etcd."""

    async def claim_host(self, public_ip: IPv4Address) -> tuple[str, ...]:
        """Say that this host has a public IP; call it again within a minute.

        Returns:
            The names of other live hosts that say the same.

        Raises:
            StoreUnavailableError: the store does not answer, or permits no such keys.
        """
        ...


@runtime_checkable
class RecallingStore(Protocol):
    """A store that guards against losing most peers at once: etcd."""

    def recall(self, peers: Iterable[Entry], revision: int) -> None:
        """Have the next `watch` guard these peers too: an earlier daemon has seen them.

        Args:
            peers: as that daemon knew them.
            revision: of the store, which it has reached at least.
        """
        ...


class Store(Protocol):
    """What the daemon, `allocate` and the lab need of a store."""

    @property
    def url(self) -> str:
        """The store as a user would name it, without secrets."""
        ...

    def health(self) -> StoreHealth:
        """State as of now; never blocks."""
        ...

    async def get_config(self) -> bytes:
        """Return the network config document.

        Raises:
            NoNetworkConfigError: there is none.
            StoreUnavailableError: the store does not answer.
        """
        ...

    async def list_entries(self) -> tuple[Entry, ...]:
        """Return all entries, ordered by key.

        Raises:
            StoreUnavailableError: the store does not answer.
        """
        ...

    def watch(self) -> AsyncIterator[StoreEvent]:
        """Yield `Listed` first, then every change; recovers from outages by itself."""
        ...

    async def create(self, key: str, value: bytes, ttl: float) -> Entry | None:
        """Put `key` if it does not exist (flannel: Txn version(key)==0), living `ttl` seconds.

        Returns:
            The new entry, or None when the key exists already (the race is lost).
        """
        ...

    async def renew(self, entry: Entry, value: bytes, ttl: float) -> Entry | None:
        """Put `entry.key` again for `ttl` seconds if its mod revision is still the entry's.

        Returns:
            The renewed entry, or None when somebody else changed or removed the key.
        """
        ...

    async def remove(self, entry: Entry) -> bool:
        """Delete the key if its mod revision is still the entry's; False when it is not."""
        ...

    async def close(self) -> None:
        """Release watchers, threads and connections; idempotent."""
        ...
