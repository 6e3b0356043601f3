"""Superpackets here, one packet per datagram there: flannel's nodes, and our own lower rungs."""

from __future__ import annotations

import socket
import struct

import pytest

from tests.dataplane.packets import ones_complement, with_checksum
from tests.netns.streams import exchange
from tests.netns.waiting import until
from tests.netns.wire import UDP_SEGMENT, at_rest, wire
from tunneld.lab import Cluster, wait_for_ping

SIZE = 1000
COUNT = 20
PORTS = (40000, 7000)


@pytest.mark.parametrize("setting", ["on", "sgro"])
@pytest.mark.parametrize("rung", ["python", "syscall", "mmsg", "gso"])
def test_tcp_both_ways_with_a_lower_rung(rung: str, setting: str) -> None:
    with Cluster(nodes=2, setting=setting) as cluster:
        args = {1: ["--dataplane", "offload"], 2: ["--dataplane", rung]}
        cluster.start_daemons(args_by_node=args)
        one, two = cluster.containers
        wait_for_ping(one, two.address)
        exchange(one, two, 5_000_000, patience=30)
        upper, lower = (at_rest(host.daemon) for host in cluster.nodes)
        # Superpackets on one side only, or this showed nothing.
        assert upper["outbound"]["superpackets_read"]
        assert upper["inbound"]["superpackets_written"]
        assert not lower["outbound"]["superpackets_read"]
        assert not lower["inbound"]["superpackets_written"]
        for values in (*upper.values(), *lower.values()):
            assert values.get("drop_bad_length", 0) == 0


def payload(number: int) -> bytes:
    return struct.pack("!I", number) * (SIZE // 4)


def from_flannel(number: int) -> bytes:
    """A UDP packet of 100.96.2.3 to 100.96.1.2, as a container behind a flannel node sends it."""
    udp = struct.pack("!HHHH", PORTS[1], PORTS[0], 8 + SIZE, 0) + payload(number)
    ends = bytes([100, 96, 2, 3, 100, 96, 1, 2])
    pseudo = ends + struct.pack("!HH", 17, len(udp))
    checksum = ones_complement(pseudo + udp) or 0xFFFF
    udp = udp[:6] + struct.pack("!H", checksum) + udp[8:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), number, 0x4000, 62, 17, 0) + ends
    return with_checksum(head + udp)


def test_udp_with_a_plain_socket() -> None:
    """What a program sends as one message of many segments arrives as datagrams, and back."""
    with wire("--dataplane", "offload") as w:
        sock = w.one.container.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.settimeout(30)
            sock.bind(("100.96.1.2", PORTS[0]))
            sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, SIZE)
            whole = b"".join(payload(number) for number in range(COUNT))
            sock.sendto(whole, ("100.96.2.3", PORTS[1]))
            for number, packet in enumerate(w.peers[2].payloads(COUNT)):
                assert packet[28:] == payload(number)
                assert struct.unpack("!HHH", packet[20:26]) == (*PORTS, 8 + SIZE)
                assert ones_complement(packet[:20]) == 0
                pseudo = packet[12:20] + struct.pack("!HH", 17, 8 + SIZE)
                assert ones_complement(pseudo + packet[20:]) == 0
            w.peers[2].send("10.168.0.2", *(from_flannel(number) for number in range(COUNT)))
            assert [sock.recv(2 * SIZE) for _ in range(COUNT)] == [
                payload(number) for number in range(COUNT)
            ]
        until(
            lambda: at_rest(w.one.daemon)["outbound"]["superpackets_read"] > 0,
            "the message counted as a superpacket",
        )
