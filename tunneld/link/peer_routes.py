"""Routes to many peers at once: compared in one dump, only what differs is written.

What is right already is never touched, so that traffic goes on over a restart; what carries our
protocol number inside the network and is not wanted is of an earlier life, and goes.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from pyroute2.netlink.exceptions import NetlinkError

from tunneld.link.rtnl_info import SCOPE_GLOBAL, RouteInfo

if TYPE_CHECKING:
    from tunneld.link.rtnl import Rtnl

_NO_SUCH_NEXT_HOP = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL}
"""What the kernel answers when the gateway is not on the interface's link."""


@dataclass(frozen=True, slots=True)
class Hop:
    """Where the packets for one peer's subnet go.

    Attributes:
        ifindex: egress interface.
        via: next hop on it; None: the peer is at the other end of the interface.
        onlink: take the next hop for reachable whatever the interface's addresses say.
    """

    ifindex: int
    via: IPv4Address | None = None
    onlink: bool = False


@dataclass(slots=True)
class Synced:
    """What `sync` did; truthy when the kernel's routes were not as wanted.

    Attributes:
        written: destinations of new and corrected routes.
        removed: routes of an earlier life.
        refused: destinations whose next hop the kernel does not take.
    """

    written: list[IPv4Network] = field(default_factory=list)
    removed: list[RouteInfo] = field(default_factory=list)
    refused: list[IPv4Network] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.written or self.removed)


async def sync(
    rtnl: Rtnl,
    network: IPv4Network,
    wanted: Mapping[IPv4Network, Hop],
    blocked: Collection[IPv4Network],
) -> Synced:
    """Make our routes inside the network exactly these.

    Args:
        rtnl: the kernel's routes.
        network: the overlay network; nothing outside it is looked at.
        wanted: subnet -> next hop.
        blocked: destinations whose unreachable routes stay (`Rtnl.ensure_unreachable`).

    Raises:
        NetlinkError: the kernel refuses for another reason than the next hop.
    """
    done = Synced()
    there = await _ours(rtnl, network)
    missing = {
        dst: hop
        for dst, hop in wanted.items()
        if not any(_is(route, hop) for route in there.get(dst, ()))
    }
    for dst, hop in missing.items():
        try:
            await rtnl.replace_route(dst, ifindex=hop.ifindex, via=hop.via, onlink=hop.onlink)
        except NetlinkError as error:
            if error.code not in _NO_SUCH_NEXT_HOP:
                raise
            done.refused.append(dst)
        else:
            done.written.append(dst)
    refused = set(done.refused)
    for dst, routes in there.items():
        for route in routes:
            if route.unreachable:
                stays = dst in blocked
            elif dst in missing:
                # Written in its place already, unless that was refused or the metric differs.
                stays = dst not in refused and route.metric == 0
            else:
                stays = dst in wanted and _is(route, wanted[dst])
            if not stays and await rtnl.remove_route(route):
                done.removed.append(route)
    return done


async def _ours(rtnl: Rtnl, network: IPv4Network) -> dict[IPv4Network, list[RouteInfo]]:
    found: dict[IPv4Network, list[RouteInfo]] = {}
    for route in await rtnl.our_routes():
        if route.dst.subnet_of(network):
            found.setdefault(route.dst, []).append(route)
    return found


def _is(route: RouteInfo, hop: Hop) -> bool:
    seen = (route.ifindex, route.via, route.metric, route.scope, route.unreachable)
    return seen == (hop.ifindex, hop.via, 0, SCOPE_GLOBAL, False)
