"""Lesson "vxlan": the frame, the MTU, and what breaks, which hold on any machine."""

from __future__ import annotations

from typing import Any

import pytest

from tests.demo.running import check_story, demo, document
from tunneld.lab import Cluster, wait_for_ping


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    return document("vxlan")


def test_one_entry_of_each_table_for_one_peer(figures: dict[str, Any]) -> None:
    assert figures["tables"] == {"route": 1, "neighbour": 1, "fdb": 1}


def test_two_routers_take_two_from_the_ttl_and_the_wire_has_50_bytes_more(
    figures: dict[str, Any],
) -> None:
    seen = [(at["node"], at["interface"], at["ttl"], at["bytes"]) for at in figures["stations"]]
    assert seen == [
        ("container-1", "eth0", 64, 84),
        ("node1", "docker0", 64, 84),
        ("node1", "flannel.1", 63, 84),
        ("node1", "eth0", 63, 134),
        ("node2", "eth0", 63, 134),
        ("node2", "flannel.1", 63, 84),
        ("node2", "docker0", 62, 84),
        ("container-2", "eth0", 62, 84),
    ]


def test_the_frame(figures: dict[str, Any]) -> None:
    assert figures["frame"] == {
        "layers": [
            "outer Ethernet", "outer IPv4", "UDP", "VXLAN", "inner Ethernet", "inner IPv4", "ICMP",
            "data",
        ],
        "added": 50,
        "vni": 1,
        "destination_port": 8472,
        "outer_ttl": 64,
        "inner_ttl": 63,
        "inner_destination": "5e:f8:4f:00:e3:37",
    }  # fmt: skip


def test_a_flow_has_one_source_port_and_flows_differ(figures: dict[str, Any]) -> None:
    found = figures["source_ports"]
    assert len(found["flows"]) == 5
    low, high = found["range"]
    for ports in found["flows"].values():
        assert len(ports) == 1
        assert low <= ports[0] <= high
    # Two of five may meet by chance.
    assert len({ports[0] for ports in found["flows"].values()}) >= 3


def test_1450_bytes_pass_and_one_more_is_refused(figures: dict[str, Any]) -> None:
    assert figures["largest"] == {
        "passes": 1450,
        "on_the_wire": 1500,
        "refused": 1451,
        "told_mtu": 1450,
        "refused_on_the_wire": 0,
        "told_by_node_mtu": 1450,
    }


def test_an_unassigned_address_leaks_without_the_unreachable_route(figures: dict[str, Any]) -> None:
    assert figures["unassigned"] == {
        "without": {"in_clear": 1, "answer": "none"},
        "with": {"in_clear": 0, "answer": "host unreachable"},
    }


def test_each_missing_entry_looks_different(figures: dict[str, Any]) -> None:
    found = figures["taken_away"]
    neighbour = found["neighbour"]
    # So many questions of the kernel (mcast_solicit), all dropped.
    assert neighbour["arp"] == neighbour["frames"] == neighbour["dropped"] == 3
    assert neighbour["answer"] == "host unreachable"
    assert found["fdb"] == {
        "answer": "none", "arp": 0, "frames": 1, "vxlan": 0, "dropped": 1, "restored": True,
    }  # fmt: skip
    assert found["route"] == {
        "answer": "host unreachable",
        "arp": 0, "frames": 0, "vxlan": 0, "dropped": 0, "restored": True,
    }  # fmt: skip
    assert neighbour["vxlan"] == 0
    assert neighbour["restored"]


@pytest.mark.soak
def test_its_text_fits_and_has_the_commands() -> None:
    done = demo("vxlan", "--solution")
    check_story(done)
    for command in (
        "node1 $ ip route replace 100.96.2.0/24 via 100.96.2.0 dev flannel.1 onlink",
        "node1 $ ip neigh show dev flannel.1",
        "node1 $ bridge fdb show dev flannel.1",
        "container-1 $ ping -c 1 -M do -s 1422 100.96.2.3",
        "node1 $ bridge fdb del 5e:f8:4f:00:e3:37 dev flannel.1 dst 10.168.0.3 self",
    ):
        assert command in done.out, command


def test_the_exercises_answer_is_true() -> None:
    nodes = 4
    with Cluster(nodes=nodes) as cluster:
        cluster.setup_vxlan()
        one, *others = cluster.nodes
        extra = others[0].add_container(99)
        for container in (extra, *(other.container for other in others)):
            wait_for_ping(one.container, container.address)
        for command in ("ip route show", "ip neigh show", "bridge fdb show"):
            lines = one.node.run([*command.split(), "dev", "flannel.1"]).stdout.splitlines()
            assert len(lines) == nodes - 1, lines
