"""The etcd store against a real etcd: reads, transactions, leases and the watch."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter

import pytest

from tests.etcd.conftest import MakeStore
from tests.etcd.following import PREFIX, SUBNETS, VALUE, Follower, name, value
from tunneld.lab.etcd import EtcdServer
from tunneld.store import Entry, Listed, NoNetworkConfigError, Store, StoreUnavailableError
from tunneld.store.etcd import EtcdStore


def put(etcd: EtcdServer, key: str, text: str, *args: str) -> None:
    etcd.ctl("put", SUBNETS + key, text, *args)


async def test_it_is_a_store(store: EtcdStore, etcd: EtcdServer) -> None:
    kept: Store = store
    assert kept.url == f"etcd:{etcd.url}{PREFIX}"
    assert kept.health().state == "connecting"
    await kept.list_entries()
    assert kept.health().state == "connected"


async def test_the_config(store: EtcdStore, etcd: EtcdServer) -> None:
    with pytest.raises(NoNetworkConfigError, match=r"/coreos\.com/network/config.*etcdctl put"):
        await store.get_config()
    etcd.ctl("put", f"{PREFIX}/config", '{"Network":"100.96.0.0/16"}')
    assert await store.get_config() == b'{"Network":"100.96.0.0/16"}'


async def test_create_is_flannels_grant_and_transaction(store: EtcdStore, etcd: EtcdServer) -> None:
    entry = await store.create(name(1), VALUE, 86400)
    assert entry is not None
    assert entry.expires_in is not None
    assert 86300 < entry.expires_in <= 86400
    shown = etcd.ctl("get", "--prefix", PREFIX)
    assert shown == f"{SUBNETS}{name(1)}\n{VALUE.decode()}\n"
    (listed,) = await store.list_entries()
    assert listed == Entry(
        name(1), VALUE, entry.create_revision, entry.mod_revision, listed.expires_in
    )
    # The lost race leaves no lease behind.
    before = len(etcd.ctl("lease", "list").splitlines())
    assert await store.create(name(1), b"other", 86400) is None
    assert len(etcd.ctl("lease", "list").splitlines()) == before
    assert etcd.ctl("get", SUBNETS + name(1), "--print-value-only") == VALUE.decode() + "\n"


async def test_renew_takes_a_new_lease_and_gives_the_old_one_back(
    store: EtcdStore, etcd: EtcdServer
) -> None:
    first = await store.create(name(1), VALUE, 100)
    assert first is not None
    leases = etcd.ctl("lease", "list")
    second = await store.renew(first, value(9), 200)
    assert second is not None
    assert second.create_revision == first.create_revision
    assert second.mod_revision > first.mod_revision
    assert second.expires_in is not None
    assert 150 < second.expires_in <= 200
    assert etcd.ctl("lease", "list") != leases
    assert etcd.ctl("lease", "list").count("\n") == leases.count("\n")
    # The first claim is history: it neither overwrites nor removes.
    assert await store.renew(first, VALUE, 100) is None
    assert not await store.remove(first)
    assert etcd.ctl("get", SUBNETS + name(1), "--print-value-only").encode() == value(9) + b"\n"
    assert await store.remove(second)
    assert etcd.ctl("get", "--prefix", PREFIX) == ""


async def test_a_key_without_a_lease_is_and_stays_a_reservation(
    store: EtcdStore, etcd: EtcdServer
) -> None:
    put(etcd, name(1), VALUE.decode())
    (entry,) = await store.list_entries()
    assert entry.expires_in is None
    renewed = await store.renew(entry, value(3), 100)
    assert renewed is not None
    assert renewed.expires_in is None
    assert (await store.list_entries())[0].expires_in is None


async def test_others_leases_expire_some_day(store: EtcdStore, etcd: EtcdServer) -> None:
    lease = etcd.ctl("lease", "grant", "500").split()[1]
    put(etcd, name(1), VALUE.decode(), f"--lease={lease}")
    (entry,) = await store.list_entries()
    assert entry.expires_in == math.inf


async def test_our_key_on_anothers_lease_tells_that_leases_end(
    store: EtcdStore, etcd: EtcdServer
) -> None:
    await store.create(name(1), VALUE, 86400)
    lease = etcd.ctl("lease", "grant", "500").split()[1]
    async with Follower(store) as follower:
        put(etcd, name(1), VALUE.decode(), f"--lease={lease}")
        await follower.until(lambda: len(follower.events) == 2, "the put")
        left = follower.content[name(1)].expires_in
    assert left is not None
    assert 400 < left <= 500


async def test_the_watch_shows_what_happens(store: EtcdStore, etcd: EtcdServer) -> None:
    put(etcd, name(1), "one")
    async with Follower(store) as follower:
        assert follower.content[name(1)].value == b"one"
        put(etcd, name(2), "two")
        put(etcd, name(1), "one again")
        await follower.until(lambda: len(follower.events) == 3, "two puts")
        assert {key: entry.value for key, entry in follower.content.items()} == {
            name(1): b"one again",
            name(2): b"two",
        }
        etcd.ctl("del", SUBNETS + name(1))
        await follower.until(lambda: follower.keys == {name(2)}, "the deletion")
        # Neighbours of the prefix are none of our business.
        etcd.ctl("put", f"{PREFIX}/subnets", "x")
        etcd.ctl("put", f"{PREFIX}/subnets0", "x")
        etcd.ctl("put", f"{PREFIX}/config", "x")
        put(etcd, name(3), "three")
        await follower.until(lambda: name(3) in follower.keys, "the next put")
        assert follower.keys == {name(2), name(3)}
        assert follower.listings == 1


async def test_a_lease_that_ends_takes_its_key(store: EtcdStore) -> None:
    async with Follower(store) as follower:
        await store.create(name(1), VALUE, 2)
        await follower.until(lambda: name(1) in follower.keys, "the key")
        await follower.until(lambda: name(1) not in follower.keys, "its end")


async def test_hundreds_that_leave_together_leave_others_their_turns(
    store: EtcdStore, etcd: EtcdServer
) -> None:
    """Each is work of the daemon: the route, a line of the log."""
    stay, leave = (etcd.ctl("lease", "grant", "86400").split()[1] for _ in range(2))
    keys = [f"{SUBNETS}100.{64 + n // 256}.{n % 256}.0-24" for n in range(1000)]
    for start in range(0, 1000, 100):
        lease = leave if start < 400 else stay
        puts = "".join(f"put --lease={lease} {key} v\n" for key in keys[start : start + 100])
        etcd.ctl("txn", stdin=f"\n{puts}\n\n")
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.ensure_future(turn())
    found: Counter[int] = Counter()
    try:
        async with asyncio.timeout(60), contextlib.aclosing(store.watch()) as events:
            async for event in events:
                if isinstance(event, Listed):
                    etcd.ctl("lease", "revoke", leave)
                else:
                    found[turns] += 1
                if found.total() == 400:
                    break
    finally:
        turning.cancel()
    assert max(found.values()) <= 50


async def test_the_prefix_is_ours_to_choose(etcd: EtcdServer, make_store: MakeStore) -> None:
    store = make_store(etcd.url, prefix="/other")
    await store.create(name(1), VALUE, 100)
    assert etcd.ctl("get", "--prefix", "/", "--keys-only").split() == [f"/other/subnets/{name(1)}"]


async def test_many_leases_come_in_pages(store: EtcdStore, etcd: EtcdServer) -> None:
    puts = "".join(f"put {SUBNETS}100.{64 + n // 256}.{n % 256}.0-24 v\n" for n in range(1200))
    for start in range(0, 1200, 100):
        lines = puts.splitlines(keepends=True)[start : start + 100]
        etcd.ctl("txn", stdin="\n" + "".join(lines) + "\n\n")
    entries = await store.list_entries()
    assert len(entries) == 1200
    assert [entry.key for entry in entries] == sorted(entry.key for entry in entries)


async def test_values_too_large_for_one_answer(store: EtcdStore, etcd: EtcdServer) -> None:
    big = "x" * 100_000  # as long as an argument of a command may be
    for number in range(20):
        put(etcd, name(number), big)
    for number in range(20):
        etcd.ctl("put", f"{SUBNETS}big-{number}", stdin="y" * 1_000_000)
    put(etcd, name(99), "good")
    entries = {entry.key: entry.value for entry in await store.list_entries()}
    assert len(entries) == 41
    assert entries[name(99)] == b"good"
    assert set(entries.values()) == {b"", b"good"}


async def test_close_ends_a_watch_and_everything_else(store: EtcdStore, etcd: EtcdServer) -> None:
    follower = Follower(store)
    async with follower:
        etcd.freeze()
        waiting = asyncio.ensure_future(store.get_config())
        await asyncio.sleep(0)
        await store.close()
        async with asyncio.timeout(30):
            with pytest.raises((StoreUnavailableError, asyncio.CancelledError)):
                await waiting
            assert follower._task is not None
            await follower._task
    etcd.thaw()
    await store.close()
    with pytest.raises(StoreUnavailableError):
        await store.list_entries()
