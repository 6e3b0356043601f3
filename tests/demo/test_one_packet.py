"""Lesson "one-packet": the stations, their TTLs and lengths, which hold on any machine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.demo.running import check_story, demo, document
from tests.netns.waiting import until
from tunneld.demo.lessons._stations import REQUEST, along
from tunneld.lab import Capture, Cluster, wait_for_ping

THERE = [
    ("container-1", "eth0", 64, 14, 84),
    ("node1", "veth2", 64, 14, 84),
    ("node1", "docker0", 64, 14, 84),
    ("node1", "flannel0", 63, 0, 84),
    ("node1", "eth0", 62, 14, 112),
    ("node2", "eth0", 62, 14, 112),
    ("node2", "flannel0", 61, 0, 84),
    ("node2", "docker0", 60, 14, 84),
    ("node2", "veth3", 60, 14, 84),
    ("container-2", "eth0", 60, 14, 84),
]


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return document("one-packet")


def told(trip: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    keys = ("node", "interface", "ttl", "link_bytes", "bytes")
    return [tuple(station[key] for key in keys) for station in trip]


def test_the_request_is_seen_at_ten_interfaces(figures: dict[str, Any]) -> None:
    assert told(figures["there"]) == THERE


def test_the_reply_mirrors_it(figures: dict[str, Any]) -> None:
    ttls = [station[2] for station in THERE]
    expected = [(*place[:2], ttl, *place[3:])
                for place, ttl in zip(THERE[::-1], ttls, strict=True)]  # fmt: skip
    assert told(figures["back"]) == expected


def test_each_daemon_has_moved_one_packet_in_each_direction(figures: dict[str, Any]) -> None:
    once = {"packets_read": 1, "packets_written": 1}
    ways = {"outbound": once, "inbound": once}
    assert figures["counters"] == {"node1": ways, "node2": ways}


def test_routing_changes_ttl_and_checksum_and_the_tunnel_adds_28_bytes(
    figures: dict[str, Any],
) -> None:
    assert figures["changed_by_routing"] == ["TTL", "header checksum"]
    outer = figures["outer"]
    assert outer["udp_checksum"] in {"right", "half done"}
    del outer["udp_checksum"]
    assert outer == {
        "ttl": 64,
        "dont_fragment": True,
        "ports": [8285, 8285],
        "added": 28,
        "header_checksum": "right",
    }


def test_its_text_fits_and_every_command_is_shown() -> None:
    done = demo("one-packet", "--solution")
    check_story(done)
    for command in (
        "container-1 $ ip route get 100.96.2.3",
        "container-1 $ ip neigh show 100.96.1.1",
        "node1 $ bridge fdb get ",
        "node1 $ tunneld status --run-dir ",
        "node2 $ ss -Hulnp 'sport = :8285'",
        "container-1 $ ping -c 1 100.96.2.3",
    ):
        assert command in done.out, command
    # The answer of the exercise is what really happens; see the next test.
    assert "drop_no_route" in done.out


def test_the_exercises_answer_is_true() -> None:
    with Cluster(nodes=2) as cluster:
        cluster.start_daemons()
        node1, node2 = cluster.nodes
        wait_for_ping(node1.container, node2.container.address)
        names = ("veth2", "docker0", "flannel0", "eth0")
        reached = [("node1", name) for name in names[:3]]
        with Capture([(node1.node, name) for name in names]) as capture:
            ping = ["ping", "-c", "1", "-W", "5", "100.96.9.9"]
            done = node1.container.run(ping, check=False)
            seen = capture.wait(lambda frames: along(frames, reached, REQUEST) is not None)
        assert "From 100.96.1.0 icmp_seq=1 Destination Net Unreachable" in done.stdout
        assert along(seen, [("node1", "eth0")], REQUEST) is None

        def counted() -> bool:
            return bool(node1.daemon.status()["counters"]["outbound"]["drop_no_route"] == 1)

        until(counted, "the daemon counts what it has refused")
