"""Two hosts with one public IP find each other; one that is dead, or ourselves, is nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from ipaddress import IPv4Address

import pytest

from tests.etcd.following import PREFIX
from tunneld.lab.etcd import EtcdServer
from tunneld.store import HostStore, StoreUnavailableError
from tunneld.store.etcd import EtcdStore
from tunneld.store.etcd_hosts import host_identity
from tunneld.store.etcd_options import EtcdOptions, parse_endpoints

IP = IPv4Address("10.168.0.2")
MakeHost = Callable[..., EtcdStore]


@pytest.fixture
async def host(etcd: EtcdServer) -> AsyncIterator[MakeHost]:
    stores: list[EtcdStore] = []

    def make(identity: str, **user: str) -> EtcdStore:
        options = EtcdOptions(parse_endpoints(etcd.url), **user)
        stores.append(EtcdStore(options, identity=identity))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


async def claims(*stores: EtcdStore, rounds: int = 3) -> list[tuple[str, ...]]:
    """Let all claim in turn, a few seconds apart, as the daemons do; returns the last answers."""
    for number in range(rounds):
        await asyncio.sleep(2.5 if number else 0)
        answers = [await store.claim_host(IP) for store in stores]
    return answers


async def test_two_hosts_name_each_other(host: MakeHost, etcd: EtcdServer) -> None:
    one, two = host("one"), host("two")
    assert isinstance(one, HostStore)
    answers = await claims(one, two)
    assert [len(answer) for answer in answers] == [1, 1]
    assert "(two)" in answers[0][0]
    assert "(one)" in answers[1][0]
    # Nothing of it lies where flannel looks.
    assert etcd.ctl("get", "--prefix", PREFIX) == ""
    keys = etcd.ctl("get", "--prefix", "--keys-only", "/").split()
    assert keys == [f"/tunneld{PREFIX}/hosts/{IP}/{name}" for name in ("one", "two")]


async def test_a_dead_host_is_no_double(host: MakeHost) -> None:
    assert await host("dead").claim_host(IP) == ()
    assert await claims(host("alive")) == [()]


async def test_a_new_daemon_of_the_same_host_is_no_double(host: MakeHost) -> None:
    assert await claims(host("same"), host("same")) == [(), ()]


async def test_other_addresses_are_others_business(host: MakeHost) -> None:
    one, two = host("one"), host("two")
    for _ in range(2):
        assert await one.claim_host(IP) == ()
        assert await two.claim_host(IPv4Address("10.168.0.20")) == ()


async def test_nonsense_below_our_keys(host: MakeHost, etcd: EtcdServer) -> None:
    for name, value in (("a", "{"), ("b", '{"Host":7}'), ("\udcff", '{"Host":"\\u001b[31m"}')):
        etcd.ctl("put", f"/tunneld{PREFIX}/hosts/{IP}/{name}", value)
    assert await claims(host("one"), rounds=2) == [()]


async def test_a_user_who_may_not_is_no_outage(host: MakeHost, etcd: EtcdServer) -> None:
    etcd.enable_auth("rootsecret", [("node", "correct horse", PREFIX)])
    store = host("one", username="node", password="correct horse")
    assert await store.list_entries() == ()
    with pytest.raises(StoreUnavailableError, match="permission denied"):
        await store.claim_host(IP)
    assert store.health().state == "connected"


def test_the_identity_tells_network_stacks_apart() -> None:
    assert host_identity() == host_identity()
    assert len(host_identity()) == 16
