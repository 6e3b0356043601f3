"""Packets for the tests, built without the code under test, and a reader of captures."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ICMP, TCP, UDP = 1, 6, 17
DF, MF = 0x4000, 0x2000

# flannel-compat, golden vectors: 100.96.1.2:1000 -> 100.96.2.3:2000, "abcd".
GOLDEN_TTL_64 = bytes.fromhex("45000020000100004011af07646001026460020303e807d0000c000061626364")
GOLDEN_TTL_63 = bytes.fromhex("45000020000100003f11b007646001026460020303e807d0000c000061626364")
GOLDEN_NO_ROUTE = bytes.fromhex(
    "45000038000000000801e80364600100646001020300f13b00000000"
    "45000020000100004011a801646001026460090903e807d0000c0000"
)


def ones_complement(data: bytes) -> int:
    """RFC 1071, the slow and plain way."""
    total = 0
    for first, second in zip(data[::2], data[1::2] + b"\0" * (len(data) % 2), strict=True):
        total += first << 8 | second
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def with_checksum(packet: bytes) -> bytes:
    """Put the right checksum into the header, whose length the packet claims."""
    length = min((packet[0] & 15) * 4, len(packet))
    header = packet[:10] + b"\0\0" + packet[12:length]
    return header[:10] + struct.pack("!H", ones_complement(header)) + packet[10 + 2 :]


def ipv4(
    source: str,
    destination: str,
    payload: bytes = b"\x03\xe8\x07\xd0\x00\x0c\x00\x00abcd",
    *,
    ttl: int = 64,
    proto: int = UDP,
    fragment: int = 0,
    options: bytes = b"",
    ident: int = 1,
) -> bytes:
    """An IPv4 packet with a right checksum; by default a small UDP one."""
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45 + len(options) // 4,
        0,
        20 + len(options) + len(payload),
        ident,
        fragment,
        ttl,
        proto,
        0,
        IPv4Address(source).packed,
        IPv4Address(destination).packed,
    )
    return with_checksum(header + options + payload)


def icmp(source: str, destination: str, kind: int, *, ttl: int = 64, fragment: int = 0) -> bytes:
    """An ICMP packet of one type, with 16 bytes of body."""
    body = bytes([kind, 0, 0, 0]) + bytes(range(16))
    body = body[:2] + struct.pack("!H", ones_complement(body)) + body[4:]
    return ipv4(source, destination, body, ttl=ttl, proto=ICMP, fragment=fragment)


def hop(packet: bytes) -> bytes:
    """The packet one hop further, its checksum taken anew over the whole header."""
    return with_checksum(packet[:8] + bytes([packet[8] - 1]) + packet[9:])


def error_about(
    packet: bytes, kind: int, code: int, source: str, *, ttl: int = 64, mtu: int = 0
) -> bytes:
    """The ICMP error that RFC 792 and RFC 1191 ask for, about `packet`."""
    header_length = (packet[0] & 15) * 4
    total_length = int.from_bytes(packet[2:4], "big")
    quoted = packet[: min(header_length + 8, total_length)]
    body = bytes([kind, code, 0, 0, 0, 0]) + mtu.to_bytes(2, "big") + quoted
    body = body[:2] + struct.pack("!H", ones_complement(body)) + body[4:]
    to = str(IPv4Address(packet[12:16]))
    return ipv4(source, to, body, ttl=ttl, proto=ICMP, ident=0)


def read_pcap(path: Path) -> list[bytes]:
    """The IPv4 packets of a capture, without their link layer (raw IP or Ethernet)."""
    data = path.read_bytes()
    magic, linktype = struct.unpack_from("<I16xI", data)
    if magic not in (0xA1B2C3D4, 0xA1B23C4D):
        raise ValueError(f"{path}: not a little-endian pcap")
    packets, at = [], 24
    while at < len(data):
        captured, length = struct.unpack_from("<8xII", data, at)
        if captured != length:
            raise ValueError(f"{path}: a packet was cut short by the capture")
        frame = data[at + 16 : at + 16 + captured]
        at += 16 + captured
        if linktype == 1:
            if frame[12:14] != b"\x08\x00":
                continue
            frame = frame[14:]
        packets.append(frame[: int.from_bytes(frame[2:4], "big")])
    return packets


def source_of(packet: bytes) -> IPv4Address:
    return IPv4Address(packet[12:16])


def destination_of(packet: bytes) -> IPv4Address:
    return IPv4Address(packet[16:20])
