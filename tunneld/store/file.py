"""The file store: the embedded default, a directory that daemons and people may both write.

Several daemons on one machine may share it, or each host has its own copy that a person wrote.
`file_layout` says what lies in the directory. The blocking work is done by one thread per store,
so that neither fsync nor the lock ever stalls the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tunneld.store import (
    Entry,
    NoNetworkConfigError,
    StoreEvent,
    StoreHealth,
    StoreUnavailableError,
)
from tunneld.store.file_disk import UnreadableError
from tunneld.store.file_layout import Layout
from tunneld.store.file_ttl import Clock, system_clock
from tunneld.store.file_watch import Watch

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_POLL = 5.0


class FileStore:
    """A `Store` in a directory.

    Args:
        directory: `DIR`; need not exist yet.
        clock: the time by which leases expire; tests give their own.
        poll: seconds, see `Watch`.

    Raises:
        StartError: no /proc, hence no boot id.
    """

    def __init__(self, directory: Path, *, clock: Clock | None = None, poll: float = _POLL) -> None:
        self._directory = directory.absolute()
        self._clock = clock or system_clock()
        self._poll = poll
        self._layout = Layout(self._directory, self._clock)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="file-store")
        self._watches: set[Watch] = set()
        self._health = StoreHealth("connecting", None)
        self._closed = False

    @property
    def url(self) -> str:
        """The store as `--store` takes it."""
        return f"file:{self._directory}"

    def health(self) -> StoreHealth:
        """Return how the last access went; never blocks."""
        return self._health

    async def get_config(self) -> bytes:
        """Return the content of `DIR/config`.

        Raises:
            NoNetworkConfigError: it is not there, or empty.
            StoreUnavailableError: it cannot be read.
        """
        config = await self._run(self._layout.read_config)
        if config is None or not config.strip():
            path = self._directory / "config"
            example = '{"Network": "100.96.0.0/16"}'
            raise NoNetworkConfigError(
                f"{path}: no network config", remedy=f"write one into it, for example {example}"
            )
        return config

    async def list_entries(self) -> tuple[Entry, ...]:
        """Return all entries, ordered by key.

        A file that cannot be read is an entry with an empty value: its key is taken all the same.

        Raises:
            StoreUnavailableError: the directory cannot be read.
        """
        found = await self._run(self._layout.scan)
        return tuple(sorted(found.values(), key=lambda entry: entry.key))

    async def watch(self) -> AsyncGenerator[StoreEvent, None]:
        """Yield `Listed` first, then every change, by whomever; `close` ends it."""
        if self._closed:
            return
        watch = Watch(self._layout, self._run, self._clock, self._poll)
        self._watches.add(watch)
        try:
            async with contextlib.aclosing(watch.events()) as events:
                async for event in events:
                    self._reached()
                    yield event
        finally:
            self._watches.discard(watch)

    async def create(self, key: str, value: bytes, ttl: float) -> Entry | None:
        """Write `key` if it does not exist or has expired; None when it exists.

        Raises:
            StoreUnavailableError: the directory cannot be written.
            ValueError: `key` cannot be a file name, or `ttl` is not a positive time.
        """
        return await self._run(lambda: self._layout.create(key, value, ttl))

    async def renew(self, entry: Entry, value: bytes, ttl: float) -> Entry | None:
        """Write `entry.key` again if nobody else has; None when somebody has.

        A permanent reservation (a file that a person wrote) stays permanent.

        Raises:
            StoreUnavailableError: the directory cannot be written.
            ValueError: `ttl` is not a positive time.
        """
        return await self._run(lambda: self._layout.renew(entry, value, ttl))

    async def remove(self, entry: Entry) -> bool:
        """Delete `entry.key` if nobody else has written it since; False when somebody has.

        Raises:
            StoreUnavailableError: the directory cannot be written.
        """
        return await self._run(lambda: self._layout.remove(entry))

    async def close(self) -> None:
        """End the watches and the thread; idempotent."""
        self._closed = True
        self._layout.stopped = True
        for watch in tuple(self._watches):
            watch.stop()
        self._executor.shutdown(wait=False)

    async def _run(self, call: Callable[[], _T]) -> _T:
        if self._closed:
            raise StoreUnavailableError(f"{self.url} is closed")
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._executor, call)
        except (OSError, UnreadableError) as error:
            raise self._unavailable(error) from error
        self._reached()
        return result

    def _reached(self) -> None:
        if self._health.state == "disconnected":
            _log.info("%s is available again", self.url)
        self._health = StoreHealth("connected", time.monotonic())

    def _unavailable(self, error: OSError | UnreadableError) -> StoreUnavailableError:
        failure = StoreUnavailableError(_words(error, self._directory), remedy=_remedy(error))
        if self._health.detail != str(failure):
            _log.warning("%s: %s", self.url, failure)
        self._health = self._health.failed(failure)
        return failure


def _words(error: OSError | UnreadableError, directory: Path) -> str:
    if isinstance(error, UnreadableError):
        return f"{directory / 'config'}: {error}"
    return f"{error.filename or directory}: {error.strerror or error}"


def _remedy(error: OSError | UnreadableError) -> str:
    remedies = {
        errno.ENOENT: "make the directory and write the network config to the file config in it",
        errno.ENOTDIR: "--store file:DIR names a directory",
        errno.EACCES: "let this user write there, or run as root",
        errno.EPERM: "let this user write there, or run as root",
        errno.EROFS: "a lease needs a writable file system; list static peers there instead",
        errno.ENOSPC: "make room on that file system",
        errno.EDQUOT: "make room on that file system",
        errno.ETIMEDOUT: "see which process does with: fuser -v DIR/.leases/.lock",
    }
    return remedies.get(error.errno or 0, "") if isinstance(error, OSError) else ""
