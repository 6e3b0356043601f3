"""Allocation on a real etcd: races, reuse, and a lease that another owner has taken."""

from __future__ import annotations

import asyncio
import random
from ipaddress import IPv4Address

import pytest

from tests.etcd.conftest import MakeStore
from tests.etcd.following import PREFIX, SUBNETS
from tunneld import allocate
from tunneld.errors import LeaseLostError, StartError
from tunneld.lab.etcd import EtcdServer
from tunneld.lease import LeaseAttrs
from tunneld.netconf import parse_network_config
from tunneld.store import Entry, StoreUnavailableError
from tunneld.store.etcd import EtcdStore

CONFIG = parse_network_config(
    b'{"Network":"100.96.0.0/16","SubnetMin":"100.96.1.0","SubnetMax":"100.96.16.0"}', "test"
)


def attrs(number: int) -> LeaseAttrs:
    return LeaseAttrs(IPv4Address(f"10.168.0.{number}"))


async def acquire(store: EtcdStore, number: int) -> allocate.Held:
    rng = random.Random(number)
    return await allocate.acquire(store, CONFIG, attrs(number), previous=None, rng=rng)


async def test_twenty_race_for_sixteen(etcd: EtcdServer, make_store: MakeStore) -> None:
    stores = [make_store(etcd.url) for _ in range(20)]
    silent = 0

    async def claim(store: EtcdStore, number: int) -> allocate.Held:
        nonlocal silent
        while True:
            try:
                return await acquire(store, number)
            except StoreUnavailableError:
                # No answer in time, on a crowded machine: a daemon tries again too.
                silent += 1

    ends = await asyncio.gather(
        *(claim(store, number) for number, store in enumerate(stores, start=1)),
        return_exceptions=True,
    )
    held = [end for end in ends if isinstance(end, allocate.Held)]
    errors = [end for end in ends if not isinstance(end, allocate.Held)]
    assert len({end.lease.subnet for end in held}) == len(held) == 16
    assert all(isinstance(error, StartError) for error in errors), errors
    assert all("no free subnet" in str(error) for error in errors)
    keys = etcd.ctl("get", "--prefix", "--keys-only", PREFIX).split()
    assert keys == sorted(SUBNETS + end.lease.key for end in held)
    # Those that lost a race have given their leases back; where no answer came it is left alone.
    assert 0 <= len(etcd.ctl("lease", "list").split("\n")) - (16 + 2) <= silent


async def test_the_same_node_gets_the_same_subnet(etcd: EtcdServer, make_store: MakeStore) -> None:
    first = await acquire(make_store(etcd.url), 1)
    again = await acquire(make_store(etcd.url), 1)
    assert again.lease.subnet == first.lease.subnet
    assert again.entry.mod_revision > first.entry.mod_revision
    assert again.entry.create_revision == first.entry.create_revision


async def test_a_claim_of_another_is_never_overwritten(store: EtcdStore, etcd: EtcdServer) -> None:
    held = await acquire(store, 1)
    other = '{"PublicIP":"10.168.0.99","PublicIPv6":null}'
    etcd.ctl("put", SUBNETS + held.lease.key, other)
    with pytest.raises(LeaseLostError, match=r"10\.168\.0\.99"):
        await allocate.renew(store, held)
    assert etcd.ctl("get", "--print-value-only", SUBNETS + held.lease.key) == other + "\n"


async def test_an_answer_that_was_lost_costs_no_second_subnet(
    store: EtcdStore, etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = EtcdStore.create

    async def lost(self: EtcdStore, key: str, value: bytes, ttl: float) -> Entry | None:
        monkeypatch.setattr(EtcdStore, "create", create)
        await create(self, key, value, ttl)
        raise StoreUnavailableError("the answer was lost")

    monkeypatch.setattr(EtcdStore, "create", lost)
    with pytest.raises(StoreUnavailableError):
        await acquire(store, 1)
    await acquire(store, 1)
    assert etcd.ctl("get", "--prefix", "--keys-only", PREFIX).count("\n\n") == 1


async def test_the_same_number_in_a_new_history_is_another_key(
    store: EtcdStore, etcd: EtcdServer
) -> None:
    held = await acquire(store, 1)
    etcd.wipe()
    await asyncio.to_thread(etcd.start)
    other = '{"PublicIP":"10.168.0.99","PublicIPv6":null}'
    etcd.ctl("put", SUBNETS + held.lease.key, other)
    # Were it not for the value, this transaction would find "its" revision again.
    (there,) = await store.list_entries()
    assert there.mod_revision == held.entry.mod_revision
    with pytest.raises(LeaseLostError):
        await allocate.renew(store, held)
    assert etcd.ctl("get", "--print-value-only", SUBNETS + held.lease.key) == other + "\n"
