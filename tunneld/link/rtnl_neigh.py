"""Neighbour and FDB entries as rtnetlink messages, and the watch of both tables. Pure but for it.

A neighbour says which MAC the next hop has, the FDB of a VXLAN device says behind which underlay
address a MAC lives. Both are RTM_NEWNEIGH with struct ndmsg, the FDB in family AF_BRIDGE with the
flag NTF_SELF (linux/neighbour.h, bridge(8)).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from tunneld.link.rtnl_bulk import (
    NLM_F_CREATE,
    NLM_F_REPLACE,
    BulkSocket,
    Request,
    attribute,
    attributes,
)
from tunneld.link.rtnl_watch import follow, messages, open_watch

RTM_NEWNEIGH = 28
RTM_DELNEIGH = 29
RTM_GETNEIGH = 30

NUD_INCOMPLETE = 0x01
NUD_REACHABLE = 0x02
NUD_PERMANENT = 0x80

_AF_BRIDGE = 7
_NTF_SELF = 0x02
_NDA_DST = 1
_NDA_LLADDR = 2
_NDA_IFINDEX = 8
_RTMGRP_NEIGH = 0x4
_NDMSG = struct.Struct("=BxxxiHBB")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One entry of either table.

    Attributes:
        ifindex: of the device.
        mac: of the next hop, lower case with colons; empty while the kernel does not know it.
        dst: the next hop, or in the FDB the underlay address; None: the entry has none.
        state: NUD_...
        fdb: it is an FDB entry.
    """

    ifindex: int
    mac: str
    dst: IPv4Address | None
    state: int
    fdb: bool

    @property
    def permanent(self) -> bool:
        """Whether it stays until somebody removes it."""
        return bool(self.state & NUD_PERMANENT)


@dataclass(frozen=True, slots=True)
class NeighbourEvent:
    """What the watch tells.

    Attributes:
        kind: "new", "deleted", "miss" (the kernel asks for this entry), or "resync" when messages
            were lost.
        entry: None for a resync.
    """

    kind: str
    entry: Neighbour | None = None


_KINDS = {RTM_NEWNEIGH: "new", RTM_DELNEIGH: "deleted", RTM_GETNEIGH: "miss"}


def put(entry: Neighbour) -> Request:
    """Return the request that makes an entry, in place of one with the same key."""
    return Request(RTM_NEWNEIGH, _body(entry), NLM_F_CREATE | NLM_F_REPLACE)


def drop(entry: Neighbour) -> Request:
    """Return the request that deletes an entry."""
    return Request(RTM_DELNEIGH, _body(entry))


def _body(entry: Neighbour) -> bytes:
    family = _AF_BRIDGE if entry.fdb else socket.AF_INET
    flags = _NTF_SELF if entry.fdb else 0
    body = _NDMSG.pack(family, entry.ifindex, entry.state, flags, 0)
    if entry.dst is not None:
        body += attribute(_NDA_DST, entry.dst.packed)
    if entry.mac:
        body += attribute(_NDA_LLADDR, bytes.fromhex(entry.mac.replace(":", "")))
    return body


def read(body: bytes) -> Neighbour | None:
    """Read the body of a message; None when it is of another family (IPv6)."""
    if len(body) < _NDMSG.size:
        return None
    family, ifindex, state, _, _ = _NDMSG.unpack_from(body)
    if family not in {socket.AF_INET, _AF_BRIDGE}:
        return None
    found = attributes(body, _NDMSG.size)
    dst, mac = found.get(_NDA_DST, b""), found.get(_NDA_LLADDR, b"")
    return Neighbour(
        ifindex=ifindex,
        mac=mac.hex(":"),
        dst=IPv4Address(dst) if len(dst) == 4 else None,
        state=state,
        fdb=family == _AF_BRIDGE,
    )


async def neighbours(bulk: BulkSocket, ifindex: int, *, fdb: bool) -> list[Neighbour]:
    """Return one table of one device."""
    family = _AF_BRIDGE if fdb else socket.AF_INET
    body = _NDMSG.pack(family, 0, 0, 0, 0) + attribute(_NDA_IFINDEX, struct.pack("=i", ifindex))
    entries = [read(found) for found in await bulk.dump(RTM_GETNEIGH, body)]
    return [entry for entry in entries if entry is not None and entry.ifindex == ifindex]


def parse(data: bytes) -> Iterator[NeighbourEvent]:
    """Yield the events of one datagram; other families and messages are passed over."""
    for kind, body in messages(data):
        entry = read(body) if kind in _KINDS else None
        if entry is None:
            continue
        if kind == RTM_GETNEIGH and entry.dst is None and entry.mac:
            # The l2miss of vxlan comes with family AF_INET, and a MAC alone.
            entry = replace(entry, fdb=True)
        yield NeighbourEvent(_KINDS[kind], entry)


def watch() -> AsyncIterator[NeighbourEvent]:
    """Yield changes and misses of the whole namespace's tables from now on."""
    return follow(open_watch(_RTMGRP_NEIGH), parse, NeighbourEvent("resync"))
