"""Links, addresses and routes of the kernel, by pyroute2; every change is an idempotent `ensure_*`.

Each `ensure_*` compares first and returns True only when something had to be changed, so that a
repair can be counted. What we add carries our route protocol number, so that `tunneld cleanup`
finds it again and `ip route show proto 84` shows it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from types import TracebackType
from typing import Any, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tunneld.errors import StartError
from tunneld.link.rtnl_watch import KernelEvent, open_watch, watch

PROTO_TUNNELD = 0x54
"""Route protocol number of everything that we add (`ip route show proto 84`)."""

METRIC_LAST = 4294967295
"""Metric of the unreachable routes: any other route to the same prefix comes first."""

SCOPE_GLOBAL = 0
SCOPE_LINK = 253

_IFF_UP = 0x1
_RTN_UNICAST = 1
_RTN_UNREACHABLE = 7
_RT_TABLE_MAIN = 254
_RTNH_F_ONLINK = 4


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """One interface.

    Attributes:
        index: its number.
        name: its name.
        mtu: bytes.
        up: administratively up.
        kind: "tun", "veth", "bridge", ... or an empty string for hardware.
        txqlen: packets.
        tx_dropped: packets that the kernel dropped before anybody read them.
    """

    index: int
    name: str
    mtu: int
    up: bool
    kind: str
    txqlen: int
    tx_dropped: int


@dataclass(frozen=True, slots=True)
class AddressInfo:
    """One IPv4 address of this host."""

    ifindex: int
    address: IPv4Address
    prefix_len: int
    scope: int


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """One IPv4 route of the main table.

    Attributes:
        dst: destination.
        ifindex: egress interface; None for unreachable routes.
        via: next hop.
        metric: priority; 0 is the best.
        proto: who made it.
        scope: SCOPE_GLOBAL or SCOPE_LINK.
        unreachable: it answers with ICMP instead of forwarding.
    """

    dst: IPv4Network
    ifindex: int | None
    via: IPv4Address | None
    metric: int
    proto: int
    scope: int
    unreachable: bool

    def __str__(self) -> str:
        kind = "unreachable " if self.unreachable else ""
        return f"{kind}{self.dst}"


def _link(message: Any) -> LinkInfo:
    stats = message.get("stats64") or {}
    return LinkInfo(
        index=message["index"],
        name=message.get("ifname") or "",
        mtu=message.get("mtu") or 0,
        up=bool(message["flags"] & _IFF_UP),
        kind=message.get(("linkinfo", "kind")) or "",
        txqlen=message.get("txqlen") or 0,
        tx_dropped=stats.get("tx_dropped", 0),
    )


def _route(message: Any) -> RouteInfo:
    dst, via = message.get("dst"), message.get("gateway")
    return RouteInfo(
        dst=IPv4Network((int(IPv4Address(dst)) if dst else 0, message["dst_len"])),
        ifindex=message.get("oif"),
        via=IPv4Address(via) if via else None,
        metric=message.get("priority") or 0,
        proto=message["proto"],
        scope=message["scope"],
        unreachable=message["type"] == _RTN_UNREACHABLE,
    )


def _gone(error: NetlinkError) -> bool:
    return error.code in {errno.ESRCH, errno.ENODEV, errno.ENOENT, errno.EADDRNOTAVAIL}


class Rtnl:
    """An open netlink socket; use it as an async context manager, in one event loop."""

    def __init__(self) -> None:
        self._ipr: Any = None

    async def __aenter__(self) -> Self:
        self._ipr = AsyncIPRoute()
        await self._ipr.setup_endpoint()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ipr.close()

    async def links(self) -> list[LinkInfo]:
        """Return all interfaces."""
        return [_link(message) async for message in await self._ipr.link("dump")]

    async def link(self, name: str) -> LinkInfo | None:
        """Return one interface, or None."""
        try:
            for message in await self._ipr.link("get", ifname=name):
                return _link(message)
        except NetlinkError as error:
            if not _gone(error):
                raise
        return None

    async def addresses(self, ifindex: int | None = None) -> list[AddressInfo]:
        """Return the IPv4 addresses of one interface or of all."""
        found = []
        async for message in await self._ipr.addr("dump", family=socket.AF_INET):
            local = message.get("local") or message.get("address")
            if local is None or (ifindex is not None and message["index"] != ifindex):
                continue
            info = AddressInfo(
                message["index"], IPv4Address(local), message["prefixlen"], message["scope"]
            )
            found.append(info)
        return found

    async def routes(self) -> list[RouteInfo]:
        """Return the IPv4 routes of the main table."""
        return [
            _route(message)
            async for message in await self._ipr.route("dump", family=socket.AF_INET)
            if message.get("table", _RT_TABLE_MAIN) == _RT_TABLE_MAIN
            and message["type"] in {_RTN_UNICAST, _RTN_UNREACHABLE}
        ]

    async def our_routes(self) -> list[RouteInfo]:
        """Return the routes that carry our protocol number."""
        return [route for route in await self.routes() if route.proto == PROTO_TUNNELD]

    async def default_route(self) -> RouteInfo | None:
        """Return the default route with the lowest metric, or None."""
        found = [
            route for route in await self.routes() if route.dst.prefixlen == 0 and route.ifindex
        ]
        return min(found, key=lambda route: route.metric, default=None)

    async def route_to(self, address: IPv4Address) -> int | None:
        """Return the interface index by which the kernel reaches `address`, or None."""
        try:
            for message in await self._ipr.route("get", dst=str(address)):
                oif = message.get("oif")
                return int(oif) if oif is not None else None
        except NetlinkError:
            return None
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
            await self._ipr.link("set", index=info.index, **wanted)
        return bool(wanted)

    async def ensure_address(self, ifindex: int, address: IPv4Interface) -> bool:
        """Give an interface an address; other addresses stay."""
        wanted = (address.ip, address.network.prefixlen)
        if wanted in {(i.address, i.prefix_len) for i in await self.addresses(ifindex)}:
            return False
        await self._ipr.addr("replace", index=ifindex, address=str(address.ip), prefixlen=wanted[1])
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
        """Have exactly this route for this destination and metric."""
        wanted = RouteInfo(dst, ifindex, via, metric, PROTO_TUNNELD, scope, unreachable=False)
        if wanted in await self.routes():
            return False
        extra: dict[str, Any] = {"gateway": str(via)} if via else {}
        if onlink:
            extra["flags"] = _RTNH_F_ONLINK
        if metric:
            extra["priority"] = metric
        await self._ipr.route(
            "replace", dst=str(dst), oif=ifindex, proto=PROTO_TUNNELD, scope=scope, **extra
        )
        return True

    async def ensure_unreachable(self, dst: IPv4Network) -> bool:
        """Have the unreachable route that keeps `dst` from leaving by another way (fail closed)."""
        for route in await self.our_routes():
            if route.dst == dst and route.unreachable and route.metric == METRIC_LAST:
                return False
        await self._ipr.route(
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
            await self._ipr.route(
                "del", dst=str(route.dst), proto=route.proto, scope=route.scope, **extra
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
            await self._ipr.link("del", index=info.index)
        except NetlinkError as error:
            if _gone(error):
                return False
            raise
        return True

    def watch(self) -> AsyncIterator[KernelEvent]:
        """Yield changes of links, addresses and routes from now on; see `rtnl_watch`."""
        return watch(open_watch())
