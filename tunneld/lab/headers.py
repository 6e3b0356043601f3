"""Read the headers of a captured packet and say them in one line."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

ICMP = 1
UDP = 17
ICMP_NAMES = {0: "echo reply", 3: "unreachable", 8: "echo request", 11: "time exceeded"}


@dataclass(frozen=True, slots=True)
class Packet:
    """One IPv4 packet.

    Attributes:
        source: its source address.
        destination: its destination address.
        ttl: time to live.
        protocol: 1 ICMP, 6 TCP, 17 UDP.
        dont_fragment: the DF flag.
        length: total length, bytes.
        header: the bytes of the IPv4 header.
        payload: the bytes behind it.
    """

    source: IPv4Address
    destination: IPv4Address
    ttl: int
    protocol: int
    dont_fragment: bool
    length: int
    header: bytes
    payload: bytes

    @property
    def ports(self) -> tuple[int, int]:
        """UDP or TCP source and destination port."""
        source, destination = struct.unpack("!HH", self.payload[:4])
        return source, destination

    @property
    def icmp_type(self) -> int | None:
        """ICMP type; None for other protocols."""
        return self.payload[0] if self.protocol == ICMP and self.payload else None

    @property
    def icmp_sequence(self) -> int:
        """Sequence number of an echo request or reply."""
        return int.from_bytes(self.payload[6:8], "big")

    def encapsulated(self, port: int) -> Packet | None:
        """Return the packet that is the payload of a datagram to UDP port `port`, if it is one."""
        if self.protocol != UDP or self.ports[1] != port:
            return None
        return parse(self.payload[8:])

    def __str__(self) -> str:
        where = f"{self.source} > {self.destination}"
        if self.protocol == ICMP:
            kind = self.payload[0]
            return f"{where} ICMP {ICMP_NAMES.get(kind, f'type {kind}')}"
        if self.protocol == UDP:
            return f"{where} UDP {self.ports[0]} > {self.ports[1]}"
        return f"{where} protocol {self.protocol}"


def parse(data: bytes) -> Packet | None:
    """Return the IPv4 packet at the beginning of `data`, or None when there is none."""
    if len(data) < 20 or data[0] >> 4 != 4:
        return None
    start = (data[0] & 15) * 4
    length = int.from_bytes(data[2:4], "big")
    if not 20 <= start <= length <= len(data):
        return None
    return Packet(
        source=IPv4Address(data[12:16]),
        destination=IPv4Address(data[16:20]),
        ttl=data[8],
        protocol=data[9],
        dont_fragment=bool(data[6] & 0x40),
        length=length,
        header=data[:start],
        payload=data[start:length],
    )
