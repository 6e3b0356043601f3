"""What the kernel says about links, addresses and routes, read out of pyroute2's messages."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

SCOPE_GLOBAL = 0
SCOPE_LINK = 253

_IFF_UP = 0x1
_RTN_UNREACHABLE = 7
RTNH_F_ONLINK = 4


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
        ifindex: egress interface, the first one of a multipath route; None for unreachable routes.
        via: next hop.
        metric: priority; 0 is the best.
        proto: who made it.
        scope: SCOPE_GLOBAL or SCOPE_LINK.
        unreachable: it answers with ICMP instead of forwarding.
        source: the address that the kernel prefers for packets of its own; None: not said.
        onlink: the next hop is taken to be on the link, whatever its address.
    """

    dst: IPv4Network
    ifindex: int | None
    via: IPv4Address | None
    metric: int
    proto: int
    scope: int
    unreachable: bool
    source: IPv4Address | None = None
    onlink: bool = False

    def __str__(self) -> str:
        kind = "unreachable " if self.unreachable else ""
        return f"{kind}{self.dst}"


def read_link(message: Any) -> LinkInfo:
    """Read an RTM_NEWLINK message."""
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


def read_address(message: Any) -> AddressInfo:
    """Read an RTM_NEWADDR message; on a point-to-point device IFA_ADDRESS would be the far end."""
    local = message.get("local") or message.get("address")
    return AddressInfo(message["index"], IPv4Address(local), message["prefixlen"], message["scope"])


def read_route(message: Any) -> RouteInfo:
    """Read an RTM_NEWROUTE message."""
    dst, via, source = message.get("dst"), message.get("gateway"), message.get("prefsrc")
    ifindex = message.get("oif")
    hops = message.get("multipath")
    if ifindex is None and hops:
        ifindex = hops[0]["oif"]
    return RouteInfo(
        dst=IPv4Network((int(IPv4Address(dst)) if dst else 0, message["dst_len"])),
        ifindex=ifindex,
        via=IPv4Address(via) if via else None,
        metric=message.get("priority") or 0,
        proto=message["proto"],
        scope=message["scope"],
        unreachable=message["type"] == _RTN_UNREACHABLE,
        source=IPv4Address(source) if source else None,
        onlink=bool(message["flags"] & RTNH_F_ONLINK),
    )
