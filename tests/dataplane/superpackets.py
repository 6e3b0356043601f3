"""Superpackets for the tests: TCP and UDP packets, and what a device cuts a superpacket into.

Written from the RFCs and virtio 1.2 (5.1.6), without the code under test: the oracle of rung
offload.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.dataplane.packets import DF, TCP, UDP, ipv4, ones_complement, with_checksum

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << n for n in range(8))
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_UDP_L4, GSO_ECN = 0, 1, 5, 0x80
L4_CHECKSUM = {TCP: 16, UDP: 6}
"""Protocol -> offset of the checksum in its header."""


class Vnet(NamedTuple):
    """struct virtio_net_hdr, as a TUN of this machine has it."""

    flags: int = 0
    gso_type: int = GSO_NONE
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0


_VNET = struct.Struct("=BBHHHH")


def to_frame(packet: bytes, vnet: Vnet = Vnet()) -> bytes:  # noqa: B008 - immutable
    """What a TUN with a vnet header hands out, or takes."""
    return _VNET.pack(*vnet) + packet


def from_frame(frame: bytes) -> tuple[Vnet, bytes]:
    return Vnet(*_VNET.unpack_from(frame)), frame[_VNET.size :]


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment or a UDP datagram.

    Attributes:
        checksum: "good"; "partial": the pseudo header's sum, for the device to finish; "none":
            zero, which UDP allows; "bad".
    """

    source: str = "100.96.1.2"
    destination: str = "100.96.2.3"
    ports: tuple[int, int] = (40000, 80)
    payload: bytes = b""
    proto: int = TCP
    sequence: int = 1000
    ack: int = 2000
    flags: int = ACK
    window: int = 500
    options: bytes = b""
    ip_options: bytes = b""
    ident: int = 7
    fragment: int = 0
    tos: int = 0
    ttl: int = 64
    checksum: str = "good"

    @property
    def header_length(self) -> int:
        return 20 + len(self.ip_options) + (20 + len(self.options) if self.proto == TCP else 8)

    def build(self) -> bytes:
        if self.proto == TCP:
            words = 5 + len(self.options) // 4
            l4 = struct.pack(
                "!HHIIBBHHH",
                *(*self.ports, self.sequence % 2**32, self.ack, words << 4, self.flags),
                *(self.window, 0, 0),
            )
            l4 += self.options
        else:
            l4 = struct.pack("!HHHH", *self.ports, 8 + len(self.payload), 0)
        packet = ipv4(
            *(self.source, self.destination, l4 + self.payload),
            proto=self.proto,
            ident=self.ident % 2**16,
            fragment=self.fragment,
            ttl=self.ttl,
            options=self.ip_options,
        )
        packet = with_checksum(packet[:1] + bytes([self.tos]) + packet[2:])
        match self.checksum:
            case "good":
                return with_l4_checksum(packet)
            case "partial":
                return _put_l4_checksum(packet, ones_complement(_pseudo(packet)) ^ 0xFFFF)
            case "bad":
                good = with_l4_checksum(packet)
                at = _checksum_at(good)
                return good[:at] + bytes([good[at] ^ 0x5A]) + good[at + 1 :]
        return packet

    def super(self, size: int) -> bytes:
        """The frame in which a kernel hands this to a device that cuts at `size`."""
        kind = GSO_TCPV4 if self.proto == TCP else GSO_UDP_L4
        vnet = Vnet(
            flags=0 if self.checksum == "none" else NEEDS_CSUM,
            gso_type=kind | (GSO_ECN if self.proto == TCP and self.flags & CWR else 0),
            hdr_len=self.header_length,
            gso_size=size,
            csum_start=20 + len(self.ip_options),
            csum_offset=L4_CHECKSUM[self.proto],
        )
        return to_frame(
            replace(self, checksum=self.checksum.replace("good", "partial")).build(), vnet
        )

    def cut(self, size: int) -> list[bytes]:
        """The packets that the sender would have sent without offload, field by field."""
        packets = []
        checksum = "none" if self.checksum == "none" else "good"
        for number, at in enumerate(range(0, len(self.payload), size)):
            flags = self.flags
            if at + size < len(self.payload):
                flags &= ~(FIN | PSH)
            if at:
                flags &= ~CWR
            part = replace(
                self,
                payload=self.payload[at : at + size],
                sequence=self.sequence + at,
                ident=self.ident + number,
                flags=flags,
                checksum=checksum,
            )
            packets.append(part.build())
        return packets


def _pseudo(packet: bytes) -> bytes:
    length = len(packet) - (packet[0] & 15) * 4
    return packet[12:20] + struct.pack("!BBH", 0, packet[9], length)


def _checksum_at(packet: bytes) -> int:
    return (packet[0] & 15) * 4 + L4_CHECKSUM[packet[9]]


def _put_l4_checksum(packet: bytes, value: int) -> bytes:
    at = _checksum_at(packet)
    return packet[:at] + struct.pack("!H", value) + packet[at + 2 :]


def with_l4_checksum(packet: bytes) -> bytes:
    """Put the right TCP or UDP checksum in; RFC 768: one that comes out as zero is all ones."""
    packet = _put_l4_checksum(packet, 0)
    value = ones_complement(_pseudo(packet) + packet[(packet[0] & 15) * 4 :])
    return _put_l4_checksum(packet, 0xFFFF if value == 0 and packet[9] == UDP else value)


def has_good_l4_checksum(packet: bytes) -> bool:
    return ones_complement(_pseudo(packet) + packet[(packet[0] & 15) * 4 :]) == 0


def cut_frame(frame: bytes) -> list[bytes]:
    """What the kernel behind a TUN makes of a frame that is written to it.

    Raises:
        ValueError: the kernel would refuse it (EINVAL), or it is not what its header says.
    """
    vnet, packet = from_frame(frame)
    if int.from_bytes(packet[2:4], "big") != len(packet) or with_checksum(packet) != packet:
        raise ValueError("the IP header is wrong")
    if vnet.gso_type == GSO_NONE:
        if vnet.flags == DATA_VALID and not has_good_l4_checksum(packet):
            raise ValueError("a wrong checksum is called good")
        if vnet.flags not in (0, DATA_VALID) or any(vnet[2:]):
            raise ValueError("a single packet asks for something")
        return [packet]
    proto = packet[9]
    at = (packet[0] & 15) * 4
    l4_length = 8 if proto == UDP else (packet[at + 12] >> 4) * 4
    header, payload = packet[: at + l4_length], packet[at + l4_length :]
    kind = {TCP: GSO_TCPV4, UDP: GSO_UDP_L4}[proto]
    expected = Vnet(NEEDS_CSUM, kind, len(header), vnet.gso_size, at, L4_CHECKSUM[proto])
    pseudo = ones_complement(_pseudo(packet)) ^ 0xFFFF
    if vnet != expected or not 0 < vnet.gso_size < len(payload) <= 128 * vnet.gso_size:
        raise ValueError(f"{vnet} is not {expected}, with {len(payload)} bytes of payload")
    if int.from_bytes(packet[_checksum_at(packet) :][:2], "big") != pseudo:
        raise ValueError("the checksum is not the pseudo header's sum")
    if proto == UDP and int.from_bytes(packet[at + 4 : at + 6], "big") != len(packet) - at:
        raise ValueError("the UDP length is wrong")
    return _cut(header, payload, vnet.gso_size)


def _cut(header: bytes, payload: bytes, size: int) -> list[bytes]:
    at, proto = (header[0] & 15) * 4, header[9]
    (ident,) = struct.unpack_from("!H", header, 4)
    packets = []
    for number, start in enumerate(range(0, len(payload), size)):
        piece = payload[start : start + size]
        own = bytearray(header)
        struct.pack_into("!HH", own, 2, len(header) + len(piece), (ident + number) % 2**16)
        if proto == UDP:
            struct.pack_into("!H", own, at + 4, 8 + len(piece))
        else:
            (sequence,) = struct.unpack_from("!I", header, at + 4)
            struct.pack_into("!I", own, at + 4, (sequence + start) % 2**32)
            if start + size < len(payload):
                own[at + 13] &= ~(FIN | PSH)
            if start:
                own[at + 13] &= ~CWR & 0xFF
        packets.append(with_l4_checksum(with_checksum(bytes(own) + piece)))
    return packets


def without_id(packet: bytes) -> bytes:
    """The packet with id 0 where the id has no meaning: with DF (RFC 6864)."""
    if not int.from_bytes(packet[6:8], "big") & DF:
        return packet
    return with_checksum(packet[:4] + b"\0\0" + packet[6:])
