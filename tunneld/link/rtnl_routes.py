"""IPv4 routes of the main table as rtnetlink messages, for tables that are compared as a whole.

`Rtnl.ensure_route` is for one route; these are for one of each peer: list ours, compare, send what
differs in one go (`rtnl_bulk`).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from tunneld.link.rtnl_bulk import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    BulkSocket,
    Request,
    attribute,
    attributes,
)
from tunneld.link.rtnl_info import RTNH_F_ONLINK, SCOPE_GLOBAL, RouteInfo

_RTM_NEWROUTE = 24
_RTM_DELROUTE = 25
_RTM_GETROUTE = 26
_RTN_UNICAST = 1
_RTN_UNREACHABLE = 7
_MAIN = 254
_SCOPE_NOWHERE = 255

_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_PREFSRC = 7
_RTA_MULTIPATH = 9
_RTMSG = struct.Struct("=BBBBBBBBI")
_WORD = struct.Struct("=I")


def put(route: RouteInfo) -> Request:
    """Return the request that makes a route, in place of one with its prefix and metric."""
    kind = _RTN_UNREACHABLE if route.unreachable else _RTN_UNICAST
    flags = RTNH_F_ONLINK if route.onlink else 0
    body = _rtmsg(route, kind, route.scope, flags) + _rest(route)
    return Request(_RTM_NEWROUTE, body, NLM_F_CREATE | NLM_F_REPLACE)


def drop(route: RouteInfo) -> Request:
    """Return the request that deletes this route and no other one."""
    kind = _RTN_UNREACHABLE if route.unreachable else _RTN_UNICAST
    return Request(_RTM_DELROUTE, _rtmsg(route, kind, _SCOPE_NOWHERE, 0) + _rest(route))


def _rtmsg(route: RouteInfo, kind: int, scope: int, flags: int) -> bytes:
    length = route.dst.prefixlen
    return _RTMSG.pack(socket.AF_INET, length, 0, 0, _MAIN, route.proto, scope, kind, flags)


def _rest(route: RouteInfo) -> bytes:
    body = attribute(_RTA_DST, route.dst.network_address.packed)
    if route.ifindex:
        body += attribute(_RTA_OIF, _WORD.pack(route.ifindex))
    if route.via is not None:
        body += attribute(_RTA_GATEWAY, route.via.packed)
    if route.metric:
        body += attribute(_RTA_PRIORITY, _WORD.pack(route.metric))
    return body


def read(body: bytes) -> RouteInfo:
    """Read the body of an RTM_NEWROUTE message."""
    _, length, _, _, _, proto, scope, kind, flags = _RTMSG.unpack_from(body)
    found = attributes(body, _RTMSG.size)
    hops, via, source = (found.get(key) for key in (_RTA_MULTIPATH, _RTA_GATEWAY, _RTA_PREFSRC))
    ifindex = _word(found.get(_RTA_OIF))
    if ifindex is None and hops:
        (ifindex,) = struct.unpack_from("=i", hops, 4)  # struct rtnexthop
    return RouteInfo(
        dst=IPv4Network((found.get(_RTA_DST, bytes(4)), length)),
        ifindex=ifindex,
        via=IPv4Address(via) if via else None,
        metric=_word(found.get(_RTA_PRIORITY)) or 0,
        proto=proto,
        scope=scope,
        unreachable=kind == _RTN_UNREACHABLE,
        source=IPv4Address(source) if source else None,
        onlink=bool(flags & RTNH_F_ONLINK),
    )


def _word(data: bytes | None) -> int | None:
    return None if data is None else int(_WORD.unpack(data)[0])


async def routes(bulk: BulkSocket, *, proto: int = 0, ifindex: int = 0) -> list[RouteInfo]:
    """Return the routes of the main table of one owner or through one interface (0: of any)."""
    body = _RTMSG.pack(socket.AF_INET, 0, 0, 0, _MAIN, proto, SCOPE_GLOBAL, 0, 0)
    if ifindex:
        body += attribute(_RTA_OIF, _WORD.pack(ifindex))
    return [read(found) for found in await bulk.dump(_RTM_GETROUTE, body)]


async def on_link(bulk: BulkSocket, addresses: Sequence[IPv4Address]) -> dict[IPv4Address, int]:
    """Return which addresses the kernel sends to without a router, and by which interface.

    flannel asks the same (pkg/ip, DirectRouting): a route, and no gateway in it.
    """
    head = _RTMSG.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
    requests = [
        Request(_RTM_GETROUTE, head + attribute(_RTA_DST, address.packed)) for address in addresses
    ]
    found = {}
    for address, answer in zip(addresses, await bulk.exchange(requests), strict=True):
        # The seventh byte of struct rtmsg is the type: an address of this host is none of a peer.
        if answer.replies and answer.replies[0][7] == _RTN_UNICAST:
            route = read(answer.replies[0])
            if route.via is None and route.ifindex is not None:
                found[address] = route.ifindex
    return found
