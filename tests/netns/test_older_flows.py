"""A container that had the tunnel's port before the daemon and its rules came."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest

from tests.netns.firewall import C2, NO_RULES, only
from tests.netns.test_masquerade import DOCKERS
from tests.netns.waiting import until
from tests.netns.wire import RawPeer
from tunneld.lab import PORT, Cluster, ping, wait_for_ping
from tunneld.link import conntrack
from tunneld.link.nft_socket import NETLINK_NETFILTER

if TYPE_CHECKING:
    from tunneld.lab import ClusterNode


def flows(host: ClusterNode) -> int:
    """Return how many masqueraded flows go to the tunnel's port."""

    def ask() -> int:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
            found = list(conntrack._dump(sock, PORT))
        return sum(conntrack._is_meant(flow, PORT, None, host.public_ip) for flow in found)

    return host.node.call(ask)


def take_the_port(host: ClusterNode, other: ClusterNode, container: RawPeer) -> None:
    """Have a container send to a peer's port, masqueraded as docker does it."""
    host.node.run(["nft", "-f", "-"], stdin=DOCKERS % "")
    container.send(other.public_ip, b"mine")
    until(lambda: flows(host) == 1, "the flow")


@pytest.mark.parametrize("tool", ["nft", "iptables"])
def test_the_tunnel_gets_its_port_back(cluster: Cluster, tool: str) -> None:
    one, two = cluster.nodes
    if tool == "iptables":
        only(two, "iptables-legacy", "iptables")
    one.daemon.start()
    one.daemon.wait_ready()
    with RawPeer(two.container, C2, PORT) as container:
        take_the_port(two, one, container)
        two.daemon.start()
        two.daemon.wait_ready()
        # The first ping goes from the other side: it would prolong the flow, not end it.
        wait_for_ping(one.container, two.container.address)
        assert flows(two) == 0
        assert "held the tunnel's port" in two.daemon.log.read_text()
        # And it does not come back by trying again.
        container.send(one.public_ip, b"mine again")
        wait_for_ping(one.container, two.container.address)
        assert flows(two) == 0


def test_without_rules_of_ours_the_container_keeps_it(cluster: Cluster) -> None:
    """The hole, as it is: what comes from the peer goes to the container."""
    one, two = cluster.nodes
    one.daemon.start()
    one.daemon.wait_ready()
    with RawPeer(two.container, C2, PORT) as container:
        take_the_port(two, one, container)
        two.daemon.start([NO_RULES])
        two.daemon.wait_ready()
        assert ping(one.container, two.container.address, timeout=1) is None
        until(container.waiting, "what was meant for the tunnel")
        assert flows(two) == 1


def test_other_flows_are_left_alone(cluster: Cluster) -> None:
    """Of other ports, and to others than peers."""
    one, two = cluster.nodes
    two.node.run(["nft", "-f", "-"], stdin=DOCKERS % "")

    with RawPeer(two.container, C2, PORT) as container:
        container.send(one.public_ip, b"x")
        container.send(IPv4Address("10.168.0.66"), b"x")
        until(lambda: flows(two) == 2, "two flows")

        def end(port: int, *destinations: str, own: str = "10.168.0.3") -> int:
            own_address = IPv4Address(own)
            peers = frozenset(map(IPv4Address, destinations))
            return two.node.call(
                lambda: conntrack.end_masqueraded(port, peers or None, own_address)
            )

        assert end(PORT + 1) == 0
        assert end(PORT, own=C2) == 0
        assert end(PORT, "10.168.0.67") == 0
        assert end(PORT, str(one.public_ip)) == 1
        assert flows(two) == 1
        assert end(PORT) == 1
        assert flows(two) == 0
