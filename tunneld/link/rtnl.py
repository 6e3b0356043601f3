"""Links, addresses and routes of the kernel, by pyroute2; every change is an idempotent `ensure_*`.

Each `ensure_*` compares first and returns True only when something had to be changed, so that a
repair can be counted. What we add carries our route protocol number, so that `tunneld cleanup`
finds it again and `ip route show proto 84` shows it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import TracebackType
from typing import Any, Self

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from tunneld.errors import StartError
from tunneld.link.rtnl_info import (
    RTNH_F_ONLINK,
    SCOPE_GLOBAL,
    AddressInfo,
    LinkInfo,
    RouteInfo,
    read_address,
    read_link,
    read_route,
)
from tunneld.link.rtnl_socket import RtnlSocket
from tunneld.link.rtnl_vxlan import VxlanInfo, VxlanSettings, creation, read_vxlan
from tunneld.link.rtnl_watch import KernelEvent, open_watch, watch

__all__ = ["AddressInfo", "KernelEvent", "LinkInfo", "RouteInfo", "Rtnl"]

PROTO_TUNNELD = 0x54
"""Route protocol number of everything that we add (`ip route show proto 84`)."""

METRIC_LAST = 4294967295
"""Metric of the unreachable routes: any other route to the same prefix comes first."""

_RTN_UNICAST = 1
_RT_TABLE_MAIN = 254


def _gone(error: NetlinkError) -> bool:
    return error.code in {errno.ESRCH, errno.ENODEV, errno.ENOENT, errno.EADDRNOTAVAIL}


def refusal(error: NetlinkError) -> StartError:
    """Return what a user is told of a request that the kernel refused."""
    missing = error.code in {errno.EPERM, errno.EACCES}
    return StartError(
        f"the kernel refuses to change links, addresses or routes: {os.strerror(error.code)}",
        remedy="run as root or with CAP_NET_ADMIN" if missing else "",
    )


class Rtnl:
    """An open netlink socket; use it as an async context manager, in one event loop.

    Tasks may share it. Every method raises NetlinkError when the kernel refuses, and StartError
    when its answer is lost (see `rtnl_socket`); the next question may be asked all the same.
    """

    def __init__(self) -> None:
        self._socket = RtnlSocket()

    async def __aenter__(self) -> Self:
        await self._socket.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    async def links(self) -> list[LinkInfo]:
        """Return all interfaces."""
        return [read_link(message) for message in await self._socket.dump("link")]

    async def link(self, name: str) -> LinkInfo | None:
        """Return one interface, or None."""
        try:
            for message in await self._socket.ask("link", "get", ifname=name):
                return read_link(message)
        except NetlinkError as error:
            if not _gone(error):
                raise
        return None

    async def addresses(self, ifindex: int | None = None) -> list[AddressInfo]:
        """Return the IPv4 addresses of one interface or of all, in the kernel's order."""
        found = [
            read_address(message)
            for message in await self._socket.dump("addr", family=socket.AF_INET)
        ]
        return [info for info in found if ifindex in {None, info.ifindex}]

    async def our_routes(self) -> list[RouteInfo]:
        """Return the routes of the main table that carry our protocol number."""
        request = rtmsg()
        request["family"] = socket.AF_INET
        request["table"] = _RT_TABLE_MAIN
        request["proto"] = PROTO_TUNNELD
        request["type"] = 0
        return [read_route(message) for message in await self._socket.dump_routes(request)]

    async def default_route(self) -> RouteInfo | None:
        """Return the default route with the lowest metric, or None."""
        request = rtmsg()
        request["family"] = socket.AF_INET
        request["table"] = _RT_TABLE_MAIN
        request["type"] = _RTN_UNICAST
        messages = await self._socket.dump_routes(request, only_default=True)
        found = [read_route(message) for message in messages]
        return min(
            (route for route in found if route.ifindex),
            key=lambda route: route.metric,
            default=None,
        )

    async def route_to(self, address: IPv4Address) -> RouteInfo | None:
        """Return the route that the kernel takes to `address` now, or None when there is none."""
        try:
            for message in await self._socket.ask("route", "get", dst=str(address)):
                return read_route(message)
        except NetlinkError as error:
            # ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL: no route, or one that refuses.
            if error.code == errno.EPERM:
                raise
        return None

    async def ensure_link(
        self, name: str, *, mtu: int, up: bool = True, txqlen: int | None = None
    ) -> bool:
        """Give an interface its MTU, queue length and state.

        Raises:
            StartError: there is no such interface.
        """
        info = await self.link(name)
        if info is None:
            raise StartError(f"there is no interface {name}")
        wanted: dict[str, Any] = {}
        if info.mtu != mtu:
            wanted["mtu"] = mtu
        if txqlen is not None and info.txqlen != txqlen:
            wanted["txqlen"] = txqlen
        if info.up != up:
            wanted["state"] = "up" if up else "down"
        if wanted:
            await self._socket.ask("link", "set", index=info.index, **wanted)
        return bool(wanted)

    async def ensure_address(self, ifindex: int, address: IPv4Interface) -> bool:
        """Give an interface an address; other addresses stay."""
        wanted = (address.ip, address.network.prefixlen)
        if wanted in {(i.address, i.prefix_len) for i in await self.addresses(ifindex)}:
            return False
        await self._socket.ask(
            "addr",
            "replace",
            index=ifindex,
            address=str(address.ip),
            prefixlen=wanted[1],
            proto=PROTO_TUNNELD,
        )
        return True

    async def ensure_route(
        self,
        dst: IPv4Network,
        *,
        ifindex: int,
        via: IPv4Address | None = None,
        onlink: bool = False,
        metric: int = 0,
        scope: int = SCOPE_GLOBAL,
    ) -> bool:
        """Have exactly this route for this destination and metric, in place of anybody's."""
        wanted = RouteInfo(
            dst, ifindex, via, metric, PROTO_TUNNELD, scope, unreachable=False, onlink=onlink
        )
        if wanted in await self.our_routes():
            return False
        extra: dict[str, Any] = {"gateway": str(via)} if via else {}
        if onlink:
            extra["flags"] = RTNH_F_ONLINK
        if metric:
            extra["priority"] = metric
        await self._socket.ask(
            "route",
            "replace",
            dst=str(dst),
            oif=ifindex,
            proto=PROTO_TUNNELD,
            scope=scope,
            **extra,
        )
        return True

    async def ensure_unreachable(self, dst: IPv4Network) -> bool:
        """Have the unreachable route that keeps `dst` from leaving by another way (fail closed)."""
        for route in await self.our_routes():
            if route.dst == dst and route.unreachable and route.metric == METRIC_LAST:
                return False
        await self._socket.ask(
            "route",
            "replace",
            dst=str(dst),
            type="unreachable",
            priority=METRIC_LAST,
            proto=PROTO_TUNNELD,
        )
        return True

    async def remove_unreachable(self, dst: IPv4Network) -> bool:
        """Remove our unreachable route; False when there is none."""
        for route in await self.our_routes():
            if route.dst == dst and route.unreachable:
                return await self.remove_route(route)
        return False

    async def remove_route(self, route: RouteInfo) -> bool:
        """Remove a route; False when it is gone already."""
        extra: dict[str, Any] = {"type": "unreachable"} if route.unreachable else {}
        if route.ifindex:
            extra["oif"] = route.ifindex
        if route.metric:
            extra["priority"] = route.metric
        try:
            await self._socket.ask(
                "route", "del", dst=str(route.dst), proto=route.proto, scope=route.scope, **extra
            )
        except NetlinkError as error:
            if _gone(error):
                return False
            raise
        return True

    async def remove_link(self, name: str) -> bool:
        """Delete an interface; False when it is gone already."""
        info = await self.link(name)
        if info is None:
            return False
        try:
            await self._socket.ask("link", "del", index=info.index)
        except NetlinkError as error:
            if _gone(error):
                return False
            raise
        return True

    async def vxlan(self, name: str) -> VxlanInfo | None:
        """Return what bears this name, its VXLAN settings too, or None."""
        try:
            for message in await self._socket.ask("link", "get", ifname=name):
                return read_vxlan(message)
        except NetlinkError as error:
            if not _gone(error):
                raise
        return None

    async def vxlans(self) -> list[VxlanInfo]:
        """Return all VXLAN devices."""
        found = [read_vxlan(message) for message in await self._socket.dump("link")]
        return [info for info in found if info.kind == "vxlan"]

    async def add_vxlan(self, name: str, settings: VxlanSettings, *, mac: str, mtu: int) -> None:
        """Make a VXLAN device, down."""
        made = creation(settings)
        await self._socket.ask("link", "add", ifname=name, address=mac, mtu=mtu, **made)

    async def set_link(self, index: int, **wanted: Any) -> None:
        """Change an interface: `set_link(3, state="up", address="be:51:5e:8d:fd:f9")`."""
        await self._socket.ask("link", "set", index=index, **wanted)

    async def remove_address(self, info: AddressInfo) -> None:
        """Take an address from its interface."""
        address = {"address": str(info.address), "prefixlen": info.prefix_len}
        await self._socket.ask("addr", "del", index=info.ifindex, **address)

    def watch(self) -> AsyncIterator[KernelEvent]:
        """Yield changes of links, addresses and routes from now on; see `rtnl_watch`."""
        return watch(open_watch())
