"""ICMP errors: their bytes, about what they are never sent (RFC 1122, 3.2.2), how many."""

from __future__ import annotations

import time
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

import pytest
from scapy.layers.inet import ICMP, IP

from tests.dataplane.bed import PEER2, SNAPSHOT, STRANGER
from tests.dataplane.packets import DF, error_about, icmp, ipv4
from tunneld.dataplane import Route, SourceCheck
from tunneld.dataplane.reference import TokenBucket

if TYPE_CHECKING:
    from tests.dataplane.bed import Bed
    from tests.dataplane.conftest import OpenBed

TUN = "100.96.1.0"
NOWHERE = "100.96.9.9"
ICMP_ERRORS = [3, 4, 5, 11, 12]
ICMP_QUERIES = [0, 8, 13, 14]
EXPIRING = ipv4("100.96.2.3", "100.96.1.2", ttl=1)


def scapy_error(about: bytes, kind: int, code: int, *, ttl: int, mtu: int = 0) -> bytes:
    """The error as scapy builds it: nothing of ours is in it."""
    body = ICMP(type=kind, code=code)
    if mtu:
        body = ICMP(type=kind, code=code, nexthopmtu=mtu)
    header_length = (about[0] & 15) * 4
    to = str(IPv4Address(about[12:16]))
    outer = IP(src=TUN, dst=to, ttl=ttl, id=0)
    return bytes(outer / body / about[: header_length + 8])


@pytest.mark.parametrize("options", [b"", b"\x01" * 4, b"\x01" * 40])
async def test_bytes_of_each_error(bed: Bed, options: bytes) -> None:
    bed.publish(routes=(Route(SNAPSHOT.routes[0].subnet, IPv4Address(PEER2), 1000),))
    nowhere = ipv4("100.96.1.2", NOWHERE, bytes(40), options=options)
    expiring = ipv4("100.96.1.2", "100.96.2.3", bytes(40), ttl=1, options=options)
    too_big = ipv4("100.96.1.2", "100.96.2.3", bytes(1000), fragment=DF, options=options)
    outcome = await bed.send_tun(nowhere, expiring, too_big)
    assert outcome.tun == [
        scapy_error(nowhere, 3, 0, ttl=8),
        scapy_error(expiring, 11, 0, ttl=64),
        scapy_error(too_big, 3, 4, ttl=64, mtu=972),
    ]
    assert outcome.outbound["icmp_sent_net_unreachable"] == 1
    assert outcome.outbound["icmp_sent_time_exceeded"] == 1
    assert outcome.outbound["icmp_sent_fragmentation_needed"] == 1


async def test_inbound_time_exceeded_goes_straight_back_to_the_peer(bed: Bed) -> None:
    """Never through the TUN: with ip_forward off it would vanish there."""
    outcome = await bed.send_udp(PEER2, EXPIRING)
    assert outcome.tun == []
    assert outcome.datagrams[PEER2] == [scapy_error(EXPIRING, 11, 0, ttl=64)]
    assert outcome.inbound["icmp_sent_time_exceeded"] == 1


async def test_inbound_time_exceeded_goes_to_the_outer_source(bed: Bed) -> None:
    """Also where that is not the address in the lease: a peer behind NAT."""
    bed.publish(source_check=SourceCheck.OFF)
    for sender in (STRANGER, "masqueraded"):
        outcome = await bed.send_udp(sender, EXPIRING)
        assert outcome.datagrams.pop(sender) == [error_about(EXPIRING, 11, 0, TUN)]
        assert not any(outcome.datagrams.values())


async def test_a_short_packet_is_quoted_whole(bed: Bed) -> None:
    packet = ipv4("100.96.1.2", NOWHERE, b"abc")
    outcome = await bed.send_tun(packet + b"padding is not quoted")
    assert outcome.tun == [error_about(packet, 3, 0, TUN, ttl=8)]
    assert outcome.tun[0][28:] == packet


async def test_time_exceeded_quotes_the_packet_as_it_came(bed: Bed) -> None:
    outcome = await bed.send_udp(PEER2, EXPIRING)
    assert outcome.datagrams[PEER2][0][28:] == EXPIRING[:28]


@pytest.mark.parametrize("kind", ICMP_QUERIES)
async def test_about_echo_and_other_queries(bed: Bed, kind: int) -> None:
    packet = icmp("100.96.1.2", NOWHERE, kind)
    outcome = await bed.send_tun(packet)
    assert outcome.tun == [error_about(packet, 3, 0, TUN, ttl=8)]
    expiring = icmp("100.96.2.3", "100.96.1.2", kind, ttl=1)
    outcome = await bed.send_udp(PEER2, expiring)
    assert outcome.datagrams[PEER2] == [error_about(expiring, 11, 0, TUN)]


async def assert_nobody_is_told(bed: Bed, reason: str, *packets: bytes) -> None:
    outcome = await bed.send_tun(*packets)
    assert outcome.outbound[reason] == len(packets)
    assert outcome.outbound["icmp_suppressed"] == len(packets)
    assert outcome.tun == []
    assert not any(outcome.datagrams.values())


@pytest.mark.parametrize("kind", ICMP_ERRORS)
async def test_never_about_icmp_errors(bed: Bed, kind: int) -> None:
    await assert_nobody_is_told(bed, "drop_no_route", icmp("100.96.1.2", NOWHERE, kind))
    expired = icmp("100.96.1.2", "100.96.2.3", kind, ttl=1)
    await assert_nobody_is_told(bed, "drop_ttl_expired", expired)
    outcome = await bed.send_udp(PEER2, icmp("100.96.2.3", "100.96.1.2", kind, ttl=1))
    assert outcome.inbound["drop_ttl_expired"] == outcome.inbound["icmp_suppressed"] == 1
    assert outcome.datagrams[PEER2] == []


async def test_never_about_icmp_of_which_the_type_is_missing(bed: Bed) -> None:
    empty = ipv4("100.96.1.2", NOWHERE, b"", proto=1)
    await assert_nobody_is_told(bed, "drop_no_route", empty, empty + b"\x08 is only padding")


async def test_never_about_fragments_other_than_the_first(bed: Bed) -> None:
    later = [ipv4("100.96.1.2", NOWHERE, bytes(8), fragment=f) for f in (1, 0x2001, 0x1FFF)]
    await assert_nobody_is_told(bed, "drop_no_route", *later)
    outcome = await bed.send_udp(PEER2, ipv4("100.96.2.3", "100.96.1.2", ttl=1, fragment=100))
    assert outcome.inbound["icmp_suppressed"] == 1
    assert outcome.datagrams[PEER2] == []


async def test_about_first_fragments(bed: Bed) -> None:
    first = ipv4("100.96.1.2", NOWHERE, bytes(64), fragment=0x2000)
    outcome = await bed.send_tun(first)
    assert outcome.tun == [error_about(first, 3, 0, TUN, ttl=8)]


@pytest.mark.parametrize("group", ["224.0.0.1", "239.255.255.255", "255.255.255.255"])
async def test_never_about_multicast_or_broadcast(bed: Bed, group: str) -> None:
    await assert_nobody_is_told(bed, "drop_no_route", ipv4("100.96.1.2", group))


@pytest.mark.parametrize("source", ["0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
async def test_never_to_a_source_that_is_not_one_host(bed: Bed, source: str) -> None:
    await assert_nobody_is_told(bed, "drop_no_route", ipv4(source, NOWHERE))


async def test_silent_drops_stay_silent(bed: Bed) -> None:
    """Only no route, an expired TTL and a packet too big are told to anybody."""
    outcome = await bed.send_tun(ipv4("100.96.1.2", "100.96.1.9", ttl=1), b"\x45" * 19)
    assert outcome.tun == []
    assert outcome.outbound["icmp_suppressed"] == 0
    foreign = ipv4("100.96.2.3", "100.96.3.3", ttl=1)
    outcome = await bed.send_udp(PEER2, foreign, foreign[:-1])
    assert outcome.datagrams[PEER2] == []
    assert outcome.inbound["icmp_suppressed"] == 0


async def test_at_most_rate_errors_per_second_outbound(open_bed: OpenBed) -> None:
    bed = open_bed(icmp_rate=100)
    began = time.monotonic()
    outcome = await bed.send_tun(*[ipv4("100.96.1.2", NOWHERE)] * 1000)
    took = time.monotonic() - began
    sent = outcome.outbound["icmp_sent_net_unreachable"]
    assert outcome.outbound["drop_no_route"] == 1000
    assert 100 <= sent <= 100 + 100 * took + 1
    assert len(outcome.tun) == sent
    assert outcome.outbound["icmp_suppressed"] == 1000 - sent


async def test_at_most_rate_errors_per_second_inbound(open_bed: OpenBed) -> None:
    bed = open_bed(icmp_rate=100)
    began = time.monotonic()
    outcome = await bed.send_udp(PEER2, *[EXPIRING] * 1000)
    took = time.monotonic() - began
    sent = outcome.inbound["icmp_sent_time_exceeded"]
    assert 100 <= sent <= 100 + 100 * took + 1
    assert len(outcome.datagrams[PEER2]) == sent
    assert outcome.inbound["icmp_suppressed"] == 1000 - sent


async def test_the_directions_have_a_limit_each(open_bed: OpenBed) -> None:
    bed = open_bed(icmp_rate=5)
    await bed.send_tun(*[ipv4("100.96.1.2", NOWHERE)] * 50)
    outcome = await bed.send_udp(PEER2, *[EXPIRING] * 5)
    assert outcome.inbound["icmp_sent_time_exceeded"] == 5


async def test_what_the_rules_forbid_costs_no_token(open_bed: OpenBed) -> None:
    bed = open_bed(icmp_rate=3)
    await bed.send_tun(*[icmp("100.96.1.2", NOWHERE, 3)] * 50)
    outcome = await bed.send_tun(*[ipv4("100.96.1.2", NOWHERE)] * 3)
    assert outcome.outbound["icmp_sent_net_unreachable"] == 3


async def test_tokens_come_back(open_bed: OpenBed) -> None:
    bed = open_bed(icmp_rate=20)
    await bed.send_tun(*[ipv4("100.96.1.2", NOWHERE)] * 40)
    began = time.monotonic()
    sent = 0
    while sent < 3:
        outcome = await bed.send_tun(ipv4("100.96.1.2", NOWHERE))
        sent += outcome.outbound["icmp_sent_net_unreachable"]
        assert time.monotonic() - began < 30


async def test_a_rate_of_zero_is_silence(open_bed: OpenBed) -> None:
    bed = open_bed(icmp_rate=0)
    await assert_nobody_is_told(bed, "drop_no_route", ipv4("100.96.1.2", NOWHERE))


def test_the_bucket_holds_one_second_of_tokens() -> None:
    now = 5.0
    bucket = TokenBucket(100, lambda: now)
    assert sum(bucket.take() for _ in range(500)) == 100
    now += 0.25
    assert sum(bucket.take() for _ in range(500)) == 25
    now += 3600
    assert sum(bucket.take() for _ in range(500)) == 100


async def test_a_network_with_the_error_source_of_its_lease(bed: Bed) -> None:
    """The source of our errors is the TUN's address, whatever the lease."""
    bed.publish(subnet=IPv4Network("100.96.7.0/24"), tun_address=IPv4Address("100.96.7.0"))
    packet = ipv4("100.96.7.2", NOWHERE)
    outcome = await bed.send_tun(packet)
    assert outcome.tun == [error_about(packet, 3, 0, "100.96.7.0", ttl=8)]
