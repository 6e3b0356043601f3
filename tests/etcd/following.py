"""Follow a store's watch and wait for what it shows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tunneld.store import Deleted, Entry, Listed, Put, Store, StoreEvent
from tunneld.store.etcd_watch import Timing

PREFIX = "/coreos.com/network"
SUBNETS = f"{PREFIX}/subnets/"
VALUE = b'{"PublicIP":"10.168.0.2","PublicIPv6":null}'

QUICK = Timing(probe=1.0, relist=300.0, retry_first=0.05, retry_ceiling=0.3, grace=2.0, linger=0.3)


def name(number: int) -> str:
    return f"100.96.{number}.0-24"


def value(number: int) -> bytes:
    return f'{{"PublicIP":"10.168.1.{number}","PublicIPv6":null}}'.encode()


async def disconnected(store: Store, words: str = "", seconds: float = 30.0) -> None:
    """Wait until the store says that it is cut off, in these words."""
    async with asyncio.timeout(seconds):
        # The store tells nobody when its health changes.
        while store.health().state != "disconnected" or words not in store.health().detail:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


class Follower:
    """Keeps what a watch tells, as the daemon would; use it as an async context."""

    def __init__(self, store: Store) -> None:
        self.content: dict[str, Entry] = {}
        self.events: list[StoreEvent] = []
        self._store = store
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._run())
        await self.until(lambda: bool(self.events), "the first listing")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @property
    def listings(self) -> int:
        return sum(isinstance(event, Listed) for event in self.events)

    @property
    def keys(self) -> set[str]:
        return set(self.content)

    async def _run(self) -> None:
        async for event in self._store.watch():
            match event:
                case Listed(entries):
                    self.content = {entry.key: entry for entry in entries}
                case Put(entry):
                    self.content[entry.key] = entry
                case Deleted(key):
                    self.content.pop(key, None)
            async with self._changed:
                self.events.append(event)
                self._changed.notify_all()

    async def until(self, state: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(state)
        except TimeoutError:
            raise AssertionError(f"waited for {what}; there is {sorted(self.content)}") from None
