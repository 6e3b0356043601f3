"""A Store in memory, faithful to the protocol, with a seam to lose races on purpose."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from tunneld.store import (
    Deleted,
    Entry,
    Listed,
    NoNetworkConfigError,
    Put,
    StoreEvent,
    StoreHealth,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class MemoryStore:
    """Revisions as in etcd: one counter for all keys. Time stands still: `expire` is a call.

    Attributes:
        before_write: called with the key before each transaction decides; a test changes the
            content there, as another node would between our listing and our write.
        writes: (operation, key, ttl) of each transaction that took effect.
    """

    def __init__(self, url: str = "memory:", config: bytes | None = None) -> None:
        self.url = url
        self.config = config
        self.entries: dict[str, Entry] = {}
        self.before_write: Callable[[str], object] | None = None
        self.writes: list[tuple[str, str, float]] = []
        self._revision = 0
        self._watchers: set[asyncio.Queue[StoreEvent]] = set()

    def health(self) -> StoreHealth:
        return StoreHealth("connected", None)

    async def get_config(self) -> bytes:
        if self.config is None:
            raise NoNetworkConfigError(f"no network config in {self.url}")
        return self.config

    async def list_entries(self) -> tuple[Entry, ...]:
        # A real store answers later: whoever else is ready runs in between.
        await asyncio.sleep(0)
        return tuple(self.entries[key] for key in sorted(self.entries))

    async def watch(self) -> AsyncIterator[StoreEvent]:
        queue: asyncio.Queue[StoreEvent] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield Listed(await self.list_entries())
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    async def create(self, key: str, value: bytes, ttl: float) -> Entry | None:
        await self._race(key)
        if key in self.entries:
            return None
        self.writes.append(("create", key, ttl))
        return self.set(key, value, ttl)

    async def renew(self, entry: Entry, value: bytes, ttl: float) -> Entry | None:
        await self._race(entry.key)
        if not self._unchanged(entry):
            return None
        self.writes.append(("renew", entry.key, ttl))
        return self.set(entry.key, value, ttl)

    async def remove(self, entry: Entry) -> bool:
        await self._race(entry.key)
        if not self._unchanged(entry):
            return False
        self.writes.append(("remove", entry.key, 0))
        self.expire(entry.key)
        return True

    async def close(self) -> None:
        self._watchers.clear()

    def set(self, key: str, value: bytes, ttl: float | None = None) -> Entry:
        """Put without any condition, as another node or a person would."""
        self._revision += 1
        entry = Entry(key, value, self._revision, self._revision, ttl)
        if key in self.entries:
            entry = replace(entry, create_revision=self.entries[key].create_revision)
        self.entries[key] = entry
        self._publish(Put(entry))
        return entry

    def expire(self, key: str) -> None:
        with contextlib.suppress(KeyError):
            del self.entries[key]
            self._publish(Deleted(key))

    def _unchanged(self, entry: Entry) -> bool:
        current = self.entries.get(entry.key)
        return current is not None and current.mod_revision == entry.mod_revision

    def _publish(self, event: StoreEvent) -> None:
        for queue in self._watchers:
            queue.put_nowait(event)

    async def _race(self, key: str) -> None:
        await asyncio.sleep(0)
        if self.before_write is not None:
            self.before_write(key)
