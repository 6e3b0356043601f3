"""What befalls etcd: it is away, dies, forgets, is slow, holds nonsense."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from bench.fault_list import BAD_KEYS, BAD_VALUES
from tests.etcd.conftest import MakeStore
from tests.etcd.following import (
    PREFIX,
    QUICK,
    SUBNETS,
    VALUE,
    Follower,
    disconnected,
    name,
    value,
)
from tests.etcd.relay import Relay
from tunneld import allocate
from tunneld.allocate import Held
from tunneld.lab.etcd import EtcdCluster, EtcdError, EtcdServer
from tunneld.lease import Lease, parse_attrs
from tunneld.store import StoreUnavailableError
from tunneld.store.etcd import EtcdStore
from tunneld.subnet_map import SubnetMap


async def _start(etcd: EtcdServer) -> None:
    await asyncio.to_thread(etcd.start)


async def test_absent_at_start(tmp_path: Path, make_store: MakeStore) -> None:
    etcd = EtcdServer(tmp_path)
    store = make_store(etcd.url)
    with pytest.raises(StoreUnavailableError, match=etcd.url):
        await store.get_config()
    assert store.health().state == "disconnected"
    assert etcd.url in store.health().detail
    following = Follower(store)
    entering = asyncio.ensure_future(following.__aenter__())
    await _start(etcd)
    try:
        await entering
        assert store.health().state == "connected"
        assert following.content == {}
    finally:
        await following.__aexit__(None, None, None)
        etcd.close()


async def test_killed_and_started_again(store: EtcdStore, etcd: EtcdServer) -> None:
    held = await store.create(name(1), VALUE, 86400)
    async with Follower(store) as follower:
        etcd.kill()
        with pytest.raises(StoreUnavailableError):
            await store.list_entries()
        assert store.health().state == "disconnected"
        await _start(etcd)
        etcd.ctl("put", SUBNETS + name(2), "two")
        await follower.until(lambda: follower.keys == {name(1), name(2)}, "both keys")
        assert store.health().state == "connected"
        assert held is not None
        assert await store.renew(held, VALUE, 86400) is not None


async def test_compaction_and_changes_while_disconnected(
    etcd: EtcdServer, make_store: MakeStore
) -> None:
    async with Relay(etcd.url) as relay:
        store = make_store(relay.url)
        for number in range(1, 6):
            etcd.ctl("put", SUBNETS + name(number), "before")
        async with Follower(store) as follower:
            await relay.cut()
            for number in range(1, 101):
                etcd.ctl("put", SUBNETS + name(number), f"after {number}")
            etcd.ctl("del", SUBNETS + name(1))
            header = etcd.ctl("get", "-", "-w", "fields").splitlines()
            revision = next(line.split()[-1] for line in header if "Revision" in line)
            etcd.ctl("compact", revision)
            relay.mend()
            await follower.until(lambda: len(follower.keys) == 99, "the listing")
            assert follower.content[name(100)].value == b"after 100"
            assert name(1) not in follower.keys
            etcd.ctl("put", SUBNETS + name(1), "again")
            await follower.until(lambda: name(1) in follower.keys, "a later change")


async def test_a_wiped_directory_keeps_peers_that_come_back(
    store: EtcdStore, etcd: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    await store.create(name(1), VALUE, 86400)
    for number in (2, 3):
        etcd.ctl("put", SUBNETS + name(number), "peer")
    async with Follower(store) as follower:
        etcd.wipe()
        await _start(etcd)
        # Our own key is told as gone at once, so that it is put again; the peers are kept.
        await follower.until(lambda: name(1) not in follower.keys, "our key to go")
        assert follower.keys == {name(2), name(3)}
        etcd.ctl("put", SUBNETS + name(2), "peer")
        await follower.until(lambda: follower.keys == {name(2)}, "what stayed away to go")
        etcd.ctl("put", SUBNETS + name(4), "peer")
        await follower.until(lambda: follower.keys == {name(2), name(4)}, "a new peer")
    assert "was wiped or restored" in caplog.text


async def test_most_keys_deleted_at_once(etcd: EtcdServer, make_store: MakeStore) -> None:
    # Time for the put to come before the others go, also on a busy machine.
    store = make_store(etcd.url, replace(QUICK, grace=6.0))
    for number in range(1, 9):
        etcd.ctl("put", SUBNETS + name(number), "peer")
    async with Follower(store) as follower:
        etcd.ctl("del", "--prefix", SUBNETS)
        etcd.ctl("put", SUBNETS + name(1), "back")
        await follower.until(lambda: follower.content[name(1)].value == b"back", "the one")
        assert len(follower.keys) == 8
        await follower.until(lambda: follower.keys == {name(1)}, "the others to go")
        assert follower.listings == 2


async def test_members_killed_in_turn(tmp_path: Path, make_store: MakeStore) -> None:
    with EtcdCluster(tmp_path) as cluster:
        store = make_store(cluster.url)
        entry = await store.create(name(1), VALUE, 86400)
        assert entry is not None
        held = Held(Lease(IPv4Network("100.96.1.0/24"), parse_attrs(VALUE)), entry)
        async with Follower(store) as follower:
            for number, member in enumerate(cluster.members, start=2):
                member.kill()
                other = next(one for one in cluster.members if one is not member)
                await asyncio.to_thread(_put_patiently, other, name(number))
                wanted = name(number)
                await follower.until(lambda wanted=wanted: wanted in follower.keys, wanted)  # type: ignore[misc]
                held = await _renew_patiently(store, held)
                await _start(member)
            assert follower.keys == {name(number) for number in range(1, 5)}


def _put_patiently(member: EtcdServer, key: str) -> None:
    """Put a key although an election may be going on."""
    deadline = time.monotonic() + 30
    while True:
        try:
            member.ctl("put", SUBNETS + key, "v")
        except EtcdError:
            assert time.monotonic() < deadline
        else:
            return


async def _renew_patiently(store: EtcdStore, held: Held) -> Held:
    async with asyncio.timeout(30):
        while True:
            try:
                return await allocate.renew(store, held)
            except StoreUnavailableError:
                continue


async def test_slow_answers_are_waited_for(etcd: EtcdServer, make_store: MakeStore) -> None:
    async with Relay(etcd.url) as relay:
        store = make_store(relay.url)
        async with Follower(store) as follower:
            relay.delay = 2.0
            assert await store.create(name(1), VALUE, 86400) is not None
            await follower.until(lambda: name(1) in follower.keys, "the key")
            assert follower.listings == 1
            assert store.health().state == "connected"


async def test_nonsense_costs_only_itself(store: EtcdStore, etcd: EtcdServer) -> None:
    for number in range(1, 51):
        etcd.ctl("put", SUBNETS + name(number), value(number).decode())
    admitted = SubnetMap(
        IPv4Network("100.96.0.0/16"), IPv4Network("100.96.255.0/24"), IPv4Address("10.168.0.9")
    )
    async with Follower(store) as follower:
        good = SUBNETS + "100.96.100.0-24"
        for key in BAD_KEYS:
            etcd.ctl("put", SUBNETS + key, value(60).decode())
        for number, text in enumerate(BAD_VALUES, start=70):
            # An argument holds any bytes, and standard input any length.
            as_argument = [] if len(text) > 100_000 else [text]
            etcd.ctl(
                "put", SUBNETS + name(number), *as_argument, stdin=None if as_argument else text
            )
        etcd.ctl("put", good, value(61).decode())
        await follower.until(lambda: "100.96.100.0-24" in follower.keys, "the good key")
        assert len(follower.keys) == 51 + len(BAD_KEYS) + len(BAD_VALUES)
        # Both ways to see them: as changes, and as a listing.
        for entries in (follower.content.values(), await store.list_entries()):
            admitted.snapshot(entries)
            assert len(admitted.peers) == 51
            assert len(admitted.quarantined) == len(BAD_KEYS) + len(BAD_VALUES)
            assert all(len(entry.value) < 100_000 for entry in entries)


async def test_the_watch_costs_nothing_while_etcd_is_away(
    store: EtcdStore, etcd: EtcdServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with Follower(store):
        etcd.kill()
        await disconnected(store)
        before = resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.sleep(3)
        after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 0.6, "with a retry every 0.3 s"
    said = [record for record in caplog.records if record.name == "tunneld.store.etcd"]
    assert len(said) <= 3, "an outage is told once, not at each attempt"


@pytest.mark.soak
async def test_a_frozen_server_is_left(etcd: EtcdServer, make_store: MakeStore) -> None:
    store = make_store(etcd.url)
    async with Follower(store) as follower:
        etcd.freeze()
        try:
            await disconnected(store)
            await asyncio.sleep(30)
        finally:
            etcd.thaw()
        etcd.ctl("put", SUBNETS + name(1), "v")
        await follower.until(lambda: name(1) in follower.keys, "the key")


async def test_the_config_survives_anything(store: EtcdStore, etcd: EtcdServer) -> None:
    etcd.ctl("put", f"{PREFIX}/config", "\udcff{")
    assert await store.get_config() == b"\xff{"
