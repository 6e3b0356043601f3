"""What a watch of the file store tells, on both kinds of event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tunneld.loop import new_event_loop
from tunneld.store import Deleted, Entry, Listed, Put, StoreEvent, inotify
from tunneld.store.file import FileStore
from tunneld.store.file_ttl import Clock

KEY = "100.96.1.0-24"
OTHER = "100.96.2.0-24"
OURS = b'{"PublicIP":"10.168.0.2","PublicIPv6":null}'
THEIRS = b'{"PublicIP":"10.168.0.3","PublicIPv6":null}'
DAY = 86400.0
DEADLINE = 20.0
"""Seconds after which a state that does not come is a failure."""


@pytest.fixture(params=[asyncio.new_event_loop, new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner


class Watched:
    """A store and one watch on it, read event by event."""

    def __init__(self, store: FileStore) -> None:
        self.store = store
        self.events = store.watch()

    async def next(self) -> StoreEvent:
        return await asyncio.wait_for(anext(self.events), DEADLINE)

    async def listed(self) -> list[tuple[str, bytes]]:
        event = await self.next()
        assert isinstance(event, Listed)
        return [(entry.key, entry.value) for entry in event.entries]

    async def put(self) -> Entry:
        event = await self.next()
        assert isinstance(event, Put)
        return event.entry

    async def deleted(self) -> str:
        event = await self.next()
        assert isinstance(event, Deleted)
        return event.key


@contextlib.asynccontextmanager
async def watching(
    directory: Path, *, clock: Clock | None = None, poll: float = 60.0
) -> AsyncIterator[Watched]:
    """A watch whose poll is so rare that only inotify can have told what a test sees."""
    store = FileStore(directory, clock=clock, poll=poll)
    watched = Watched(store)
    try:
        yield watched
    finally:
        await watched.events.aclose()
        await store.close()


@contextlib.asynccontextmanager
async def daemon(directory: Path) -> AsyncIterator[FileStore]:
    store = FileStore(directory)
    try:
        yield store
    finally:
        await store.close()


def seed(directory: Path, *keys: str, value: bytes = OURS) -> Path:
    subnets = directory / "subnets"
    subnets.mkdir(parents=True)
    for key in keys:
        (subnets / key).write_bytes(value)
    return subnets


def test_another_daemon_is_followed(runner: asyncio.Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        seed(tmp_path, OTHER)
        async with watching(tmp_path) as watched, daemon(tmp_path) as peer:
            assert await watched.listed() == [(OTHER, OURS)]
            entry = await peer.create(KEY, OURS, DAY)
            assert entry is not None
            seen = await watched.put()
            assert replace(seen, expires_in=None) == replace(entry, expires_in=None)
            renewed = await peer.renew(entry, OURS, DAY)
            assert renewed is not None
            assert (await watched.put()).mod_revision == renewed.mod_revision
            assert await peer.remove(renewed)
            assert await watched.deleted() == KEY
            assert watched.store.health().state == "connected"

    runner.run(scenario())


def test_a_person_is_followed(runner: asyncio.Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        subnets = seed(tmp_path)
        async with watching(tmp_path) as watched:
            assert await watched.listed() == []
            (subnets / KEY).write_bytes(OURS)
            assert (await watched.put()).value == OURS
            (subnets / KEY).write_bytes(THEIRS)
            assert (await watched.put()).value == THEIRS
            (subnets / KEY).rename(subnets / OTHER)
            assert await watched.deleted() == KEY
            assert (await watched.put()).key == OTHER
            (tmp_path / "draft").write_bytes(OURS)
            (tmp_path / "draft").rename(subnets / OTHER)
            assert (await watched.put()).value == OURS
            (subnets / OTHER).unlink()
            assert await watched.deleted() == OTHER
            (tmp_path / "linked").write_bytes(OURS)
            os.link(tmp_path / "linked", subnets / KEY)
            assert (await watched.put()).key == KEY

    runner.run(scenario())


def test_an_edited_lease_is_seen_as_a_reservation(runner: asyncio.Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with daemon(tmp_path) as peer, watching(tmp_path) as watched:
            entry = await peer.create(KEY, OURS, DAY)
            assert entry is not None
            assert await watched.listed() == [(KEY, OURS)]
            (tmp_path / "subnets" / KEY).write_bytes(THEIRS)
            seen = await watched.put()
            assert (seen.value, seen.expires_in) == (THEIRS, None)
            assert not (tmp_path / ".leases" / f"{KEY}.json").exists()

    runner.run(scenario())


def test_an_editor_costs_no_peer_its_route(
    runner: asyncio.Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        subnets = seed(tmp_path, KEY)
        noticed = asyncio.Event()
        really = inotify.Inotify.read

        def read(notify: inotify.Inotify) -> list[inotify.InotifyEvent]:
            noticed.set()
            return really(notify)

        async with watching(tmp_path) as watched:
            await watched.listed()
            monkeypatch.setattr(inotify.Inotify, "read", read)
            upcoming = asyncio.ensure_future(watched.put())
            await asyncio.sleep(0)
            # As vim does: a swap file, the old text moved aside, the new one written, then tidied.
            (subnets / f".{KEY}.swp").write_bytes(b"swap")
            (subnets / KEY).rename(subnets / f"{KEY}~")
            await asyncio.wait_for(noticed.wait(), DEADLINE)
            (subnets / KEY).write_bytes(THEIRS)
            (subnets / f"{KEY}~").unlink()
            seen = await upcoming
            assert (seen.key, seen.value) == (KEY, THEIRS)
            (subnets / OTHER).write_bytes(OURS)
            assert (await watched.put()).key == OTHER

    runner.run(scenario())


def test_a_broken_file_costs_only_itself(runner: asyncio.Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        subnets = seed(tmp_path, KEY)
        async with watching(tmp_path) as watched:
            await watched.listed()
            (subnets / OTHER).mkdir()
            seen = await watched.put()
            assert (seen.key, seen.value, seen.expires_in) == (OTHER, b"", None)
            (subnets / OTHER).rmdir()
            assert await watched.deleted() == OTHER
            (subnets / OTHER).write_bytes(b"\xff" * 100_000)
            assert (await watched.put()).value == b""
            (subnets / OTHER).write_bytes(b"\xff")
            assert (await watched.put()).value == b"\xff"
            assert [entry.key for entry in await watched.store.list_entries()] == [KEY, OTHER]

    runner.run(scenario())


def test_expiry_is_told_by_a_watch_alone(runner: asyncio.Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with daemon(tmp_path) as peer, watching(tmp_path) as watched:
            await peer.create(KEY, OURS, 0.2)
            await peer.create(OTHER, OURS, DAY)
            assert len(await watched.listed()) == 2
            assert await watched.deleted() == KEY
            assert [path.name for path in (tmp_path / "subnets").iterdir()] == [OTHER]

    runner.run(scenario())


def test_a_renewal_moves_the_expiry(runner: asyncio.Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        now = [1000.0]
        clock = Clock("boot", lambda: now[0], lambda: now[0])
        owner = FileStore(tmp_path, clock=clock)
        entry = await owner.create(KEY, OURS, 60)
        async with watching(tmp_path, clock=clock, poll=0.02) as watched:
            await watched.listed()
            now[0] += 50
            assert entry is not None
            assert await owner.renew(entry, OURS, 60) is not None
            await watched.put()
            now[0] += 50
            await owner.create(OTHER, THEIRS, 60)
            assert (await watched.put()).key == OTHER
            now[0] += 15
            assert await watched.deleted() == KEY
        await owner.close()

    runner.run(scenario())


def queue_limit() -> int:
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii"))


def test_after_an_overflow_everything_is_listed_again(
    runner: asyncio.Runner, tmp_path: Path
) -> None:
    async def scenario() -> None:
        subnets = seed(tmp_path, KEY)
        async with watching(tmp_path) as watched:
            await watched.listed()
            # The queue is read by `next` only: this overflows it for certain.
            for _ in range(queue_limit() // 4 + 1):
                (subnets / KEY).rename(subnets / OTHER)
                (subnets / OTHER).rename(subnets / KEY)
            (subnets / OTHER).write_bytes(THEIRS)
            assert await watched.listed() == [(KEY, OURS), (OTHER, THEIRS)]
            (subnets / KEY).write_bytes(THEIRS)
            assert (await watched.put()).key == KEY

    runner.run(scenario())


def test_a_replaced_directory_is_listed_again(runner: asyncio.Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        subnets = seed(tmp_path, KEY)
        new = seed(tmp_path / "new", OTHER)
        async with watching(tmp_path) as watched:
            assert await watched.listed() == [(KEY, OURS)]
            subnets.rename(tmp_path / "old")
            new.rename(subnets)
            assert await watched.listed() == [(OTHER, OURS)]
            (subnets / KEY).write_bytes(THEIRS)
            assert (await watched.put()).key == KEY

    runner.run(scenario())


def test_a_replaced_parent_is_noticed(runner: asyncio.Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        seed(tmp_path / "parent" / "store", KEY)
        seed(tmp_path / "new" / "store", OTHER)
        async with watching(tmp_path / "parent" / "store", poll=0.05) as watched:
            assert await watched.listed() == [(KEY, OURS)]
            (tmp_path / "parent").rename(tmp_path / "old")
            (tmp_path / "new").rename(tmp_path / "parent")
            assert await watched.listed() == [(OTHER, OURS)]

    runner.run(scenario())


async def outage(watched: Watched) -> None:
    async with asyncio.timeout(DEADLINE):
        while watched.store.health().state != "disconnected":  # noqa: ASYNC110 - health is polled
            await asyncio.sleep(0.01)


def test_a_vanished_directory_is_an_outage_and_no_deletion(
    runner: asyncio.Runner, tmp_path: Path
) -> None:
    async def scenario() -> None:
        subnets = seed(tmp_path, KEY)
        async with watching(tmp_path) as watched:
            await watched.listed()
            subnets.rename(tmp_path / "aside")
            upcoming = asyncio.ensure_future(watched.listed())
            await outage(watched)
            assert "subnets" in watched.store.health().detail
            assert not upcoming.done()
            (tmp_path / "aside").rename(subnets)
            assert await upcoming == [(KEY, OURS)]
            assert watched.store.health().state == "connected"

    runner.run(scenario())


def test_a_store_may_come_later(runner: asyncio.Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        directory = tmp_path / "later"
        async with watching(directory) as watched, daemon(directory) as peer:
            upcoming = asyncio.ensure_future(watched.listed())
            await outage(watched)
            directory.mkdir()
            assert await upcoming == []
            await peer.create(KEY, OURS, DAY)
            # The first lease makes the directory of leases.
            assert await watched.listed() == [(KEY, OURS)]

    runner.run(scenario())


def test_without_inotify_it_polls(
    runner: asyncio.Runner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def none_left() -> inotify.Inotify:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "inotify_init1")

    async def scenario() -> None:
        subnets = seed(tmp_path, KEY)
        async with watching(tmp_path, poll=0.02) as watched:
            assert await watched.listed() == [(KEY, OURS)]
            (subnets / OTHER).write_bytes(OURS)
            while (await watched.put()).value != OURS:
                pass
            (subnets / KEY).unlink()
            assert await watched.deleted() == KEY
            subnets.rename(tmp_path / "old")
            seed(tmp_path / "new", KEY).rename(subnets)
            assert await watched.listed() == [(KEY, OURS)]

    monkeypatch.setattr(inotify, "Inotify", none_left)
    runner.run(scenario())
    assert caplog.text.count("Too many open files") == 1


def test_close_ends_a_watch_and_frees_its_descriptor(
    runner: asyncio.Runner, tmp_path: Path
) -> None:
    async def scenario() -> None:
        seed(tmp_path, KEY)
        before = descriptors()
        async with watching(tmp_path) as watched:
            await watched.listed()
            rest = asyncio.ensure_future(drain(watched))
            await asyncio.sleep(0)
            await watched.store.close()
            assert await asyncio.wait_for(rest, DEADLINE) == []
        assert descriptors() <= before

    runner.run(scenario())


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


async def drain(watched: Watched) -> list[StoreEvent]:
    return [event async for event in watched.events]


def test_two_watches_of_one_store_see_the_same(runner: asyncio.Runner, tmp_path: Path) -> None:
    async def scenario() -> None:
        seed(tmp_path, KEY)
        async with watching(tmp_path) as first:
            second = Watched(first.store)
            assert await first.listed() == await second.listed()
            await first.store.create(OTHER, OURS, DAY)
            assert (await first.put()).key == (await second.put()).key == OTHER
            await second.events.aclose()

    runner.run(scenario())


class CountingEvent(asyncio.Event):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def set(self) -> None:
        self.calls += 1
        super().set()


def test_events_that_nobody_reads_yet_wake_the_loop_once(
    runner: asyncio.Runner, tmp_path: Path
) -> None:
    async def scenario() -> None:
        subnets = seed(tmp_path, KEY)
        async with watching(tmp_path) as watched:
            await watched.listed()
            (watch,) = watched.store._watches
            watch._wake = wake = CountingEvent()
            (subnets / OTHER).write_bytes(OURS)
            await watched.put()
            (subnets / OTHER).write_bytes(THEIRS)
            calls = wake.calls
            for _ in range(100):
                await asyncio.sleep(0)
            assert wake.calls <= calls + 1
            assert (await watched.put()).value == THEIRS

    runner.run(scenario())
