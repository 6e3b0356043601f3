"""What the kernel tells through netlink, and what happens when it tells too much."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from tests.platform.apart import apart, ip
from tunneld.link import sysctl
from tunneld.link.rtnl import KernelEvent, Rtnl
from tunneld.link.rtnl_watch import open_watch, parse, watch
from tunneld.link.tun import open_tun


async def _until(events: AsyncIterator[KernelEvent], wanted: KernelEvent) -> None:
    async def find() -> None:
        async for event in events:
            if event == wanted:
                return

    await asyncio.wait_for(find(), 30)


@apart
async def test_links_addresses_and_routes_come_and_go() -> None:
    async with Rtnl() as rtnl:
        events = rtnl.watch()
        tun = open_tun("flannel0")
        link = await rtnl.link("flannel0")
        assert link
        await _until(events, KernelEvent("link", link.index))
        ip("link set flannel0 up")
        ip("address add 100.96.1.0/32 dev flannel0")
        await _until(events, KernelEvent("address", link.index))
        ip("route add 100.96.0.0/16 dev flannel0")
        await _until(events, KernelEvent("route"))
        ip("route del 100.96.0.0/16 dev flannel0")
        await _until(events, KernelEvent("route", deleted=True))
        ip("address flush dev flannel0")
        await _until(events, KernelEvent("address", link.index, deleted=True))
        tun.close()
        await _until(events, KernelEvent("link", link.index, deleted=True))


@apart
async def test_a_route_that_goes_with_its_link_is_not_told() -> None:
    """Only the link's event comes: who watches routes alone would miss the loss."""
    tun = open_tun("flannel0")
    ip("link set flannel0 up")
    ip("route add 100.96.0.0/16 dev flannel0")
    async with Rtnl() as rtnl:
        events = rtnl.watch()
        ip("link set flannel0 down")
        ip("link add last type bridge")
        last = await rtnl.link("last")
        assert last
        seen = []
        async for event in events:
            seen.append(event)
            if event.ifindex == last.index:
                break
    assert KernelEvent("route", deleted=True) not in seen
    assert any(event.kind == "link" and event.ifindex != last.index for event in seen)
    tun.close()


@apart
async def test_lost_messages_become_a_resync_and_the_watch_goes_on() -> None:
    sock = open_watch()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    events = watch(sock)
    for _ in range(20):
        ip("link set lo down")
        ip("link set lo up")
    await _until(events, KernelEvent("resync"))
    ip("address add 192.0.2.1/32 dev lo")
    await _until(events, KernelEvent("address", 1))


@apart
async def test_a_flood_does_not_starve_other_tasks() -> None:
    class Flood:
        """A socket that always has something to say."""

        def __init__(self, sock: socket.socket) -> None:
            self.fileno, self.close = sock.fileno, sock.close

        def recv(self, _size: int) -> bytes:
            return b"\x10\0\0\0\x18\0\0\0" + bytes(8)  # a bare RTM_NEWROUTE

    async def consume() -> None:
        async for _ in watch(Flood(open_watch())):  # type: ignore[arg-type]
            pass

    task = asyncio.ensure_future(consume())
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    "data",
    [b"", bytes(15), bytes(16), b"\xff\xff\xff\xff\x10\0" + bytes(10), b"\x10\0\0\0\x03\0" * 3],
)
def test_messages_that_are_no_messages(data: bytes) -> None:
    assert list(parse(data)) == []


@apart
def test_sysctls_are_those_of_the_threads_namespace() -> None:
    path = "net/ipv4/conf/lo/accept_local"
    assert sysctl.read(path) == "0"
    assert sysctl.ensure(path, "1")
    assert not sysctl.ensure(path, "1")
    assert sysctl.read(path) == "1"
    with pytest.raises(FileNotFoundError):
        sysctl.ensure("net/ipv4/conf/flannel0/accept_local", "1")


def test_messages_of_one_datagram_are_padded_to_four_bytes() -> None:
    """rtnetlink(7), NLMSG_ALIGN: a message of 29 bytes takes 32; kinds that we do not know pass."""

    def message(kind: int, ifindex: int, tail: bytes = b"") -> bytes:
        body = struct.pack("=4xI", ifindex) + tail
        return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body

    datagram = message(20, 7, bytes(5)) + bytes(3) + message(28, 9) + message(17, 8)
    assert list(parse(datagram)) == [
        KernelEvent("address", 7),
        KernelEvent("link", 8, deleted=True),
    ]
