"""The wire, byte for byte: golden vectors and TTL table of a real flannel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.bed import HOST, PEER2, SNAPSHOT
from tests.dataplane.packets import (
    GOLDEN_NO_ROUTE,
    GOLDEN_TTL_63,
    GOLDEN_TTL_64,
    destination_of,
    hop,
    icmp,
    with_checksum,
)
from tunneld.dataplane import Route

if TYPE_CHECKING:
    from tests.dataplane.bed import Bed
    from tests.dataplane.conftest import OpenBed

NODE2 = replace(
    SNAPSHOT,
    subnet=IPv4Network("100.96.2.0/24"),
    tun_address=IPv4Address("100.96.2.0"),
    routes=(Route(IPv4Network("100.96.1.0/24"), IPv4Address(PEER2)),),
    own_addresses=frozenset(IPv4Address(a) for a in (HOST, "100.96.2.0", "100.96.2.1")),
)


async def test_the_payload_is_the_bare_packet_with_a_smaller_ttl(bed: Bed) -> None:
    outcome = await bed.send_tun(GOLDEN_TTL_64)
    assert outcome.datagrams[PEER2] == [GOLDEN_TTL_63]
    assert outcome.outbound["packets_written"] == 1
    assert outcome.outbound["bytes_written"] == len(GOLDEN_TTL_63)


async def test_a_datagram_leaves_from_the_port_to_the_port(bed: Bed) -> None:
    bed.feed(GOLDEN_TTL_64)
    bed.fed["outbound"] += 1
    await bed.wait_for(bed.at_rest, "the packet was sent")
    _, source = bed.sockets[PEER2].recvfrom(2048)
    assert source == (HOST, bed.port)
    assert bed.sockets[PEER2].getsockname() == (PEER2, bed.port)


async def test_the_ttl_becomes_smaller_on_the_way_in_too(open_bed: OpenBed) -> None:
    outcome = await open_bed(snapshot=NODE2).send_udp(PEER2, GOLDEN_TTL_63)
    assert outcome.tun == [hop(GOLDEN_TTL_63)]
    assert outcome.tun[0][8] == 62
    assert outcome.tun[0][10:12] == bytes.fromhex("b107")


async def test_no_route_gives_flannels_own_net_unreachable(bed: Bed) -> None:
    packet = with_checksum(
        GOLDEN_TTL_64[:16] + IPv4Address("100.96.9.9").packed + GOLDEN_TTL_64[20:]
    )
    outcome = await bed.send_tun(packet)
    assert outcome.tun == [GOLDEN_NO_ROUTE]
    assert outcome.outbound["drop_no_route"] == 1
    assert outcome.outbound["icmp_sent_net_unreachable"] == 1


@pytest.mark.parametrize("sent", [2, 3, 4, 5])
async def test_the_ttl_table(open_bed: OpenBed, sent: int) -> None:
    """TTL as container 1 sends it; node 1's kernel has taken one when the packet reaches us."""
    node1, node2 = open_bed(), open_bed(snapshot=NODE2)
    there = await node1.send_tun(icmp("100.96.1.2", "100.96.2.3", 8, ttl=sent - 1))
    if sent == 2:
        assert there.datagrams[PEER2] == []
        assert [(p[20], destination_of(p)) for p in there.tun] == [(11, IPv4Address("100.96.1.2"))]
        return
    arrived = await node2.send_udp(PEER2, *there.datagrams[PEER2])
    if sent > 3:
        assert [packet[8] for packet in arrived.tun] == [sent - 3]
        return
    assert arrived.tun == []
    (error,) = arrived.datagrams[PEER2]
    back = await node1.send_udp(PEER2, error)
    assert [(p[8], p[20]) for p in back.tun] == [(63, 11)]
    assert destination_of(back.tun[0]) == IPv4Address("100.96.1.2")
