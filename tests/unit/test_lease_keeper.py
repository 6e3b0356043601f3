"""The own lease: renewed in time, put again when gone, lost only to another owner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.unit.memory_store import MemoryStore
from tunneld.allocate import Held
from tunneld.errors import LeaseLostError
from tunneld.lease import Lease, LeaseAttrs, format_attrs
from tunneld.lease_keeper import LeaseKeeper
from tunneld.store import Entry, StoreUnavailableError

SUBNET, PUBLIC_IP = IPv4Network("100.96.1.0/24"), IPv4Address("10.168.0.2")
LEASE = Lease(SUBNET, LeaseAttrs(PUBLIC_IP))
VALUE = format_attrs(LEASE.attrs)


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def keeper(
    store: MemoryStore, ttl: float | None = 86400, *, margin: float = 3600
) -> tuple[LeaseKeeper, Clock]:
    clock = Clock()
    entry = store.set(LEASE.key, VALUE, ttl)
    return LeaseKeeper(store, Held(LEASE, entry), ttl=86400, margin=margin, now=clock), clock


@asynccontextmanager
async def keeping(subject: LeaseKeeper) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(subject.keep())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(store: MemoryStore, writes: int) -> None:
    for _ in range(1000):
        if len(store.writes) >= writes:
            return
        await asyncio.sleep(0)
    raise AssertionError(f"only {store.writes}")


async def test_renewed_at_the_margin_and_not_before() -> None:
    store = MemoryStore()
    early, clock = keeper(store)
    clock.time += 86400 - 3600 - 10
    async with keeping(early):
        for _ in range(20):
            await asyncio.sleep(0)
        assert store.writes == []
    clock.time += 10
    async with keeping(early):
        await until(store, 1)
        assert store.writes == [("renew", LEASE.key, 86400)]
        assert early.expires_in == 86400


async def test_a_margin_as_long_as_the_lease_does_not_renew_without_end() -> None:
    store = MemoryStore()
    subject, _ = keeper(store, margin=86400)
    async with keeping(subject):
        for _ in range(20):
            await asyncio.sleep(0)
    assert store.writes == []


async def test_a_reservation_is_not_renewed() -> None:
    store = MemoryStore()
    subject, clock = keeper(store, None)
    clock.time += 1e9
    assert subject.expires_in is None
    async with keeping(subject):
        for _ in range(20):
            await asyncio.sleep(0)
    assert store.writes == []


@pytest.mark.parametrize("same", [False, True], ids=["other", "same"])
async def test_a_key_that_was_put_again_is_counted_whatever_its_revision(*, same: bool) -> None:
    """A store that was wiped counts its revisions from the beginning."""
    store = MemoryStore()
    subject, _ = keeper(store)
    before = subject.held.entry
    async with keeping(subject):
        store.expire(LEASE.key)
        store._revision = before.create_revision - same
        subject.seen(None)
        await until(store, 1)
        assert (subject.held.entry.create_revision == before.create_revision) is same
        assert subject.put_again == 1
        # A renewal is none.
        subject.announce(LEASE.public_ip)
        await until(store, 2)
        assert subject.put_again == 1


async def test_gone_is_put_again() -> None:
    store = MemoryStore()
    subject, _ = keeper(store)
    async with keeping(subject):
        store.expire(LEASE.key)
        subject.seen(None)
        assert not subject.announced
        await until(store, 1)
    assert store.writes == [("create", LEASE.key, 86400)]
    assert store.entries[LEASE.key].value == VALUE
    assert subject.announced


async def test_claimed_by_another_is_lost() -> None:
    store = MemoryStore()
    subject, _ = keeper(store)
    other = store.set(LEASE.key, format_attrs(LeaseAttrs(IPv4Address("10.168.0.9"))), 86400)
    subject.seen(other)
    with pytest.raises(LeaseLostError, match=r"10\.168\.0\.9"):
        await asyncio.wait_for(subject.keep(), 30)
    assert store.entries[LEASE.key] == other


async def test_what_was_due_stays_due_when_the_store_is_away() -> None:
    store = MemoryStore()
    subject, _ = keeper(store)

    def refuse(_: str) -> None:
        raise StoreUnavailableError("away")

    store.before_write = refuse
    subject.announce(IPv4Address("10.168.0.5"))
    with pytest.raises(StoreUnavailableError):
        await asyncio.wait_for(subject.keep(), 30)
    assert not subject.announced
    store.before_write = None
    async with keeping(subject):
        await until(store, 1)
    assert b"10.168.0.5" in store.entries[LEASE.key].value


async def test_announced_again_while_a_renewal_is_under_way() -> None:
    store = MemoryStore()
    subject, _ = keeper(store)
    subject.announce(IPv4Address("10.168.0.5"))

    def meanwhile(_: str) -> None:
        store.before_write = None
        subject.announce(IPv4Address("10.168.0.6"))

    store.before_write = meanwhile
    async with keeping(subject):
        await until(store, 2)
    assert b"10.168.0.6" in store.entries[LEASE.key].value
    assert subject.held.lease.public_ip == IPv4Address("10.168.0.6")


async def test_our_own_renewal_seen_again_changes_nothing() -> None:
    store = MemoryStore()
    subject, clock = keeper(store)
    newer = store.set(LEASE.key, VALUE, 86400)
    clock.time += 5
    subject.seen(newer)
    assert subject.held.entry == newer
    assert subject.announced
    old = Entry(LEASE.key, VALUE, 1, 1, 10)
    subject.seen(old)
    assert subject.held.entry == newer


async def test_overdue_is_not_announced() -> None:
    subject, clock = keeper(MemoryStore())
    clock.time += 86401
    assert not subject.announced
