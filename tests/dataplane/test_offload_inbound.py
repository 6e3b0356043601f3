"""Packets of peers: joined on the way in, so that the kernel cuts them into the same ones."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataplane.bed import PEER2, SNAPSHOT, Bed, drain
from tests.dataplane.offload_bed import (
    EXAMPLES,
    OFFLOAD,
    PEER2_IP,
    PEER3_IP,
    THREADS,
    TIMESTAMPS,
    UPPER,
    US,
    by_flow,
    fresh,
    payload_of,
    run_backlog,
    send_all,
    stream_back,
)
from tests.dataplane.packets import DF, MF, TCP, UDP, hop
from tests.dataplane.superpackets import (
    ACK,
    CWR,
    ECE,
    FIN,
    GSO_NONE,
    PSH,
    SYN,
    Segment,
    cut_frame,
    from_frame,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

UDP_SEGMENT = 103

FLOWS = (
    Segment(source=PEER2_IP, destination=US, ports=(80, 40000), options=TIMESTAMPS, fragment=DF),
    Segment(source=PEER2_IP, destination=US, ports=(80, 40001), sequence=2**32 - 5000, ttl=9),
    Segment(source=PEER3_IP, destination=US, ports=(80, 40000), proto=UDP, ident=65500),
    Segment(source=PEER2_IP, destination=US, ports=(80, 40000), proto=UDP, fragment=DF),
)
ODD: tuple[dict[str, object], ...] = (
    {"flags": ACK | PSH},
    {"flags": ACK | FIN},
    {"flags": SYN},
    {"flags": ACK | ECE},
    {"flags": ACK | CWR},
    {"ack": 2001},
    {"window": 7},
    {"tos": 3},
    {"ttl": 5},
    {"ident": 1},
    {"sequence": 5},
    {"ip_options": bytes([1]) * 8},
    {"fragment": MF},
    {"fragment": 77},
    {"checksum": "bad"},
    {"checksum": "none", "proto": UDP},
    {"payload": b""},
    {"payload": payload_of(99)},
    {"payload": payload_of(1001)},
)
ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, len(FLOWS) - 1),
        st.integers(1, 6),
        st.one_of(st.none(), st.none(), st.sampled_from(ODD)),
    ),
    min_size=1,
    max_size=25,
)


def arrivals(steps: Sequence[tuple[int, int, dict[str, object] | None]]) -> list[Segment]:
    """What peers send: bursts of each flow, now and then a packet that is different."""
    flows, segments = list(FLOWS), list[Segment]()
    for index, burst, odd in steps:
        for _ in range(burst):
            now = replace(flows[index], payload=payload_of(700))
            segments.append(now)
            step = {"sequence": now.sequence + 700, "ident": now.ident + 1}
            flows[index] = replace(flows[index], **step)  # type: ignore[arg-type]
        if odd is not None:
            segments.append(replace(segments[-1], **odd))  # type: ignore[arg-type]
    return segments


@UPPER
@EXAMPLES
@THREADS
@given(steps=ARRIVALS)
async def test_the_stack_gets_what_the_peers_have_sent(
    rung: str, threads: str, steps: list[tuple[int, int, dict[str, object] | None]]
) -> None:
    bed = fresh(rung, threads)
    packets = send_all(bed, arrivals(steps))
    await run_backlog(bed)
    frames = drain(bed.tun)
    out = [p for frame in frames for p in (cut_frame(frame) if bed.vnet else [frame])]
    assert by_flow(out) == by_flow(packets)
    counters = bed.engine.counters().inbound
    assert counters["packets_written"] == counters["packets_read"] == len(packets)
    assert counters["bytes_written"] == counters["bytes_read"] == sum(map(len, packets))
    joined = sum(bed.vnet and from_frame(frame)[0].gso_type != GSO_NONE for frame in frames)
    assert counters["superpackets_written"] == joined
    assert counters["syscalls_written"] == len(frames)
    assert bed.engine.gauges()["downgrades_tun"] == 0
    for route in SNAPSHOT.routes:
        source = bytes(route.subnet[3].packed)
        own = [packet for packet in packets if packet[12:16] == source]
        peer = bed.engine.peer_counters()[route.subnet]
        assert (peer.rx_packets, peer.rx_bytes) == (len(own), sum(map(len, own)))
    await bed.close()


@UPPER
async def test_fragments_keep_their_place_among_all_packets(rung: str) -> None:
    """The ports of a fragment are not known: nothing of its pair of hosts may pass it."""
    bed = fresh(rung)
    flow = [stream_back(n * 700, 700) for n in range(6)]
    fragment = replace(flow[0], fragment=77, ident=99)
    packets = send_all(bed, [*flow[:3], fragment, *flow[3:]])
    await run_backlog(bed)
    assert bed.drain_tun() == packets
    assert bed.engine.counters().inbound["superpackets_written"] == (2 if bed.vnet else 0)
    await bed.close()


@OFFLOAD
@pytest.mark.parametrize("proto", [TCP, UDP])
@pytest.mark.parametrize(
    ("payload", "count", "frames"), [(100, 64, 1), (100, 65, 2), (1400, 50, 2)]
)
async def test_joined_as_far_as_the_limits(
    rung: str, proto: int, payload: int, count: int, frames: int
) -> None:
    bed = fresh(rung)
    packets = send_all(bed, (stream_back(n * payload, payload, proto) for n in range(count)))
    await run_backlog(bed)
    taken = drain(bed.tun)
    assert len(taken) == frames
    assert [packet for frame in taken for packet in cut_frame(frame)] == packets
    await bed.close()


@UPPER
async def test_a_run_of_a_peer_arrives_as_its_datagrams(bed: Bed) -> None:
    """The peer sends one message with UDP_SEGMENT, our socket takes it with UDP_GRO."""
    packets = [stream_back(n * 900, 900).build() for n in range(20)]
    packets.append(stream_back(18_000, 33).build())
    size = len(packets[0]).to_bytes(2, sys.byteorder)
    bed.sockets[PEER2].sendmsg(
        [b"".join(packets)],
        [(socket.SOL_UDP, UDP_SEGMENT, size)],
        0,
        bed.engine_socket.getsockname(),
    )
    bed.fed["inbound"] += len(packets)
    await bed.wait_for(bed.at_rest, "the run is delivered")
    assert bed.drain_tun() == [hop(packet) for packet in packets]
    counters = bed.engine.counters().inbound
    assert (counters["superpackets_read"], counters["syscalls_read"]) == (1, 1)
    assert counters["superpackets_written"] == bed.vnet
