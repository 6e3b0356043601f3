"""IPv4 and ICMP in plain Python: read a header, take one from its TTL, build an error about it.

Pure functions over bytes, for `reference.py`: no socket, no clock. csrc/ip.c and csrc/icmp.c do the
same in C; the differential tests hold both to each other. Addresses are integers here, because the
packet path compares and masks them and never prints them.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

HEADER_MIN = 20
PROTO_ICMP = 1
FLAG_DF = 0x4000
FRAGMENT_OFFSET = 0x1FFF
QUOTED_PAYLOAD = 8
"""RFC 792: an error quotes the header and that many bytes behind it."""

TIME_EXCEEDED = (11, 0)
NET_UNREACHABLE = (3, 0)
FRAGMENTATION_NEEDED = (3, 4)

# version and ihl, TOS, total length, id, flags and fragment offset, TTL, protocol, checksum,
# source, destination (RFC 791, 3.1).
_HEADER = struct.Struct("!BBHHHBBHII")
_WORD = struct.Struct("!H")
_TTL_AT, _CHECKSUM_AT = 8, 10

# Echo, router discovery, timestamp, information and address mask: RFC 792, RFC 950, RFC 1256. What
# is not known to be a query is treated as an error, as Linux does.
_ICMP_QUERIES = frozenset((0, 8, 9, 10, 13, 14, 15, 16, 17, 18))


class Header(NamedTuple):
    """The fields of a valid IPv4 header that the packet path decides by.

    Attributes:
        source: inner source address.
        destination: inner destination address.
        header_length: bytes, 20 to 60.
        total_length: bytes of header and payload; what follows it in a datagram is padding.
        fragment: flags and fragment offset, as on the wire.
        ttl: time to live.
        proto: protocol number.
    """

    source: int
    destination: int
    header_length: int
    total_length: int
    fragment: int
    ttl: int
    proto: int


def checksum(data: bytes) -> int:
    """Return the Internet checksum of `data` (RFC 1071); 0 for a header that carries a right one.

    Args:
        data: any length; an odd one is padded with a zero byte.
    """
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def parse(packet: bytes) -> Header | str:
    """Validate an IPv4 header, in the order of RFC 1812, 5.2.2.

    Args:
        packet: an IPv4 packet, perhaps with padding behind it, or anything else.

    Returns:
        The header, or the name of the counter of the rule that the packet breaks.
    """
    if len(packet) < HEADER_MIN:
        return "drop_too_short"
    first, _, total_length, _, fragment, ttl, proto, _, source, destination = _HEADER.unpack_from(
        packet
    )
    if first >> 4 != 4:
        return "drop_not_ipv4"
    header_length = (first & 0x0F) * 4
    if not HEADER_MIN <= header_length <= len(packet):
        return "drop_bad_header_length"
    if not header_length <= total_length <= len(packet):
        return "drop_bad_length"
    if checksum(packet[:header_length]) != 0:
        return "drop_bad_checksum"
    return Header(source, destination, header_length, total_length, fragment, ttl, proto)


def decrement_ttl(packet: bytes) -> bytes:
    """Return the packet with a TTL one smaller and its header checksum patched.

    RFC 1624, equation 3: HC' = ~(~HC + ~m + m'), where m is the word of TTL and protocol. The sum
    of the whole header need not be taken again, and an error in it stays visible.

    Args:
        packet: one that `parse` accepted, with a TTL of 1 or more.
    """
    (before,) = _WORD.unpack_from(packet, _TTL_AT)
    (old,) = _WORD.unpack_from(packet, _CHECKSUM_AT)
    after = before - 0x0100
    total = (old ^ 0xFFFF) + (before ^ 0xFFFF) + after
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    patched = bytearray(packet)
    _WORD.pack_into(patched, _TTL_AT, after)
    _WORD.pack_into(patched, _CHECKSUM_AT, total ^ 0xFFFF)
    return bytes(patched)


def is_martian_source(address: int) -> bool:
    """Whether no packet on a network may come from `address` (RFC 1812, 5.3.7; RFC 6890).

    This network, loopback, link local, multicast, reserved and the limited broadcast.
    """
    first = address >> 24
    return first in (0, 127) or first >= 224 or address >> 16 == 0xA9FE


def may_answer(packet: bytes, header: Header) -> bool:
    """Whether an ICMP error may be sent about a packet (RFC 1122, 3.2.2; RFC 1812, 4.3.2.7).

    Never about an ICMP error (errors about errors go on for ever), a fragment other than the first
    (one error per packet is enough), a multicast or broadcast destination (every receiver would
    answer), or a source that is not one host (nobody, or the wrong one, would get it).
    """
    if header.fragment & FRAGMENT_OFFSET:
        return False
    if header.destination >> 28 >= 0xE:
        return False
    if is_martian_source(header.source):
        return False
    if header.proto == PROTO_ICMP:
        icmp = packet[header.header_length : header.total_length]
        return bool(icmp) and icmp[0] in _ICMP_QUERIES
    return True


def icmp_error(
    kind: tuple[int, int], packet: bytes, header: Header, *, source: int, ttl: int, mtu: int = 0
) -> bytes:
    """Return an ICMP error about a packet, addressed to its sender (RFC 792), as flannel builds it.

    Args:
        kind: ICMP type and code.
        packet: what it is about; its header, options too, and eight bytes behind are quoted.
        header: the packet's fields.
        source: address that the error comes from.
        ttl: of the error itself.
        mtu: next-hop MTU in bytes, for `FRAGMENTATION_NEEDED` (RFC 1191).
    """
    quoted = packet[: min(header.header_length + QUOTED_PAYLOAD, header.total_length)]
    icmp = struct.pack("!BBHHH", *kind, 0, 0, mtu) + quoted
    icmp = icmp[:2] + _WORD.pack(checksum(icmp)) + icmp[4:]
    fields = (0x45, 0, HEADER_MIN + len(icmp), 0, 0, ttl, PROTO_ICMP)
    bare = _HEADER.pack(*fields, 0, source, header.source)
    return _HEADER.pack(*fields, checksum(bare), source, header.source) + icmp
