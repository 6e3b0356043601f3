"""Links, addresses and routes: each `ensure_*` repeated, and checked by iproute2."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from tests.platform.apart import apart, ip
from tunneld.errors import StartError
from tunneld.link.rtnl import METRIC_LAST, PROTO_TUNNELD, Rtnl
from tunneld.link.tun import open_tun

NETWORK, SUBNET = IPv4Network("100.96.0.0/16"), IPv4Network("100.96.1.0/24")


def _json(command: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ip(f"-j -d {command}"))
    return found


def _underlay() -> None:
    """A host's eth0 with the default route of the scenarios."""
    ip("link add eth0 type veth peer name far")
    ip("address add 10.168.0.2/24 dev eth0")
    ip("link set eth0 up")
    ip("link set far up")
    ip("route add default via 10.168.0.1")


def _connect(address: str) -> int:
    """The errno that a host program gets for a destination; 0: there is a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return sock.connect_ex((address, 9))


@apart
async def test_a_link_gets_what_it_lacks_and_then_nothing() -> None:
    tun = open_tun("flannel0")
    async with Rtnl() as rtnl:
        assert await rtnl.ensure_link("flannel0", mtu=1472, txqlen=5000)
        assert not await rtnl.ensure_link("flannel0", mtu=1472, txqlen=5000)
        link = await rtnl.link("flannel0")
        assert link
        assert (link.mtu, link.txqlen, link.up, link.kind) == (1472, 5000, True, "tun")
        for broken in ("mtu 1400", "txqueuelen 7", "down"):
            ip(f"link set flannel0 {broken}")
            assert await rtnl.ensure_link("flannel0", mtu=1472, txqlen=5000), broken
        (seen,) = _json("link show flannel0")
        assert (seen["mtu"], seen["txqlen"]) == (1472, 5000)
        assert "UP" in seen["flags"]
    tun.close()


@apart
async def test_no_such_link() -> None:
    async with Rtnl() as rtnl:
        assert await rtnl.link("flannel0") is None
        assert not await rtnl.remove_link("flannel0")
        with pytest.raises(StartError, match="flannel0"):
            await rtnl.ensure_link("flannel0", mtu=1472)


@apart
async def test_an_address_on_a_point_to_point_device() -> None:
    tun = open_tun("flannel0")
    async with Rtnl() as rtnl:
        link = await rtnl.link("flannel0")
        assert link
        base = IPv4Interface("100.96.1.0/32")
        assert await rtnl.ensure_address(link.index, base)
        assert not await rtnl.ensure_address(link.index, base)
        (info,) = await rtnl.addresses(link.index)
        assert (info.address, info.prefix_len) == (base.ip, 32)
        assert IPv4Address("127.0.0.1") in {i.address for i in await rtnl.addresses()}
    (seen,) = _json("address show flannel0")
    local = [(a["local"], a["prefixlen"]) for a in seen["addr_info"] if a["family"] == "inet"]
    assert local == [("100.96.1.0", 32)]
    ip("address add 192.0.2.1 peer 192.0.2.9/32 dev flannel0")
    async with Rtnl() as rtnl:
        ours = {info.address for info in await rtnl.addresses(link.index)}
    assert ours == {base.ip, IPv4Address("192.0.2.1")}  # the far end's is not ours
    tun.close()


@apart
async def test_a_route_is_ours_global_and_put_once() -> None:
    tun = open_tun("flannel0")
    ip("link set flannel0 up")
    async with Rtnl() as rtnl:
        link = await rtnl.link("flannel0")
        assert link
        assert await rtnl.ensure_route(NETWORK, ifindex=link.index)
        assert not await rtnl.ensure_route(NETWORK, ifindex=link.index)
        (seen,) = _json("-N route show 100.96.0.0/16")
        assert (seen["dev"], seen["protocol"], seen["scope"]) == ("flannel0", "84", "0")
        # Somebody else's route in its place is replaced, not doubled.
        ip("route replace 100.96.0.0/16 dev lo proto static")
        assert await rtnl.ensure_route(NETWORK, ifindex=link.index)
        (seen,) = _json("-N route show 100.96.0.0/16")
        assert (seen["dev"], seen["protocol"]) == ("flannel0", "84")
    tun.close()


@apart
async def test_a_route_by_a_next_hop_with_metric_and_onlink() -> None:
    _underlay()
    async with Rtnl() as rtnl:
        link = await rtnl.link("eth0")
        assert link
        via = IPv4Address("192.0.2.1")
        wanted = {"ifindex": link.index, "via": via, "onlink": True, "metric": 7}
        assert await rtnl.ensure_route(SUBNET, **wanted)  # type: ignore[arg-type]
        assert not await rtnl.ensure_route(SUBNET, **wanted)  # type: ignore[arg-type]
        (seen,) = _json("route show 100.96.1.0/24")
        assert (seen["gateway"], seen["metric"], seen["flags"]) == ("192.0.2.1", 7, ["onlink"])
        (route,) = await rtnl.our_routes()
        assert await rtnl.remove_route(route)
        assert not await rtnl.remove_route(route)
    assert not _json("route show 100.96.1.0/24")


@apart
async def test_the_unreachable_route_waits_below_the_devices() -> None:
    """Fail closed: without it a packet for a peer leaves by the default route in clear."""
    _underlay()
    assert _connect("100.96.2.3") == 0
    async with Rtnl() as rtnl:
        assert await rtnl.ensure_unreachable(NETWORK)
        assert not await rtnl.ensure_unreachable(NETWORK)
        (seen,) = _json("-N route show 100.96.0.0/16")
        assert (seen["metric"], seen["protocol"], seen["type"]) == (
            METRIC_LAST,
            str(PROTO_TUNNELD),
            "7",  # RTN_UNREACHABLE
        )
        assert _connect("100.96.2.3") == errno.EHOSTUNREACH
        assert await rtnl.route_to(IPv4Address("100.96.2.3")) is None
        tun = open_tun("flannel0")
        await rtnl.ensure_link("flannel0", mtu=1472)
        link = await rtnl.link("flannel0")
        assert link
        await rtnl.ensure_route(NETWORK, ifindex=link.index)
        assert _connect("100.96.2.3") == 0
        tun.close()
        assert _connect("100.96.2.3") == errno.EHOSTUNREACH
        assert [str(route) for route in await rtnl.our_routes()] == ["unreachable 100.96.0.0/16"]
        assert await rtnl.remove_unreachable(NETWORK)
        assert not await rtnl.remove_unreachable(NETWORK)
    assert _connect("100.96.2.3") == 0


@apart
def test_a_blackhole_says_less_than_unreachable() -> None:
    ip("route add blackhole 100.96.0.0/16")
    ip("route add unreachable 100.97.0.0/16")
    assert _connect("100.96.2.3") == errno.EINVAL
    assert _connect("100.97.2.3") == errno.EHOSTUNREACH


@apart
async def test_link_down_and_up_loses_the_route_for_good() -> None:
    tun = open_tun("flannel0")
    async with Rtnl() as rtnl:
        await rtnl.ensure_link("flannel0", mtu=1472)
        link = await rtnl.link("flannel0")
        assert link
        await rtnl.ensure_route(NETWORK, ifindex=link.index)
        ip("link set flannel0 down")
        ip("link set flannel0 up")
        assert await rtnl.our_routes() == []
        assert await rtnl.ensure_route(NETWORK, ifindex=link.index)
    tun.close()


@apart
async def test_the_default_route_with_the_lowest_metric() -> None:
    async with Rtnl() as rtnl:
        assert await rtnl.default_route() is None
        assert await rtnl.route_to(IPv4Address("192.0.2.1")) is None
        _underlay()
        ip("link add eth1 type veth peer name far1")
        ip("address add 10.169.0.2/24 dev eth1")
        ip("link set eth1 up")
        ip("route add unreachable default metric 50")
        ip("route del default via 10.168.0.1")
        ip("route add default via 10.168.0.1 metric 300")
        assert (await _default_device(rtnl)) == "eth0"
        hops = "nexthop via 10.169.0.1 dev eth1 nexthop via 10.168.0.1 dev eth0"
        ip(f"route add default metric 200 {hops}")
        assert (await _default_device(rtnl)) == "eth1"


def _many_routes(count: int) -> None:
    batch = "\n".join(f"route add 10.9.{n // 256}.{n % 256}/32 dev eth0" for n in range(count))
    subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True, timeout=60)


async def _default_device(rtnl: Rtnl) -> str:
    route = await rtnl.default_route()
    assert route
    return next(link.name for link in await rtnl.links() if link.index == route.ifindex)


@apart
async def test_the_source_that_the_kernel_would_send_from() -> None:
    _underlay()
    ip("address add 10.168.0.9/24 dev eth0")
    ip("route add 192.0.2.0/24 via 10.168.0.1 src 10.168.0.9")
    async with Rtnl() as rtnl:
        route = await rtnl.route_to(IPv4Address("192.0.2.7"))
        assert route
        assert (route.source, route.via) == (IPv4Address("10.168.0.9"), IPv4Address("10.168.0.1"))


@apart
async def test_tasks_ask_together_on_a_host_with_many_routes() -> None:
    """The kernel says EBUSY to a second dump while the first takes more than one message."""
    _underlay()
    _many_routes(2000)
    async with Rtnl() as rtnl:
        await rtnl.ensure_unreachable(NETWORK)
        ours, default, again, links = await asyncio.gather(
            rtnl.our_routes(), rtnl.default_route(), rtnl.default_route(), rtnl.links()
        )
    assert [route.dst for route in ours] == [NETWORK]
    assert default
    assert default == again
    assert {link.name for link in links} == {"lo", "eth0", "far"}


@apart
async def test_what_nobody_reads_from_the_tun_is_counted_as_dropped() -> None:
    tun = open_tun("flannel0")
    async with Rtnl() as rtnl:
        await rtnl.ensure_link("flannel0", mtu=1472, txqlen=1)
        link = await rtnl.link("flannel0")
        assert link
        before = link.tx_dropped
        await rtnl.ensure_route(NETWORK, ifindex=link.index)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(10):
                sock.sendto(b"x", ("100.96.2.3", 9))
        after = await rtnl.link("flannel0")
        assert after
        waiting = 0
        while True:
            try:
                waiting += os.read(tun.fds[0], 2048)[0] >> 4 == 4  # not the kernel's own IPv6
            except BlockingIOError:
                break
        assert after.tx_dropped - before >= 10 - waiting > 0
    tun.close()
