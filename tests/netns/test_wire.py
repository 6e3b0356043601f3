"""The wire byte for byte, through a real TUN, against a raw UDP peer (flannel-compat, 1)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

import pytest

from tests.dataplane.packets import (
    GOLDEN_NO_ROUTE,
    GOLDEN_TTL_63,
    GOLDEN_TTL_64,
    hop,
    ones_complement,
    with_checksum,
)
from tests.netns.waiting import until
from tests.netns.wire import RUNGS, Meter, inject, send_raw, wire, written
from tunneld.lab import PORT, Frame

IN_FLIGHT_TTL_65 = with_checksum(GOLDEN_TTL_64[:8] + b"\x41" + GOLDEN_TTL_64[9:])
TO_NOBODY = with_checksum(
    GOLDEN_TTL_64[:16] + IPv4Address("100.96.9.9").packed + GOLDEN_TTL_64[20:]
)


def is_udp(frame: Frame, interface: str) -> bool:
    return frame.interface == interface and frame.packet[9:10] == b"\x11"


def check_outer(outer: bytes, inner: bytes) -> None:
    """DF, TTL 64, TOS 0, port to port, a right UDP checksum, and nothing but the packet."""
    tos, length, fragment, ttl = struct.unpack("!xBHxxHBx10x", outer[:20])
    assert (tos, length, fragment, ttl) == (0, 28 + len(inner), 0x4000, 64)
    assert outer[12:20] == bytes([10, 168, 0, 2, 10, 168, 0, 3])
    source, destination, udp_length, checksum = struct.unpack("!HHHH", outer[20:28])
    assert (source, destination, udp_length) == (PORT, PORT, 8 + len(inner))
    assert checksum != 0
    pseudo = outer[12:20] + struct.pack("!HH", 17, udp_length)
    assert ones_complement(pseudo + outer[20:]) == 0
    assert outer[28:] == inner


@pytest.mark.parametrize("rung", RUNGS)
def test_golden_vectors_outbound(rung: str) -> None:
    # Without offloads of the underlay the checksum on the wire is the one that arrives.
    with (
        wire("--dataplane", rung, setting="plain") as w,
        w.capture((w.one, "flannel0"), (w.two, "eth0")) as capture,
    ):
        inject(w.one.node, [GOLDEN_TTL_64])
        assert w.peers[2].receive() == [(GOLDEN_TTL_63, ("10.168.0.2", PORT))]
        frames = capture.wait(lambda frames: any(is_udp(f, "eth0") for f in frames))
        (outer,) = [frame.packet for frame in frames if is_udp(frame, "eth0")]
        check_outer(outer, GOLDEN_TTL_63)
        # From the container the kernel's forwarding takes one first: 65 -> 64 at the TUN.
        send_raw(w.one.container, IN_FLIGHT_TTL_65)
        assert w.peers[2].payloads(1) == [GOLDEN_TTL_63]
        meter = Meter(w.one.daemon)
        inject(w.one.node, [TO_NOBODY])
        change = meter.after(outbound=1)
        assert change.outbound["icmp_sent_net_unreachable"] == change.outbound["drop_no_route"] == 1
        until(lambda: written(capture), "the error")
        assert written(capture) == [GOLDEN_NO_ROUTE]
        assert w.peers[2].waiting() == []


@pytest.mark.parametrize("rung", RUNGS)
def test_golden_vectors_inbound(rung: str) -> None:
    """Node 2 gets what node 1 sent; the TTL becomes smaller a second time."""
    with (
        wire("--dataplane", rung, daemons=[2]) as w,
        w.capture((w.two, "flannel0"), (w.two, "docker0")) as capture,
    ):
        # What follows the IP packet in the datagram is trimmed.
        w.peers[1].send(w.two.public_ip, GOLDEN_TTL_63, GOLDEN_TTL_63 + b"trailing")
        frames = capture.wait(lambda frames: sum(is_udp(f, "docker0") for f in frames) >= 2)
        assert written(capture) == [hop(GOLDEN_TTL_63)] * 2
        assert hop(GOLDEN_TTL_63)[8:12] == bytes.fromhex("3e11b107")
        at_bridge = [frame.packet for frame in frames if is_udp(frame, "docker0")]
        assert at_bridge == [hop(hop(GOLDEN_TTL_63))] * 2


def test_the_socket_is_bound_to_the_external_address() -> None:
    with wire() as w:
        w.one.node.ip("address", "add", "10.168.0.200/24", "dev", "eth0")
        meter = Meter(w.one.daemon)
        # The kernel refuses what goes to another address of the host; the second one counts.
        w.peers[2].send("10.168.0.200", hop(GOLDEN_TTL_64))
        w.peers[2].send(w.one.public_ip, b"short")
        assert meter.after(inbound=1).inbound["packets_read"] == 1
