"""Follow a file store: inotify says where to look, and what lies there says what has changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tunneld.store import Deleted, Entry, Listed, Put, StoreEvent, StoreUnavailableError
from tunneld.store import inotify as ino
from tunneld.store.file_disk import is_key
from tunneld.store.file_layout import Layout
from tunneld.store.file_ttl import Clock

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_UNSETTLED = ino.IN_CREATE | ino.IN_DELETE | ino.IN_MOVED_FROM
_SELF = ino.IN_DELETE_SELF | ino.IN_MOVE_SELF
_IN_SUBNETS = _UNSETTLED | ino.IN_MOVED_TO | ino.IN_CLOSE_WRITE | ino.IN_ATTRIB | _SELF
_IN_DIRECTORY = ino.IN_CREATE | ino.IN_MOVED_TO | _SELF
_LOST = ino.IN_Q_OVERFLOW | ino.IN_UNMOUNT | ino.IN_IGNORED | _SELF

# Seconds. An editor may move the old file away before it writes the new one, and a shell makes an
# empty file before it fills it: neither must cost a peer its route for that moment.
_SETTLE = 0.05
_RETRY = 0.5
_MIN_WAIT = 0.01


class Runner(Protocol):
    """Runs one blocking call in the store's thread, see `FileStore`."""

    def __call__(self, call: Callable[[], _T], /) -> Awaitable[_T]:
        """Return what `call` returns, or raise StoreUnavailableError."""
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    """An entry as the consumer knows it, and when it expires (`Clock.boottime`)."""

    entry: Entry
    deadline: float | None


class Watch:
    """One `Store.watch` on a `Layout`.

    Args:
        layout: the directory.
        run: the way to its blocking calls.
        clock: the time by which entries expire.
        poll: seconds between two looks at whether our directories are still those at our paths (a
            moved parent or a mount over them sends no event); without inotify, at everything.
    """

    def __init__(self, layout: Layout, run: Runner, clock: Clock, poll: float) -> None:
        self._layout = layout
        self._run = run
        self._clock = clock
        self._poll = poll
        self._wake = asyncio.Event()
        self._stopped = False
        self._complained = False

    def stop(self) -> None:
        """End `events` soon; idempotent."""
        self._stopped = True
        self._wake.set()

    async def events(self) -> AsyncGenerator[StoreEvent, None]:
        """Yield `Listed`, then changes; after an outage or a gap `Listed` again."""
        while not self._stopped:
            try:
                async with contextlib.aclosing(self._until_gap()) as events:
                    async for event in events:
                        yield event
            except StoreUnavailableError:
                await self._wait(None, _RETRY)

    async def _until_gap(self) -> AsyncGenerator[StoreEvent, None]:
        # Taken before the watches are set: a swap in between shows as a difference later.
        identity = self._layout.identity()
        notify = self._open_inotify()
        try:
            known = await self._list()
            yield Listed(tuple(item.entry for _, item in sorted(known.items())))
            while not self._stopped:
                await self._wait(notify, self._timeout(known))
                names = await _changed_names(notify)
                if names is None or self._layout.identity() != identity:
                    return
                if notify is None or self._is_due(known):
                    found = await self._list()
                    changes = _differences(known, found, known.keys() | found.keys())
                    known = found
                elif names:
                    found = self._stamp(await self._read(names))
                    changes = _differences(known, found, names)
                    known = {k: v for k, v in known.items() if k not in names} | found
                else:
                    continue
                for event in changes:
                    yield event
        finally:
            if notify:
                notify.close()

    def _open_inotify(self) -> ino.Inotify | None:
        """Return the watches, or None where the kernel has none left: then everything is polled."""
        directory, subnets = self._layout.directories
        notify = None
        try:
            notify = ino.Inotify()
            notify.add(directory, _IN_DIRECTORY)
            with contextlib.suppress(FileNotFoundError):
                notify.add(subnets, _IN_SUBNETS)
        except OSError as error:
            if notify:
                notify.close()
            if not self._complained and not isinstance(error, FileNotFoundError):
                self._complained = True
                _log.warning("%s: %s; looking every %g s instead", directory, error, self._poll)
            return None
        return notify

    async def _wait(self, notify: ino.Inotify | None, seconds: float) -> None:
        self._wake.clear()
        if self._stopped:
            return
        if notify:
            notify.call_when_readable(self._wake)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def _timeout(self, known: dict[str, _Known]) -> float:
        now = self._clock.boottime()
        left = (item.deadline - now for item in known.values() if item.deadline is not None)
        return max(_MIN_WAIT, min(self._poll, min(left, default=self._poll)))

    def _is_due(self, known: dict[str, _Known]) -> bool:
        now = self._clock.boottime()
        return any(item.deadline is not None and item.deadline <= now for item in known.values())

    async def _list(self) -> dict[str, _Known]:
        return self._stamp(await self._run(self._layout.scan))

    async def _read(self, names: set[str]) -> dict[str, Entry]:
        found = await self._run(lambda: self._layout.read(names))
        return {name: entry for name, entry in found.items() if entry}

    def _stamp(self, found: dict[str, Entry]) -> dict[str, _Known]:
        now = self._clock.boottime()
        return {
            name: _Known(entry, None if entry.expires_in is None else now + entry.expires_in)
            for name, entry in found.items()
        }


async def _changed_names(notify: ino.Inotify | None) -> set[str] | None:
    """Return the files to look at, None after a gap."""
    if notify is None:
        return set()
    events = notify.read()
    if any(event.mask & _UNSETTLED and is_key(event.name) for event in events):
        await asyncio.sleep(_SETTLE)
        events += notify.read()
    if any(event.mask & _LOST for event in events):
        return None
    return {event.name for event in events if is_key(event.name)}


def _differences(
    known: dict[str, _Known], found: dict[str, _Known], names: Iterable[str]
) -> list[StoreEvent]:
    """Return the events that lead from `known` to `found`; the time left is no difference."""
    events: list[StoreEvent] = []
    for name in sorted(names):
        before, after = known.get(name), found.get(name)
        if after is None:
            if before is not None:
                events.append(Deleted(before.entry.key))
        elif before is None or _identity(before.entry) != _identity(after.entry):
            events.append(Put(after.entry))
    return events


def _identity(entry: Entry) -> tuple[bytes, int, int]:
    return entry.value, entry.create_revision, entry.mod_revision
