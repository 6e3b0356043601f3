"""ipip devices whose packets go in UDP (fou): one per public IP, as rtnetlink messages.

    ip link add tunneld0aa80003 type ipip local 10.168.0.2 remote 10.168.0.3 ttl 64 \
        encap fou encap-sport 8285 encap-dport 8285 encap-csum

What it sends is flannel's UDP format: the bare inner packet, 8285 -> 8285, DF, TTL 64, checksum on.
What it receives comes from `remote` to `local` and nowhere else. The name is the public IP's, so it
is the same at every start, and shows whose it is.
"""

from __future__ import annotations

import re
import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from tunneld.dataplane import PeerCounters
from tunneld.link.rtnl_bulk import NLM_F_CREATE, BulkSocket, Request, attribute, attributes

PREFIX = "tunneld"
NOBODY = IPv4Address("255.255.255.255")
"""No peer's public IP: its device is made for a moment, to see whether the kernel can."""

_NAME = re.compile(rf"{PREFIX}[0-9a-f]{{8}}")
_NLM_F_EXCL = 0x200
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_IFF_UP = 1
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_EXT_MASK = 3, 4, 18, 29
_SKIP_STATISTICS = 8
_KIND, _DATA = 1, 2
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_OUTER_TTL = 64
# linux/if_tunnel.h
_LOCAL, _REMOTE, _TTL, _TOS, _PMTUDISC = 2, 3, 4, 5, 10
_ENCAP_TYPE, _ENCAP_FLAGS, _ENCAP_SPORT, _ENCAP_DPORT = 15, 16, 17, 18
_ENCAP_FOU = 1
_ENCAP_CSUM = 1


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What cannot be changed without making the device anew.

    Attributes:
        local: outer source.
        remote: outer destination, and the only outer source that is accepted.
        port: UDP port of both ends.
    """

    local: IPv4Address
    remote: IPv4Address
    port: int

    @property
    def name(self) -> str:
        """Name of its device."""
        return f"{PREFIX}{int(self.remote):08x}"


@dataclass(frozen=True, slots=True)
class Device:
    """A device with a name of ours, as it is.

    Attributes:
        index: number of the interface.
        name: its name.
        mtu: bytes.
        up: administratively up.
        ipip: whether it is an ipip device at all.
        tunnel: None when it is anything but one of ours.
        port: UDP port that it sends to; 0: it does not.
    """

    index: int
    name: str
    mtu: int
    up: bool
    ipip: bool
    tunnel: Tunnel | None
    port: int


def create(tunnel: Tunnel, mtu: int) -> Request:
    """Return the request that makes a device, down."""
    data = (
        attribute(_LOCAL, tunnel.local.packed)
        + attribute(_REMOTE, tunnel.remote.packed)
        + attribute(_TTL, bytes((_OUTER_TTL,)))
        + attribute(_PMTUDISC, b"\x01")
        + attribute(_ENCAP_TYPE, struct.pack("=H", _ENCAP_FOU))
        + attribute(_ENCAP_FLAGS, struct.pack("=H", _ENCAP_CSUM))
        + attribute(_ENCAP_SPORT, tunnel.port.to_bytes(2, "big"))
        + attribute(_ENCAP_DPORT, tunnel.port.to_bytes(2, "big"))
    )
    info = attribute(_KIND, b"ipip\0") + attribute(_DATA, data)
    body = (
        _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        + _name(tunnel.name)
        + attribute(_IFLA_MTU, struct.pack("=I", mtu))
        + attribute(_IFLA_LINKINFO, info)
    )
    return Request(_RTM_NEWLINK, body, NLM_F_CREATE | _NLM_F_EXCL)


def delete(name: str) -> Request:
    """Return the request that deletes a device, with its address and routes."""
    return Request(_RTM_DELLINK, _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _name(name))


def set_up(device: Device, mtu: int) -> Request:
    """Return the request that gives a device its MTU and sets it up."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, device.index, _IFF_UP, _IFF_UP)
    return Request(_RTM_NEWLINK, body + attribute(_IFLA_MTU, struct.pack("=I", mtu)))


def add_address(device: Device, address: IPv4Address) -> Request:
    """Return the request that gives a device an address of its own, as /32."""
    body = _IFADDR.pack(socket.AF_INET, 32, 0, 0, device.index)
    data = attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    return Request(_RTM_NEWADDR, body + data, NLM_F_CREATE)


def _name(name: str) -> bytes:
    return attribute(_IFLA_IFNAME, name.encode() + b"\0")


async def devices(bulk: BulkSocket) -> dict[str, Device]:
    """Return every device with a name of ours.

    Raises:
        StartError: the kernel's answers are lost.
    """
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    body += attribute(_IFLA_EXT_MASK, struct.pack("=I", _SKIP_STATISTICS))
    found = (read(message) for message in await bulk.dump(_RTM_GETLINK, body))
    return {device.name: device for device in found if _NAME.fullmatch(device.name)}


async def holders(bulk: BulkSocket, address: IPv4Address) -> set[int]:
    """Return the numbers of the interfaces that have this address as /32.

    Raises:
        StartError: the kernel's answers are lost.
    """
    found = set()
    for body in await bulk.dump(_RTM_GETADDR, _IFADDR.pack(socket.AF_INET, 0, 0, 0, 0)):
        _, length, _, _, index = _IFADDR.unpack_from(body)
        if length == 32 and attributes(body, _IFADDR.size).get(_IFA_LOCAL) == address.packed:
            found.add(index)
    return found


def read(body: bytes) -> Device:
    """Read the body of an RTM_NEWLINK message."""
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    found = attributes(body, _IFINFO.size)
    info = attributes(found.get(_IFLA_LINKINFO, b""), 0)
    ipip = info.get(_KIND, b"").rstrip(b"\0") == b"ipip"
    name = found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    data = attributes(info.get(_DATA, b""), 0) if ipip else {}
    (mtu,) = struct.unpack("=I", found.get(_IFLA_MTU, bytes(4)))
    port = int.from_bytes(data.get(_ENCAP_DPORT, b""), "big")
    tunnel = _tunnel(data) if data else None
    if tunnel is not None and tunnel.name != name:
        tunnel = None
    return Device(index, name, mtu, bool(flags & _IFF_UP), ipip, tunnel, port)


def _tunnel(data: dict[int, bytes] | object) -> Tunnel | None:
    if not isinstance(data, dict):
        return None
    tunnel = Tunnel(
        IPv4Address(data.get(_LOCAL, bytes(4))),
        IPv4Address(data.get(_REMOTE, bytes(4))),
        int.from_bytes(data.get(_ENCAP_DPORT, b""), "big"),
    )
    wanted = {
        _TTL: bytes((_OUTER_TTL,)),
        _TOS: b"\0",
        _PMTUDISC: b"\x01",
        _ENCAP_TYPE: struct.pack("=H", _ENCAP_FOU),
        _ENCAP_FLAGS: struct.pack("=H", _ENCAP_CSUM),
        _ENCAP_SPORT: tunnel.port.to_bytes(2, "big"),
    }
    return tunnel if all(data.get(key, b"\0") == value for key, value in wanted.items()) else None


def statistics() -> dict[str, PeerCounters]:
    """Return packets and bytes of each device: inner ones, as the kernel counts them."""
    found = {}
    # /proc/self/net follows the network namespace; /sys may be another one's.
    for line in Path("/proc/self/net/dev").read_text(encoding="ascii").splitlines():
        name, colon, words = line.partition(":")
        if colon and _NAME.fullmatch(name.strip()):
            values = [int(word) for word in words.split()]
            found[name.strip()] = PeerCounters(values[9], values[8], values[1], values[0])
    return found
