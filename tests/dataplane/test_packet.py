"""The header functions of the python rung, alone."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.packets import GOLDEN_TTL_63, GOLDEN_TTL_64, hop, ipv4, ones_complement
from tunneld.dataplane.packet import Header, checksum, decrement_ttl, parse


@given(st.binary(max_size=100))
def test_checksum_is_rfc_1071s(data: bytes) -> None:
    assert checksum(data) == ones_complement(data)


@pytest.mark.parametrize("ttl", [1, 2, 64, 255])
def test_decrement_for_every_checksum(ttl: int) -> None:
    """The id runs through all values, and with it the checksum; each must come out as summed anew.

    RFC 1141's older equation differs in one of them (RFC 1624, 4).
    """
    packet = ipv4("100.96.1.2", "100.96.2.3", ttl=ttl)
    base = ones_complement(packet[:4] + b"\0\0" + packet[6:10] + b"\0\0" + packet[12:20])
    after = ones_complement(
        packet[:4]
        + b"\0\0"
        + packet[6:8]
        + bytes([ttl - 1])
        + packet[9:10]
        + b"\0\0"
        + packet[12:20]
    )
    seen = set()
    for ident in range(65536):
        wire = struct.pack("!H", ident)
        before, expected = _minus(base, ident), _minus(after, ident)
        seen.add(before)
        spoilt = packet[:4] + wire + packet[6:10] + struct.pack("!H", before) + packet[12:]
        assert decrement_ttl(spoilt)[8:12] == bytes([ttl - 1, 17]) + struct.pack("!H", expected)
    assert len(seen) == 65535


def _minus(complement: int, word: int) -> int:
    """The checksum after one more word was summed."""
    total = (complement ^ 0xFFFF) + word
    return (total & 0xFFFF) + (total >> 16) ^ 0xFFFF


def test_decrement_changes_nothing_else() -> None:
    assert decrement_ttl(GOLDEN_TTL_64) == GOLDEN_TTL_63
    assert decrement_ttl(GOLDEN_TTL_63) == hop(GOLDEN_TTL_63)


def test_parse_reads_every_field() -> None:
    packet = ipv4("100.96.1.2", "100.96.2.3", bytes(9), ttl=7, fragment=0x6123, options=bytes(8))
    assert parse(packet + b"padding") == Header(
        source=int(IPv4Address("100.96.1.2")),
        destination=int(IPv4Address("100.96.2.3")),
        header_length=28,
        total_length=37,
        fragment=0x6123,
        ttl=7,
        proto=17,
    )


@given(st.binary(max_size=80))
def test_parse_never_fails_on_anything(data: bytes) -> None:
    header = parse(data)
    if isinstance(header, str):
        assert header.startswith("drop_")
    else:
        assert 20 <= header.header_length <= header.total_length <= len(data)
