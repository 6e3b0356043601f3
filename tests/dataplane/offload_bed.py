"""What the tests of rungs gso and offload share: marks, backlogs, streams."""

from __future__ import annotations

import socket
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.dataplane.bed import PEER2, PEER3, SNAPSHOT, Bed
from tests.dataplane.packets import TCP, UDP, hop
from tests.dataplane.superpackets import Segment, without_id

if TYPE_CHECKING:
    from collections.abc import Iterable

UPPER = pytest.mark.parametrize("rung", ["gso", "offload"], indirect=True)
OFFLOAD = pytest.mark.parametrize("rung", ["offload"], indirect=True)
THREADS = pytest.mark.parametrize("threads", ["1", "2", "auto"])
EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SUBNET2 = SNAPSHOT.routes[0].subnet
US, PEER2_IP, PEER3_IP = "100.96.1.2", "100.96.2.3", "100.96.3.3"
TIMESTAMPS = bytes.fromhex("0101080a0000000100000002")


def deepen(bed: Bed) -> None:
    """Make the queues around an engine as long as is allowed to everybody."""
    for sock in (bed.engine_socket, *bed.sockets.values()):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    for sock in (bed.tun, bed.tun_fd):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)


def fresh(rung: str, threads: str = "1") -> Bed:
    """A bed with long queues that does not run yet: what is fed first is a backlog."""
    bed = Bed(rung, threads=threads)
    deepen(bed)
    return bed


async def run_backlog(bed: Bed) -> None:
    bed.start()
    await bed.wait_for(bed.at_rest, "the backlog is moved")


def by_flow(packets: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    """Packets by addresses, protocol and ports; fragments by addresses alone."""
    flows = defaultdict[bytes, list[bytes]](list)
    for packet in packets:
        fragment = int.from_bytes(packet[6:8], "big") & 0x3FFF
        ports = (packet[0] & 15) * 4
        has_ports = packet[9] in (TCP, UDP) and not fragment
        flows[
            packet[9:10] + packet[12:20] + (packet[ports : ports + 4] if has_ports else b"")
        ].append(without_id(packet))
    return flows


PATTERN = bytes((n * 7 + (n >> 8) * 13) & 255 for n in range(70_000))


def payload_of(size: int) -> bytes:
    return PATTERN[:size]


def stream(at: int, length: int, proto: int = TCP) -> Segment:
    """A stretch of one flow to peer 2."""
    return Segment(
        payload=payload_of(length), sequence=at, ident=at // 536, proto=proto, ports=(4000, 80)
    )


def stream_back(at: int, length: int, proto: int = TCP) -> Segment:
    """A stretch of one flow from peer 2; ids go on."""
    back = replace(stream(at, length, proto), source=PEER2_IP, destination=US)
    return replace(back, ident=at // max(length, 1))


def write(bed: Bed, segment: Segment, size: int) -> list[bytes]:
    """Hand a superpacket or single packet to the engine as this rung gets it; what must leave."""
    packets = segment.cut(size) if size else [segment.build()]
    if size and bed.vnet:
        bed.tun.send(segment.super(size))
    else:
        for packet in packets:
            bed.feed(packet)
    bed.fed["outbound"] += len(packets)
    return [hop(packet) for packet in packets]


def send_all(bed: Bed, segments: Iterable[Segment]) -> list[bytes]:
    """Let the peers send; return what must come out of the TUN."""
    packets = []
    for segment in segments:
        packet = segment.build()
        sender = PEER2 if segment.source == PEER2_IP else PEER3
        bed.sockets[sender].sendto(packet, bed.engine_socket.getsockname())
        packets.append(hop(packet))
    bed.fed["inbound"] += len(packets)
    return packets
