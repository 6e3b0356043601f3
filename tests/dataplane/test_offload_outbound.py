"""Superpackets of containers: cut on the way out, as the sender would have cut them."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers import inet

from tests.dataplane.bed import MAX_SEGMENTS, PEER2, PEER3, SNAPSHOT, Bed, drain, total
from tests.dataplane.offload_bed import (
    EXAMPLES,
    OFFLOAD,
    PEER2_IP,
    PEER3_IP,
    THREADS,
    TIMESTAMPS,
    UPPER,
    US,
    fresh,
    payload_of,
    run_backlog,
    stream,
    write,
)
from tests.dataplane.packets import DF, TCP, UDP, hop
from tests.dataplane.superpackets import (
    ACK,
    CWR,
    ECE,
    FIN,
    GSO_NONE,
    L4_CHECKSUM,
    PSH,
    Segment,
    Vnet,
    from_frame,
    to_frame,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.dataplane.conftest import OpenBed

MTU = SNAPSHOT.mtu
SO_NO_CHECK = 11
NARROW = replace(SNAPSHOT.routes[0], path_mtu=1400)
# What the buffers of the sockets hold without privileges: kernel memory, not bytes of payload.
BUFFER_BYTES, SMALLEST_IN_KERNEL = 380_000, 768


def in_kernel(packet: bytes) -> int:
    """About what a datagram takes up in a receive buffer."""
    return SMALLEST_IN_KERNEL if len(packet) < 400 else 2 * len(packet)


def weight(packets: Iterable[bytes]) -> int:
    return sum(map(in_kernel, packets))


@st.composite
def outgoing(draw: st.DrawFn) -> tuple[Segment, int]:
    """What a container sends, and the size to cut at; 0: it is a single packet."""
    proto = draw(st.sampled_from((TCP, TCP, UDP)))
    segment = Segment(
        source=US,
        destination=draw(st.sampled_from((PEER2_IP, PEER2_IP, PEER3_IP))),
        ports=(draw(st.integers(1, 65535)), 80),
        proto=proto,
        sequence=draw(st.sampled_from((0, 1000, 2**32 - 1, 2**32 - 1500))),
        flags=ACK | draw(st.sampled_from((0, PSH, FIN | PSH, CWR, ECE, CWR | ECE | PSH))),
        options=draw(st.sampled_from((b"", TIMESTAMPS, bytes([1]) * 40))) if proto == TCP else b"",
        ip_options=draw(st.sampled_from((b"", b"", bytes([1]) * 4))),
        ident=draw(st.sampled_from((0, 7, 65530))),
        fragment=draw(st.sampled_from((0, DF))),
        tos=draw(st.sampled_from((0, 2, 0xB8))),
        ttl=draw(st.sampled_from((2, 64, 255))),
        checksum=draw(st.sampled_from(("good", "good", "none"))) if proto == UDP else "good",
    )
    largest = MTU - segment.header_length
    size = draw(st.one_of(st.just(largest), st.integers(48, largest)))
    if draw(st.booleans()):
        payload = draw(st.integers(0, largest))
        return replace(segment, payload=payload_of(payload)), 0
    count = draw(st.one_of(st.integers(1, 70), st.just(45)))
    payload = min(count * size - draw(st.integers(0, size - 1)), 65535 - segment.header_length)
    return replace(segment, payload=payload_of(payload)), size


@UPPER
@EXAMPLES
@THREADS
@given(sent=st.lists(outgoing(), min_size=1, max_size=8))
async def test_the_peer_gets_what_the_sender_would_have_sent(
    rung: str, threads: str, sent: list[tuple[Segment, int]]
) -> None:
    bed = fresh(rung, threads)
    expected: dict[str, list[bytes]] = {PEER2: [], PEER3: []}
    superpackets, held = 0, 0
    for segment, size in sent:
        held += weight(segment.cut(size) if size else [segment.build()])
        if held > BUFFER_BYTES:
            break
        packets = write(bed, segment, size)
        expected[PEER2 if segment.destination == PEER2_IP else PEER3] += packets
        superpackets += bed.vnet and len(packets) > 1
    await run_backlog(bed)
    for peer, packets in expected.items():
        assert drain(bed.sockets[peer]) == packets
    counters = bed.engine.counters().outbound
    everything = [packet for packets in expected.values() for packet in packets]
    assert counters["packets_written"] == len(everything)
    assert counters["bytes_read"] == counters["bytes_written"] == sum(map(len, everything))
    assert counters["superpackets_read"] == superpackets
    assert bed.engine.gauges()["downgrades_udp"] == 0
    for route in SNAPSHOT.routes:
        own = expected[str(route.public_ip)]
        counted = bed.engine.peer_counters()[route.subnet]
        assert (counted.tx_packets, counted.tx_bytes) == (len(own), sum(map(len, own)))
    await bed.close()


@OFFLOAD
@pytest.mark.parametrize("proto", [TCP, UDP])
async def test_a_single_packet_gets_the_checksum_that_was_left_to_us(bed: Bed, proto: int) -> None:
    for length in (0, 1, 2, 1001, MTU - 40):
        segment = Segment(proto=proto, payload=payload_of(length), ttl=3)
        _, partial = from_frame(segment.super(0))
        assert partial != segment.build()
        frame = to_frame(partial, Vnet(1, GSO_NONE, 0, 0, 20, L4_CHECKSUM[proto]))
        bed.tun.send(frame)
        bed.fed["outbound"] += 1
        await bed.wait_for(bed.at_rest, "the packet is sent")
        assert drain(bed.sockets[PEER2]) == [hop(segment.build())]


@OFFLOAD
@pytest.mark.parametrize(
    ("change", "drop", "answer"),
    [
        ({"fragment": DF}, "drop_too_big", (3, 4)),
        ({"ttl": 1}, "drop_ttl_expired", (11, 0)),
        ({"destination": "100.96.9.9"}, "drop_no_route", (3, 0)),
    ],
)
async def test_a_superpacket_that_ends_here_is_told_once(
    rung: str, change: dict[str, str | int], drop: str, answer: tuple[int, int]
) -> None:
    """It counts as its packets, but its sender made one send and needs one answer."""
    bed = Bed(rung, snapshot=replace(SNAPSHOT, routes=(NARROW, *SNAPSHOT.routes[1:])))
    segment = replace(Segment(payload=payload_of(5000)), **change)  # type: ignore[arg-type]
    count = len(write(bed, segment, 1400))
    assert count == 4
    bed.start()
    await bed.wait_for(lambda: bed.engine.counters().outbound[drop] == count, drop)
    await bed.engine.stop()
    (error,) = bed.drain_tun()
    dissected = inet.IP(error)
    assert (dissected.src, dissected.dst) == (str(SNAPSHOT.tun_address), US)
    assert (dissected[inet.ICMP].type, dissected[inet.ICMP].code) == answer
    assert total(bed.engine.counters().outbound, "icmp_") == 1
    # The sender finds its connection by what is quoted.
    assert error[28 + 12 : 28 + 28] == segment.build()[12:28]
    await bed.close()


@OFFLOAD
async def test_segments_that_the_path_does_not_take_whole_may_be_fragmented(bed: Bed) -> None:
    """Without DF that is not ours to refuse; each of them is a datagram of its own."""
    bed.publish(routes=(NARROW,))
    packets = write(bed, Segment(payload=payload_of(5000)), 1400)
    await bed.wait_for(bed.at_rest, "the superpacket is sent")
    assert drain(bed.sockets[PEER2]) == packets
    assert bed.engine.counters().outbound["superpackets_written"] == 0


@OFFLOAD
@EXAMPLES
@given(
    vnet=st.builds(
        Vnet,
        *(st.integers(0, 3), st.sampled_from((0, 1, 3, 4, 5, 0x81, 0x85, 0xFF))),
        *(st.integers(0, 65535), st.sampled_from((0, 1, 47, 48, 1000, 1432, 9000, 65535))),
        *(st.integers(0, 65535), st.integers(0, 65535)),
    ),
    segment=outgoing(),
    cut=st.integers(0, 120),
)
async def test_whatever_the_vnet_header_says_nothing_is_lost_uncounted(
    rung: str, vnet: Vnet, segment: tuple[Segment, int], cut: int
) -> None:
    bed = Bed(rung)
    bed.start()

    def settled() -> bool:
        now = bed.engine.counters().outbound
        done = now["packets_written"] + total(now, "drop_")
        return now["packets_read"] == done > before

    before = bed.engine.counters().outbound["packets_read"]
    packet = segment[0].build()
    bed.tun.send(to_frame(packet, vnet)[: max(len(packet) + 10 - cut, 1)])
    await bed.wait_for(settled, "it is sent or dropped, whatever it was taken for")
    for sock in (bed.tun, bed.sockets[PEER2], bed.sockets[PEER3]):
        drain(sock)
    before = bed.engine.counters().outbound["packets_read"]
    good = write(bed, Segment(payload=payload_of(3000)), 1000)
    await bed.wait_for(settled, "a good superpacket after it")
    assert drain(bed.sockets[PEER2]) == good
    # Not by at_rest(): a superpacket that ends here is many drops but one answer.
    await bed.engine.stop()
    await bed.close()


@UPPER
async def test_a_run_that_the_kernel_refuses_goes_packet_by_packet(open_bed: OpenBed) -> None:
    """With SO_NO_CHECK it takes no UDP_SEGMENT (EINVAL): the way of every refusal but EIO."""
    bed = open_bed(start=False)
    bed.engine_socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    packets = [packet for n in range(4) for packet in write(bed, stream(n * 5000, 5000), 1000)]
    await run_backlog(bed)
    assert drain(bed.sockets[PEER2]) == packets
    assert int(bed.engine.gauges()["downgrades_udp"]) > 0
    # That was about this run: the next may pass.
    assert bed.engine.gauges()["segments"] == MAX_SEGMENTS
    assert bed.engine.counters().outbound["superpackets_written"] == 0
    bed.engine_socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 0)
    refused = bed.engine.gauges()["downgrades_udp"]
    packets = write(bed, stream(0, 5000), 1000)
    await bed.wait_for(bed.at_rest, "a run that is not refused")
    assert drain(bed.sockets[PEER2]) == packets
    assert bed.engine.gauges()["downgrades_udp"] == refused
