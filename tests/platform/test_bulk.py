"""Requests by the hundred, filtered dumps, and what the kernel tells of VXLAN's tables."""

from __future__ import annotations

import errno
import socket
from contextlib import aclosing
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, cast

import pytest

from tests.platform.apart import apart, ip
from tunneld.errors import StartError
from tunneld.link import rtnl_neigh, rtnl_routes, sysctl
from tunneld.link.rtnl import PROTO_TUNNELD, Rtnl
from tunneld.link.rtnl_bulk import BulkSocket, Request
from tunneld.link.rtnl_info import RouteInfo
from tunneld.link.rtnl_neigh import NUD_PERMANENT, NUD_REACHABLE, Neighbour, NeighbourEvent
from tunneld.link.rtnl_vxlan import VxlanSettings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

MAC = "be:51:5e:00:00:01"


async def _vtep(rtnl: Rtnl, *, miss: bool = False) -> int:
    ip("link add eth0 type veth peer name far")
    ip("address add 10.168.0.2/24 dev eth0")
    ip("link set eth0 up")
    ip("link set far up")
    eth0 = await rtnl.link("eth0")
    assert eth0
    local = IPv4Address("10.168.0.2")
    settings = VxlanSettings(1, eth0.index, local, 8472, proxy=miss, l2miss=miss)
    await rtnl.add_vxlan("flannel.1", settings, mac="be:51:5e:8d:fd:f9", mtu=1450)
    made = await rtnl.vxlan("flannel.1")
    assert made
    assert made.settings == settings
    ip("link set flannel.1 up")
    ip("address add 100.96.1.0/32 dev flannel.1")
    return made.index


def _peer(index: int, number: int) -> tuple[Neighbour, Neighbour, RouteInfo]:
    subnet = IPv4Network((int(IPv4Address("10.0.0.0")) + (number << 8), 24))
    mac = f"be:00:00:00:{number >> 8:02x}:{number & 255:02x}"
    return (
        Neighbour(index, mac, subnet[0], NUD_PERMANENT, fdb=False),
        Neighbour(index, mac, IPv4Address("172.16.0.0") + number, NUD_PERMANENT, fdb=True),
        RouteInfo(subnet, index, subnet[0], 0, PROTO_TUNNELD, 0, unreachable=False, onlink=True),
    )


@apart
async def test_three_tables_of_500_peers_are_written_listed_and_removed() -> None:
    bulk = BulkSocket()
    async with Rtnl() as rtnl:
        index = await _vtep(rtnl)
        peers = [_peer(index, number) for number in range(1, 501)]
        requests = [rtnl_neigh.put(n) for n, _, _ in peers]
        requests += [rtnl_neigh.put(f) for _, f, _ in peers]
        requests += [rtnl_routes.put(r) for _, _, r in peers]
        assert {answer.errno for answer in await bulk.exchange(requests)} == {0}
        # Others' entries are not listed.
        ip(f"neigh add 10.168.0.9 lladdr {MAC} dev eth0 nud permanent")
        ip("route add 172.20.0.0/24 via 10.168.0.9 proto static")
        assert set(await rtnl_neigh.neighbours(bulk, index, fdb=False)) == {n for n, _, _ in peers}
        assert set(await rtnl_neigh.neighbours(bulk, index, fdb=True)) == {f for _, f, _ in peers}
        for listed in (
            await rtnl_routes.routes(bulk, proto=PROTO_TUNNELD),
            await rtnl_routes.routes(bulk, ifindex=index),
            await rtnl.our_routes(),
        ):
            assert set(listed) == {r for _, _, r in peers}
        drops = [rtnl_routes.drop(r) for _, _, r in peers]
        drops += [rtnl_neigh.drop(entry) for n, f, _ in peers for entry in (f, n)]
        assert {answer.errno for answer in await bulk.exchange(drops)} == {0}
        assert await rtnl_neigh.neighbours(bulk, index, fdb=True) == []
        assert await rtnl.our_routes() == []
    bulk.close()


@apart
async def test_one_that_is_refused_costs_no_other_and_says_why() -> None:
    bulk = BulkSocket()
    async with Rtnl() as rtnl:
        index = await _vtep(rtnl)
        good, bad = _peer(index, 1)[2], _peer(999, 2)[2]
        answers = await bulk.exchange([rtnl_routes.put(bad), rtnl_routes.put(good)])
        assert [answer.errno for answer in answers] == [errno.ENODEV, 0]
        assert answers[0].reason
        assert await rtnl.our_routes() == [good]
        (answer,) = await bulk.exchange([Request(9999, b"")])
        assert answer.errno == errno.EOPNOTSUPP
        with pytest.raises(StartError, match="refuses to list"):
            await bulk.dump(rtnl_neigh.RTM_GETNEIGH, bytes([socket.AF_INET, *[1] * 11]))
        assert await bulk.exchange([]) == []
    bulk.close()


@apart
async def test_an_fdb_entry_is_replaced_in_place_and_a_route_too() -> None:
    bulk = BulkSocket()
    async with Rtnl() as rtnl:
        index = await _vtep(rtnl)
        old = Neighbour(index, MAC, IPv4Address("10.168.0.3"), NUD_PERMANENT, fdb=True)
        new = Neighbour(index, MAC, IPv4Address("10.168.0.4"), NUD_PERMANENT, fdb=True)
        tunnel = _peer(index, 1)[2]
        eth0 = await rtnl.link("eth0")
        assert eth0
        direct = RouteInfo(
            tunnel.dst, eth0.index, IPv4Address("10.168.0.9"), 0, 84, 0, unreachable=False
        )
        for put in (
            [rtnl_neigh.put(old), rtnl_routes.put(tunnel)],
            [rtnl_neigh.put(new), rtnl_routes.put(direct)],
        ):
            assert [answer.errno for answer in await bulk.exchange(put)] == [0, 0]
        assert await rtnl_neigh.neighbours(bulk, index, fdb=True) == [new]
        assert await rtnl_routes.routes(bulk, proto=PROTO_TUNNELD) == [direct]
    bulk.close()


@apart
async def test_who_is_on_the_link() -> None:
    bulk = BulkSocket()
    async with Rtnl() as rtnl:
        await _vtep(rtnl)
        eth0 = await rtnl.link("eth0")
        assert eth0
        ip("route add default via 10.168.0.1")
        ip("route add unreachable 192.0.2.0/24")
        addresses = ["10.168.0.9", "10.168.0.2", "198.51.100.1", "192.0.2.1"]
        found = await rtnl_routes.on_link(bulk, [IPv4Address(a) for a in addresses])
        assert found == {IPv4Address("10.168.0.9"): eth0.index}
    bulk.close()


@apart
async def test_the_kernel_asks_for_a_neighbour_only_with_app_solicit() -> None:
    bulk = BulkSocket()
    async with Rtnl() as rtnl:
        index = await _vtep(rtnl, miss=True)
        ip("route add 100.96.0.0/16 dev flannel.1")
        sysctl.ensure("net/ipv4/neigh/flannel.1/retrans_time_ms", "20")
        watch = cast("AsyncGenerator[NeighbourEvent, None]", rtnl_neigh.watch())
        async with aclosing(watch) as events:
            for solicit, address in (("0", "100.96.2.3"), ("3", "100.96.2.4")):
                sysctl.ensure("net/ipv4/neigh/flannel.1/app_solicit", solicit)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.sendto(b"x", (address, 9))
                misses = 0
                async for event in events:
                    if event.entry is None or str(event.entry.dst) != address:
                        continue
                    misses += event.kind == "miss"
                    if event.kind == "new":  # NUD_FAILED: it has given up
                        break
                assert misses == int(solicit)
            # And for the address behind a MAC without more ado.
            entry = Neighbour(index, MAC, IPv4Address("100.96.2.5"), NUD_REACHABLE, fdb=False)
            await bulk.exchange([rtnl_neigh.put(entry)])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"x", ("100.96.2.5", 9))
            async for event in events:
                if event.kind == "miss" and event.entry and event.entry.fdb:
                    assert (event.entry.mac, event.entry.ifindex) == (MAC, index)
                    break
    bulk.close()
