"""What a packet must be to leave for a peer: one test per rule, in the order of the rules."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.bed import HOST, PEER2, PEER3, SNAPSHOT
from tests.dataplane.packets import DF, MF, error_about, hop, ipv4, with_checksum
from tunneld.dataplane import Route

if TYPE_CHECKING:
    from tests.dataplane.bed import Bed

GOOD = ipv4("100.96.1.2", "100.96.2.3")
TO_PEER2 = IPv4Network("100.96.2.0/24")


async def assert_dropped(bed: Bed, reason: str, *packets: bytes) -> None:
    """Each packet is counted under `reason`, and nothing leaves the engine anywhere."""
    outcome = await bed.send_tun(*packets)
    drops = {name: n for name, n in outcome.outbound.items() if name.startswith("drop_")}
    assert drops == {reason: len(packets)}
    assert outcome.outbound["packets_written"] == 0
    assert outcome.tun == []
    assert not any(outcome.datagrams.values())


async def assert_sent(bed: Bed, *packets: bytes, to: str = PEER2) -> None:
    """Each packet reaches one peer and no other, one hop further."""
    outcome = await bed.send_tun(*packets)
    assert outcome.datagrams.pop(to) == [hop(packet) for packet in packets]
    assert not any(outcome.datagrams.values())
    assert outcome.outbound["packets_written"] == len(packets)
    assert outcome.tun == []


async def test_a_packet_to_a_peers_subnet_is_sent(bed: Bed) -> None:
    await assert_sent(bed, GOOD, ipv4("192.0.2.1", "100.96.2.255", b"", proto=99))
    await assert_sent(bed, ipv4("100.96.1.2", "100.96.3.0"), to=PEER3)


async def test_too_short(bed: Bed) -> None:
    await assert_dropped(bed, "drop_too_short", b"\x45", GOOD[:19])


async def test_not_ipv4(bed: Bed) -> None:
    ipv6 = bytes([0x60, 0, 0, 0, 0, 8, 17, 64]) + bytes(32) + GOOD[20:]
    await assert_dropped(bed, "drop_not_ipv4", ipv6, with_checksum(b"\x55" + GOOD[1:]))


async def test_bad_header_length(bed: Bed) -> None:
    wrong = [with_checksum(bytes([0x40 | ihl]) + GOOD[1:]) for ihl in (0, 4, 15)]
    await assert_dropped(bed, "drop_bad_header_length", *wrong)


async def test_bad_length(bed: Bed) -> None:
    claims = [with_checksum(GOOD[:2] + n.to_bytes(2, "big") + GOOD[4:]) for n in (0, 19, 33)]
    await assert_dropped(bed, "drop_bad_length", *claims)


async def test_bad_checksum(bed: Bed) -> None:
    await assert_dropped(bed, "drop_bad_checksum", bytes([*GOOD[:10], GOOD[10] ^ 1, *GOOD[11:]]))


async def test_padding_is_not_sent(bed: Bed) -> None:
    outcome = await bed.send_tun(GOOD + b"padding")
    assert outcome.datagrams[PEER2] == [hop(GOOD)]


async def test_the_own_subnet_is_dropped(bed: Bed) -> None:
    """It would come back for ever while docker0 is down; nobody is told, no ICMP storm."""
    own = [ipv4("100.96.1.2", address) for address in ("100.96.1.0", "100.96.1.9", "100.96.1.255")]
    await assert_dropped(bed, "drop_own_subnet", *own)


async def test_nothing_overrides_the_own_subnet(bed: Bed) -> None:
    longer = Route(IPv4Network("100.96.1.128/25"), IPv4Address(PEER2))
    bed.publish(routes=(*SNAPSHOT.routes, longer))
    await assert_dropped(bed, "drop_own_subnet", ipv4("100.96.1.2", "100.96.1.200"))


@pytest.mark.parametrize("destination", ["100.96.9.9", "100.96.0.1", "192.0.2.1"])
async def test_no_peer_for_the_destination(bed: Bed, destination: str) -> None:
    packet = ipv4("100.96.1.2", destination)
    outcome = await bed.send_tun(packet)
    assert outcome.outbound["drop_no_route"] == 1
    assert outcome.tun == [error_about(packet, 3, 0, "100.96.1.0", ttl=8)]
    assert not any(outcome.datagrams.values())


async def test_a_peer_that_is_ourselves(bed: Bed) -> None:
    """A lease that points at this host would come straight back in."""
    bed.publish(routes=(Route(TO_PEER2, IPv4Address(HOST)),))
    await assert_dropped(bed, "drop_own_peer", GOOD)


@pytest.mark.parametrize("ttl", [0, 1])
async def test_expired_ttl(bed: Bed, ttl: int) -> None:
    packet = ipv4("100.96.1.2", "100.96.2.3", ttl=ttl)
    outcome = await bed.send_tun(packet)
    assert outcome.outbound["drop_ttl_expired"] == 1
    assert outcome.tun == [error_about(packet, 11, 0, "100.96.1.0")]
    assert not any(outcome.datagrams.values())


async def test_a_ttl_of_two_is_enough(bed: Bed) -> None:
    await assert_sent(bed, *(ipv4("100.96.1.2", "100.96.2.3", ttl=ttl) for ttl in (2, 3, 255)))


async def test_no_route_comes_before_the_ttl(bed: Bed) -> None:
    outcome = await bed.send_tun(ipv4("100.96.1.2", "100.96.9.9", ttl=1))
    assert outcome.outbound["drop_no_route"] == 1


@pytest.mark.parametrize(
    ("path_mtu", "fits"),
    [(0, 1472), (1400, 1372), (576, 548), (575, 1472), (68, 1472), (1500, 1472), (9000, 1472)],
)
async def test_df_and_too_big_for_the_path(bed: Bed, path_mtu: int, fits: int) -> None:
    """A path MTU below 576 is not believed; the TUN's own MTU is never exceeded."""
    bed.publish(routes=(Route(TO_PEER2, IPv4Address(PEER2), path_mtu),))
    await assert_sent(bed, ipv4("100.96.1.2", "100.96.2.3", bytes(fits - 20), fragment=DF))
    big = ipv4("100.96.1.2", "100.96.2.3", bytes(fits - 20 + 1), fragment=DF)
    outcome = await bed.send_tun(big)
    assert outcome.outbound["drop_too_big"] == 1
    assert outcome.tun == [error_about(big, 3, 4, "100.96.1.0", mtu=fits)]
    assert not any(outcome.datagrams.values())


async def test_too_big_without_df_is_sent(bed: Bed) -> None:
    """The kernel fragments the outer packet."""
    bed.publish(routes=(Route(TO_PEER2, IPv4Address(PEER2), 1400),))
    await assert_sent(
        bed,
        ipv4("100.96.1.2", "100.96.2.3", bytes(2000)),
        ipv4("100.96.1.2", "100.96.2.3", bytes(1448), fragment=MF),
    )


async def test_the_longest_prefix_wins(bed: Bed) -> None:
    routes = (
        Route(IPv4Network("100.96.2.0/23"), IPv4Address(PEER3)),
        Route(IPv4Network("100.96.2.0/24"), IPv4Address(PEER2)),
        Route(IPv4Network("100.96.2.128/25"), IPv4Address(PEER3)),
    )
    for order in (routes, routes[::-1]):
        bed.publish(routes=order)
        await assert_sent(bed, ipv4("100.96.1.2", "100.96.2.127"), to=PEER2)
        await assert_sent(bed, ipv4("100.96.1.2", "100.96.2.128"), to=PEER3)
        await assert_sent(bed, ipv4("100.96.1.2", "100.96.3.1"), to=PEER3)


async def test_a_refused_packet_costs_only_itself(bed: Bed) -> None:
    """65,508 bytes fit an IPv4 packet but no datagram: the kernel refuses that one (EMSGSIZE)."""
    refused = ipv4("100.96.1.2", "100.96.2.3", bytes(65508 - 20))
    outcome = await bed.send_tun(GOOD, refused, GOOD, refused, GOOD)
    assert outcome.datagrams[PEER2] == [hop(GOOD)] * 3
    assert outcome.outbound["drop_send_failed"] == 2
    assert outcome.outbound["packets_written"] == 3
