"""Stations of a packet: their order is that of the way, whatever the stamps say."""

from __future__ import annotations

import base64
from ipaddress import IPv4Address

import pytest

from tunneld.demo.lessons._fault_trust import echo_request
from tunneld.demo.lessons._stations import REPLY, REQUEST, along, find
from tunneld.lab import Frame

PACKET = base64.b64decode(echo_request(IPv4Address("100.96.1.2"), IPv4Address("100.96.2.3")))
WAY = ("docker0", "flannel0", "eth0", "flannel1", "docker1")
STAMPS = {
    "in order": (1.0, 2.0, 3.0, 4.0, 5.0),
    "all equal": (1.0, 1.0, 1.0, 1.0, 1.0),
    "the first one late": (9.0, 2.0, 3.0, 4.0, 5.0),
}


def frame(interface: str, ttl: int, time: float) -> Frame:
    packet = PACKET[:8] + bytes([ttl]) + PACKET[9:]
    return Frame("node1", interface, outgoing=False, time=time, frame=packet, packet=packet)


@pytest.mark.parametrize("stamps", STAMPS.values(), ids=STAMPS)
def test_in_order_of_the_way(stamps: tuple[float, ...]) -> None:
    frames = [frame(*seen) for seen in zip(WAY, range(64, 59, -1), stamps, strict=True)]
    assert [station.interface for station in find(frames[::-1], REQUEST)] == list(WAY)
    assert find(frames, REPLY) == []


def test_the_first_sighting_at_an_interface_is_the_one_with_the_higher_ttl() -> None:
    frames = [frame("eth0", 63, 1.0), frame("eth0", 64, 1.5), frame("eth1", 63, 0.5)]
    found = along(frames, [("node1", "eth0"), ("node1", "eth1")], REQUEST)
    assert found is not None
    assert [station.inner.ttl for station in found] == [64, 63]


def test_among_equal_ttls_time_decides() -> None:
    frames = [frame("eth1", 62, 2.0), frame("eth0", 62, 1.0)]
    assert [station.interface for station in find(frames, REQUEST)] == ["eth0", "eth1"]
