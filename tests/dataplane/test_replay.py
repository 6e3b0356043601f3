"""Captures of a real flannel cluster, replayed through each rung with their own addresses.

Two nodes ran flanneld v0.28.9; what their TUN devices saw and what crossed the wire between them
was captured at the same time. Here the engine takes the place of one flanneld: it gets from its
TUN and from its socket what that one got, and what it gives is compared with what that one gave.

The engine's socket has the node's own address and port, in a network namespace of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.bed import open_sockets_apart
from tests.dataplane.packets import (
    destination_of,
    error_about,
    icmp,
    read_pcap,
    source_of,
)
from tunneld.dataplane import Route, RouteSnapshot

if TYPE_CHECKING:
    from tests.dataplane.bed import Bed
    from tests.dataplane.conftest import OpenBed

DATA = Path(__file__).parent.parent / "data"
PORT = 8285
OUTER_HEADERS = 28


@dataclass(frozen=True)
class FlannelNode:
    """One node of the captured cluster."""

    public_ip: str
    subnet: IPv4Network
    capture: str

    @property
    def tun_address(self) -> str:
        return str(self.subnet.network_address)


NODE1 = FlannelNode("10.168.0.11", IPv4Network("100.96.84.0/24"), "flannel-udp-node1-tun.pcap")
NODE2 = FlannelNode("10.168.0.13", IPv4Network("100.96.93.0/24"), "flannel-udp-node2-tun.pcap")


@dataclass(frozen=True)
class Seen:
    """What one flanneld read and wrote, in order.

    Attributes:
        tun_in: packets that the kernel routed to its TUN.
        tun_out: packets that it wrote to its TUN: delivered ones and its own ICMP errors.
        udp_in: payloads that it received.
        udp_out: payloads that it sent.
    """

    tun_in: list[bytes]
    tun_out: list[bytes]
    udp_in: list[bytes]
    udp_out: list[bytes]


def seen_by(node: FlannelNode) -> Seen:
    tun = read_pcap(DATA / node.capture)
    wire = read_pcap(DATA / "flannel-udp-underlay.pcap")
    ours = IPv4Address(node.public_ip)
    return Seen(
        tun_in=[p for p in tun if destination_of(p) not in node.subnet],
        tun_out=[p for p in tun if destination_of(p) in node.subnet],
        udp_in=[p[OUTER_HEADERS:] for p in wire if destination_of(p) == ours],
        udp_out=[p[OUTER_HEADERS:] for p in wire if source_of(p) == ours],
    )


def bed_of(open_bed: OpenBed, node: FlannelNode, peer: FlannelNode) -> Bed:
    snapshot = RouteSnapshot(
        network=IPv4Network("100.96.0.0/16"),
        subnet=node.subnet,
        tun_address=node.subnet.network_address,
        mtu=1472,
        port=PORT,
        routes=(Route(peer.subnet, IPv4Address(peer.public_ip)),),
        own_addresses=frozenset(
            (IPv4Address(node.public_ip), node.subnet[0], node.subnet[1]),
        ),
    )
    sockets = open_sockets_apart(node.public_ip, (peer.public_ip,), PORT)
    return open_bed(snapshot=snapshot, sockets=sockets)


def unanswered_by_flannel(seen: Seen, peer: FlannelNode) -> list[bytes]:
    """Packets from the TUN that flannel neither sent nor told anybody about, but we tell."""
    expired = [p for p in seen.tun_in if destination_of(p) in peer.subnet and p[8] <= 1]
    unassigned = [p for p in seen.tun_in if destination_of(p) not in peer.subnet]
    return expired + [p for p in unassigned if p[9] == 1]


def is_net_unreachable(packet: bytes) -> bool:
    return packet[9] == 1 and packet[20:22] == b"\x03\x00"


def test_the_captures_hold_what_these_tests_are_about() -> None:
    one, two = seen_by(NODE1), seen_by(NODE2)
    # Node 1: 29 sent, 3 expired, 11 to nobody; 24 delivered and 7 net unreachable of flannel's.
    assert (len(one.tun_in), len(one.udp_out)) == (29 + 3 + 11, 29)
    assert (len(one.udp_in), len(one.tun_out)) == (24, 24 + 7)
    assert sum(map(is_net_unreachable, one.tun_out)) == 7
    # Node 2: all 24 sent; of 29 received 26 delivered, 3 expired.
    assert (len(two.tun_in), len(two.udp_out)) == (24, 24)
    assert (len(two.udp_in), len(two.tun_out)) == (29, 29 - 3)


@pytest.mark.parametrize(("node", "peer"), [(NODE1, NODE2), (NODE2, NODE1)])
async def test_each_forwarded_packet_leaves_byte_equal(
    open_bed: OpenBed, node: FlannelNode, peer: FlannelNode
) -> None:
    seen = seen_by(node)
    outcome = await bed_of(open_bed, node, peer).send_tun(*seen.tun_in)
    assert outcome.datagrams == {peer.public_ip: seen.udp_out}


@pytest.mark.parametrize(("node", "peer"), [(NODE1, NODE2), (NODE2, NODE1)])
async def test_each_delivered_packet_arrives_byte_equal(
    open_bed: OpenBed, node: FlannelNode, peer: FlannelNode
) -> None:
    seen = seen_by(node)
    outcome = await bed_of(open_bed, node, peer).send_udp(peer.public_ip, *seen.udp_in)
    assert outcome.tun == [p for p in seen.tun_out if not is_net_unreachable(p)]


async def test_what_we_add_outbound_is_exactly_our_icmp_errors(open_bed: OpenBed) -> None:
    seen = seen_by(NODE1)
    outcome = await bed_of(open_bed, NODE1, NODE2).send_tun(*seen.tun_in)
    flannels = [packet for packet in outcome.tun if packet in seen.tun_out]
    assert flannels == [p for p in seen.tun_out if is_net_unreachable(p)]
    added = [packet for packet in outcome.tun if packet not in seen.tun_out]
    silent = unanswered_by_flannel(seen, NODE2)
    assert sorted(added) == sorted(
        error_about(p, 11, 0, NODE1.tun_address)
        if destination_of(p) in NODE2.subnet
        else error_about(p, 3, 0, NODE1.tun_address, ttl=8)
        for p in silent
    )
    # TTL 2 as the container sent it: a ping, two traceroutes; four pings to nobody.
    assert [p[9] for p in silent] == [1, 17, 1, 1, 1, 1, 1]


async def test_what_we_add_inbound_is_time_exceeded_for_ttl_3(open_bed: OpenBed) -> None:
    seen = seen_by(NODE2)
    outcome = await bed_of(open_bed, NODE2, NODE1).send_udp(NODE1.public_ip, *seen.udp_in)
    expired = [packet for packet in seen.udp_in if packet[8] <= 1]
    assert len(expired) == 3
    assert outcome.inbound["drop_ttl_expired"] == 3
    assert outcome.datagrams[NODE1.public_ip] == [
        error_about(packet, 11, 0, NODE2.tun_address) for packet in expired
    ]


async def test_our_errors_pass_the_other_nodes_admission(open_bed: OpenBed) -> None:
    """Node 2's Time Exceeded comes from its lease's base address, which its lease covers."""
    two = await bed_of(open_bed, NODE2, NODE1).send_udp(NODE1.public_ip, *seen_by(NODE2).udp_in)
    errors = two.datagrams[NODE1.public_ip]
    one = await bed_of(open_bed, NODE1, NODE2).send_udp(NODE2.public_ip, *errors)
    assert len(one.tun) == len(errors) == 3
    assert {packet[8] for packet in one.tun} == {63}


async def test_two_of_our_nodes_together(open_bed: OpenBed) -> None:
    """A ping with flannel's TTLs through an engine of ours at each end: 63 -> 62 -> 61."""
    ping = icmp("100.96.84.2", "100.96.93.2", 8, ttl=63)
    there = await bed_of(open_bed, NODE1, NODE2).send_tun(ping)
    arrived = await bed_of(open_bed, NODE2, NODE1).send_udp(
        NODE1.public_ip, *there.datagrams[NODE2.public_ip]
    )
    assert [packet[8] for packet in arrived.tun] == [61]
