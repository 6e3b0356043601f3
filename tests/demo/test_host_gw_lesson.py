"""Lesson host-gw: what a run must show on any machine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.demo.running import document

# A run takes some 16 s.
pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return document("host-gw", "--seconds", "1")


def headers(figures: dict[str, Any], kind: str) -> list[tuple[str, int]]:
    return [(name, length) for name, length in figures["ways"][kind]["headers"]]


def test_no_tunnel_adds_nothing_and_each_tunnel_its_headers(figures: dict[str, Any]) -> None:
    assert headers(figures, "host-gw") == [
        ("Ethernet", 14),
        ("IPv4", 20),
        ("ICMP", 8),
        ("data", 56),
    ]
    assert [name for name, _ in headers(figures, "udp")][1:4] == ["outer IPv4", "UDP", "inner IPv4"]
    assert ("VXLAN", 8) in headers(figures, "vxlan")
    ways = figures["ways"]
    plain = ways["host-gw"]["frame"]
    assert {kind: way["frame"] - plain for kind, way in ways.items()} == {
        "host-gw": 0,
        "udp": 28,
        "vxlan": 50,
    }
    assert {kind: way["mtu"] for kind, way in ways.items()} == {
        "host-gw": 1500,
        "udp": 1472,
        "vxlan": 1450,
    }
    # A tunnel's packet has met the daemon too, which takes one.
    assert {kind: way["ttl"] for kind, way in ways.items()} == {
        "host-gw": 63,
        "udp": 62,
        "vxlan": 63,
    }
    assert all(way["gbps"] > 0 for way in ways.values())


def test_a_router_between_the_nodes_ends_it(figures: dict[str, Any]) -> None:
    router = figures["router"]
    assert "10.168.1.3 is not on the same link as eth0" in router["skipped"]["100.96.2.0/24"]
    assert router["refused"] == "Error: Nexthop has invalid gateway."
    assert router["onlink"]["answers"] == "100.96.1.1: Destination Host Unreachable"
    assert router["onlink"]["neighbour"] in {"FAILED", "INCOMPLETE"}
    assert router["through_router"] == {
        "container": "silence",
        "host": "10.168.0.1: Destination Net Unreachable",
        "no_route": 2,
    }


def test_a_router_that_was_told_carries_it_without_a_tunnel(figures: dict[str, Any]) -> None:
    taught = figures["router"]["taught"]
    assert taught["ttl"] == 61
    assert taught["frame"]["frame"] == figures["ways"]["host-gw"]["frame"]
