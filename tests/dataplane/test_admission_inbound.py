"""What a datagram must be to reach the overlay: one test per rule, in the order of the rules.

Each takes the datagram of `test_a_peers_packet_is_delivered` and spoils one thing.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.bed import PEER2, PEER3, SNAPSHOT, STRANGER
from tests.dataplane.packets import hop, ipv4, with_checksum
from tunneld.dataplane import Route, SourceCheck

if TYPE_CHECKING:
    from tests.dataplane.bed import Bed

GOOD = ipv4("100.96.2.3", "100.96.1.2")
MARTIANS = [
    "0.1.2.3",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.7.7",
    "224.0.0.5",
    "240.0.0.1",
    "255.255.255.255",
]
NEIGHBOURS = [
    "1.0.0.0",
    "126.255.255.255",
    "128.0.0.1",
    "169.253.255.255",
    "169.255.0.0",
    "223.255.255.255",
    "100.95.255.255",
    "100.97.0.0",
]


async def assert_dropped(bed: Bed, reason: str, *datagrams: bytes, sender: str = PEER2) -> None:
    """Each datagram is counted under `reason`, and nothing leaves the engine anywhere."""
    outcome = await bed.send_udp(sender, *datagrams)
    drops = {name: n for name, n in outcome.inbound.items() if name.startswith("drop_")}
    assert drops == {reason: len(datagrams)}
    assert outcome.inbound["packets_written"] == 0
    assert outcome.tun == []
    assert not any(outcome.datagrams.values())


async def assert_delivered(bed: Bed, *datagrams: bytes, sender: str = PEER2) -> None:
    """Each datagram comes out of the TUN, one hop further."""
    outcome = await bed.send_udp(sender, *datagrams)
    assert outcome.tun == [hop(datagram) for datagram in datagrams]
    assert outcome.inbound["packets_written"] == len(datagrams)
    assert outcome.inbound["bytes_written"] == sum(map(len, datagrams))


async def test_a_peers_packet_is_delivered(bed: Bed) -> None:
    await assert_delivered(bed, GOOD, ipv4("100.96.2.255", "100.96.1.0", b"", proto=99))


# 1. length and header


async def test_rule_1_too_short(bed: Bed) -> None:
    await assert_dropped(bed, "drop_too_short", b"", b"\x45", GOOD[:19])


async def test_rule_1_not_ipv4(bed: Bed) -> None:
    ipv6 = bytes([0x60, 0, 0, 0, 0, 8, 17, 64]) + bytes(32) + GOOD[20:]
    versions = [with_checksum(bytes([v << 4 | 5]) + GOOD[1:]) for v in (0, 3, 5, 6, 15)]
    await assert_dropped(bed, "drop_not_ipv4", ipv6, *versions)


async def test_rule_1_header_length_below_20(bed: Bed) -> None:
    short = [with_checksum(bytes([0x40 | ihl]) + GOOD[1:]) for ihl in range(5)]
    await assert_dropped(bed, "drop_bad_header_length", *short)


async def test_rule_1_header_longer_than_the_datagram(bed: Bed) -> None:
    long = with_checksum(bytes([0x4F]) + GOOD[1:])
    await assert_dropped(bed, "drop_bad_header_length", long, bytes([0x46]) + GOOD[1:20])


async def test_rule_1_total_length_beyond_the_datagram(bed: Bed) -> None:
    claims = [with_checksum(GOOD[:2] + n.to_bytes(2, "big") + GOOD[4:]) for n in (33, 1500, 65535)]
    await assert_dropped(bed, "drop_bad_length", *claims)


async def test_rule_1_total_length_below_the_header(bed: Bed) -> None:
    options = ipv4("100.96.2.3", "100.96.1.2", options=b"\x01" * 8)
    claims = [with_checksum(GOOD[:2] + n.to_bytes(2, "big") + GOOD[4:]) for n in (0, 19)]
    claims.append(with_checksum(options[:2] + (27).to_bytes(2, "big") + options[4:]))
    await assert_dropped(bed, "drop_bad_length", *claims)


async def test_rule_1_trailing_bytes_are_trimmed(bed: Bed) -> None:
    outcome = await bed.send_udp(PEER2, GOOD + b"padding")
    assert outcome.tun == [hop(GOOD)]
    assert outcome.inbound["bytes_read"] == outcome.inbound["bytes_written"] == len(GOOD)


@pytest.mark.parametrize("at", [1, *range(4, 20)])
async def test_rule_1_bad_checksum(bed: Bed, at: int) -> None:
    spoilt = GOOD[:at] + bytes([GOOD[at] ^ 0x10]) + GOOD[at + 1 :]
    await assert_dropped(bed, "drop_bad_checksum", spoilt)


async def test_the_payload_is_none_of_our_business(bed: Bed) -> None:
    await assert_delivered(bed, GOOD[:20] + b"\xff" * 12)


async def test_options_are_legal(bed: Bed) -> None:
    await assert_delivered(bed, ipv4("100.96.2.3", "100.96.1.2", options=b"\x01" * 40))


# 2. outer source and port


async def test_rule_2_unknown_outer_source(bed: Bed) -> None:
    await assert_dropped(bed, "drop_outer_source", GOOD, sender=STRANGER)


async def test_rule_2_a_peer_without_a_lease_any_more_is_unknown(bed: Bed) -> None:
    await assert_delivered(bed, GOOD)
    bed.publish(routes=SNAPSHOT.routes[1:])
    await assert_dropped(bed, "drop_outer_source", GOOD)


async def test_rule_2_a_peers_address_with_another_port(bed: Bed) -> None:
    await assert_dropped(bed, "drop_outer_port", GOOD, sender="masqueraded")


async def test_rule_2_allow_source_lets_a_stranger_in(bed: Bed) -> None:
    bed.publish(allow_sources=(IPv4Network("127.0.0.8/31"),))
    await assert_delivered(bed, GOOD, sender=STRANGER)
    bed.publish(allow_sources=(IPv4Network("127.0.0.10/31"), IPv4Network("10.0.0.0/8")))
    await assert_dropped(bed, "drop_outer_source", GOOD, sender=STRANGER)


async def test_rule_2_allow_source_still_asks_for_the_port(bed: Bed) -> None:
    bed.publish(allow_sources=(IPv4Network("127.0.0.0/8"),))
    await assert_dropped(bed, "drop_outer_port", GOOD, sender="masqueraded")


async def test_rule_2_source_check_off_drops_both_checks(bed: Bed) -> None:
    bed.publish(source_check=SourceCheck.OFF)
    await assert_delivered(bed, GOOD, sender=STRANGER)
    await assert_delivered(bed, GOOD, sender="masqueraded")


async def test_rule_2_holds_in_strict_mode(bed: Bed) -> None:
    bed.publish(source_check=SourceCheck.STRICT)
    await assert_dropped(bed, "drop_outer_source", GOOD, sender=STRANGER)
    await assert_dropped(bed, "drop_outer_port", GOOD, sender="masqueraded")
    await assert_delivered(bed, GOOD)


# 3. inner source


@pytest.mark.parametrize("check", SourceCheck)
@pytest.mark.parametrize("own", ["100.96.1.0", "100.96.1.1", "10.168.0.2", "127.0.0.1"])
async def test_rule_3_no_address_of_this_host(bed: Bed, own: str, check: SourceCheck) -> None:
    bed.publish(source_check=check)
    await assert_dropped(bed, "drop_own_source", ipv4(own, "100.96.1.2"))


async def test_rule_3_own_addresses_are_those_of_the_snapshot(bed: Bed) -> None:
    outside = ipv4("192.0.2.77", "100.96.1.2")
    await assert_delivered(bed, outside)
    bed.publish(own_addresses=frozenset([IPv4Address("192.0.2.77")]))
    await assert_dropped(bed, "drop_own_source", outside)


async def test_rule_3_an_own_address_even_if_a_peer_leases_it(bed: Bed) -> None:
    bed.publish(own_addresses=frozenset([IPv4Address("100.96.2.3")]))
    await assert_dropped(bed, "drop_own_source", GOOD)


@pytest.mark.parametrize("check", [SourceCheck.PEER, SourceCheck.STRICT])
async def test_rule_3_a_peers_address_from_another_peer(bed: Bed, check: SourceCheck) -> None:
    bed.publish(source_check=check)
    await assert_dropped(bed, "drop_spoofed_source", GOOD, sender=PEER3)


@pytest.mark.parametrize("check", SourceCheck)
async def test_rule_3_a_source_in_no_lease(bed: Bed, check: SourceCheck) -> None:
    bed.publish(source_check=check)
    nobody = [ipv4(a, "100.96.1.2") for a in ("100.96.0.1", "100.96.4.1", "100.96.255.255")]
    await assert_dropped(bed, "drop_spoofed_source", *nobody)


@pytest.mark.parametrize("check", SourceCheck)
async def test_rule_3_a_source_in_the_own_subnet(bed: Bed, check: SourceCheck) -> None:
    """Even under a peer's wider lease: nothing overrides the own subnet."""
    wide = Route(IPv4Network("100.96.0.0/22"), IPv4Address(PEER2))
    bed.publish(source_check=check, routes=(*SNAPSHOT.routes, wide))
    await assert_dropped(bed, "drop_spoofed_source", ipv4("100.96.1.7", "100.96.1.2"))


async def test_rule_3_several_leases_with_one_public_ip(bed: Bed) -> None:
    second = Route(IPv4Network("100.96.8.0/24"), IPv4Address(PEER2))
    bed.publish(routes=(*SNAPSHOT.routes, second))
    await assert_delivered(bed, GOOD, ipv4("100.96.8.3", "100.96.1.2"))


async def test_rule_3_overlapping_leases_any_of_the_peers_own(bed: Bed) -> None:
    wide = Route(IPv4Network("100.96.2.0/23"), IPv4Address(PEER3))
    bed.publish(routes=(SNAPSHOT.routes[0], wide))
    await assert_delivered(bed, GOOD)
    await assert_delivered(bed, GOOD, sender=PEER3)


async def test_rule_3_allow_source_any_live_peers_subnet(bed: Bed) -> None:
    bed.publish(allow_sources=(IPv4Network("127.0.0.9/32"),))
    await assert_delivered(bed, GOOD, ipv4("100.96.3.3", "100.96.1.2"), sender=STRANGER)
    await assert_dropped(
        bed, "drop_spoofed_source", ipv4("100.96.4.3", "100.96.1.2"), sender=STRANGER
    )


async def test_rule_3_allow_source_gives_other_peers_nothing(bed: Bed) -> None:
    bed.publish(allow_sources=(IPv4Network("127.0.0.9/32"),))
    await assert_dropped(bed, "drop_spoofed_source", GOOD, sender=PEER3)


@pytest.mark.parametrize("check", SourceCheck)
@pytest.mark.parametrize("martian", MARTIANS)
async def test_rule_3_martian_source(bed: Bed, martian: str, check: SourceCheck) -> None:
    bed.publish(own_addresses=frozenset(), source_check=check)
    await assert_dropped(bed, "drop_martian_source", ipv4(martian, "100.96.1.2"))


@pytest.mark.parametrize("source", NEIGHBOURS)
async def test_rule_3_neighbours_of_the_martians_are_legal(bed: Bed, source: str) -> None:
    await assert_delivered(bed, ipv4(source, "100.96.1.2"))


async def test_rule_3_strict_drops_sources_outside_the_network(bed: Bed) -> None:
    outside = ipv4("192.0.2.77", "100.96.1.2")
    await assert_delivered(bed, outside)
    bed.publish(source_check=SourceCheck.STRICT)
    await assert_dropped(bed, "drop_outside_source", outside)


# 4. inner destination


@pytest.mark.parametrize("check", SourceCheck)
@pytest.mark.parametrize(
    "destination",
    ["100.96.3.3", "100.96.2.3", "100.96.0.255", "192.0.2.1", "10.168.0.2", "224.0.0.1"],
)
async def test_rule_4_foreign_destination(bed: Bed, destination: str, check: SourceCheck) -> None:
    bed.publish(source_check=check)
    await assert_dropped(bed, "drop_foreign_destination", ipv4("100.96.2.3", destination))


async def test_rule_4_both_ends_of_the_own_subnet_are_ours(bed: Bed) -> None:
    ends = [ipv4("100.96.2.3", address) for address in ("100.96.1.0", "100.96.1.255")]
    await assert_delivered(bed, *ends)


# 5. TTL


@pytest.mark.parametrize("ttl", [0, 1])
async def test_rule_5_expired_ttl(bed: Bed, ttl: int) -> None:
    outcome = await bed.send_udp(PEER2, ipv4("100.96.2.3", "100.96.1.2", ttl=ttl))
    assert outcome.inbound["drop_ttl_expired"] == 1
    assert outcome.inbound["packets_written"] == 0
    assert outcome.tun == []


@pytest.mark.parametrize("ttl", [2, 3, 255])
async def test_rule_5_a_ttl_of_two_is_enough(bed: Bed, ttl: int) -> None:
    await assert_delivered(bed, ipv4("100.96.2.3", "100.96.1.2", ttl=ttl))


async def test_fragments_pass(bed: Bed) -> None:
    first = ipv4("100.96.2.3", "100.96.1.2", bytes(64), fragment=0x2000)
    last = ipv4("100.96.2.3", "100.96.1.2", bytes(9), fragment=8)
    await assert_delivered(bed, first, last)


async def test_the_first_broken_rule_is_the_one_that_counts(bed: Bed) -> None:
    """Each datagram breaks one rule more than the one before, all but the last two at once."""
    worst = ipv4("100.96.3.3", "100.96.3.2", ttl=1)
    await assert_dropped(bed, "drop_foreign_destination", ipv4("100.96.2.3", "100.96.3.2", ttl=1))
    await assert_dropped(bed, "drop_spoofed_source", worst)
    own = ipv4("100.96.1.1", "100.96.3.2", ttl=1)
    await assert_dropped(bed, "drop_own_source", own)
    await assert_dropped(bed, "drop_outer_port", own, sender="masqueraded")
    await assert_dropped(bed, "drop_outer_source", own, sender=STRANGER)
    broken = bytes([*own[:10], own[10] ^ 1, *own[11:]])
    await assert_dropped(bed, "drop_bad_checksum", broken, sender=STRANGER)
    await assert_dropped(bed, "drop_bad_length", broken[:-1], sender=STRANGER)
