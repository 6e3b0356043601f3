"""Routes to many peers: compared as a whole, only what differs is written, all in one go.

What is right already is never touched, so that traffic goes on over a restart; what carries our
protocol number inside the network and is not wanted is of an earlier life, and goes.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from tunneld.errors import StartError
from tunneld.link import rtnl_routes
from tunneld.link.rtnl import PROTO_TUNNELD
from tunneld.link.rtnl_bulk import Answer, BulkSocket
from tunneld.link.rtnl_info import SCOPE_GLOBAL, RouteInfo

_NO_SUCH_NEXT_HOP = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL))
"""What the kernel answers when the gateway is not on the interface's link."""


@dataclass(frozen=True, slots=True)
class Hop:
    """Where the packets for one peer's subnet go.

    Attributes:
        ifindex: egress interface.
        via: next hop on it; None: the peer is at the other end of the interface.
    """

    ifindex: int
    via: IPv4Address | None = None


@dataclass(slots=True)
class Synced:
    """What `sync` did; truthy when the kernel's routes were not as wanted.

    Attributes:
        written: new and corrected routes.
        removed: routes of an earlier life.
        refused: destination -> the kernel's words about a next hop that it does not take.
    """

    written: list[RouteInfo] = field(default_factory=list)
    removed: list[RouteInfo] = field(default_factory=list)
    refused: dict[IPv4Network, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.written or self.removed)


async def sync(
    bulk: BulkSocket,
    network: IPv4Network,
    wanted: Mapping[IPv4Network, Hop],
    blocked: Collection[IPv4Network],
) -> Synced:
    """Make our routes inside the network exactly these.

    Args:
        bulk: for the requests.
        network: the overlay network; nothing outside it is looked at.
        wanted: subnet -> next hop.
        blocked: destinations whose unreachable routes stay (`Rtnl.ensure_unreachable`).

    Raises:
        StartError: the kernel refuses a route for another reason than its next hop.
    """
    right = {_route(dst, hop) for dst, hop in wanted.items()}
    there = await rtnl_routes.routes(bulk, proto=PROTO_TUNNELD)
    missing = sorted(right.difference(there), key=lambda route: route.dst)
    done = Synced()
    answers = await bulk.exchange([rtnl_routes.put(route) for route in missing])
    for route, answer in zip(missing, answers, strict=True):
        if not answer.errno:
            done.written.append(route)
        elif answer.errno in _NO_SUCH_NEXT_HOP:
            done.refused[route.dst] = answer.reason
        else:
            raise _refusal(route, answer)
    # One of that prefix and metric is replaced already.
    gone = {(route.dst, route.metric) for route in done.written}
    stale = [
        route
        for route in there
        if route not in right
        and route.dst.subnet_of(network)
        and not (route.unreachable and route.dst in blocked)
        and (route.unreachable or (route.dst, route.metric) not in gone)
    ]
    answers = await bulk.exchange([rtnl_routes.drop(route) for route in stale])
    done.removed += [
        route for route, answer in zip(stale, answers, strict=True) if not answer.errno
    ]
    return done


def _route(dst: IPv4Network, hop: Hop) -> RouteInfo:
    return RouteInfo(dst, hop.ifindex, hop.via, 0, PROTO_TUNNELD, SCOPE_GLOBAL, unreachable=False)


def _refusal(route: RouteInfo, answer: Answer) -> StartError:
    return StartError(
        f"the kernel refuses the route to {route.dst}: {answer.reason}",
        remedy="run as root, or with CAP_NET_ADMIN",
    )
