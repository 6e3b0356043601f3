"""Kernel VXLAN between the nodes of a cluster, set up by hand as flannel's vxlan backend does it.

The yardstick of the benchmarks, and the second half of the demo: the same trip without leaving the
kernel. Per peer three entries: a neighbour (inner next hop -> VTEP's MAC), an FDB entry (MAC ->
underlay address) and a route.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunneld.lab.cluster import ClusterNode

DEVICE = "flannel.1"
VNI = 1
PORT = 8472
OVERHEAD = 50


@dataclass(frozen=True, slots=True)
class Command:
    """One command that was run, and where; `str()` is what a reader would type there."""

    host: ClusterNode
    argv: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.argv)


def vtep_mac(host: ClusterNode) -> str:
    """Return the MAC of a node's VTEP; fixed, so that output can be compared between runs."""
    return f"5e:f8:4f:00:e3:{0x35 + host.number:02x}"


def device_commands(host: ClusterNode, mtu: int) -> list[str]:
    """Return the commands that make the VTEP of one node."""
    base = host.subnet.network_address
    link = f"{DEVICE} address {vtep_mac(host)} mtu {mtu - OVERHEAD} type vxlan"
    return [
        f"ip link add {link} id {VNI} dev eth0 local {host.public_ip} dstport {PORT} nolearning",
        f"ip address add {base}/32 dev {DEVICE}",
        f"ip link set {DEVICE} up",
    ]


def peer_commands(peer: ClusterNode) -> list[str]:
    """Return the commands that teach a node one peer, in flannel's order."""
    base = peer.subnet.network_address
    mac = vtep_mac(peer)
    return [
        f"ip neigh replace {base} lladdr {mac} dev {DEVICE} nud permanent",
        f"bridge fdb replace {mac} dev {DEVICE} dst {peer.public_ip} self permanent",
        f"ip route replace {peer.subnet} via {base} dev {DEVICE} onlink",
    ]


def setup(hosts: Sequence[ClusterNode], *, mtu: int) -> list[Command]:
    """Connect all nodes and return what was run, node by node.

    Args:
        hosts: the nodes.
        mtu: of the underlay; the VTEP's is 50 less.
    """
    done = []
    for host in hosts:
        lines = device_commands(host, mtu)
        for peer in hosts:
            if peer is not host:
                lines += peer_commands(peer)
        for line in lines:
            command = Command(host, tuple(line.split()))
            host.node.run(command.argv)
            done.append(command)
    return done


def teardown(hosts: Sequence[ClusterNode]) -> None:
    """Delete the VTEPs; neighbours, FDB entries and routes go with them."""
    for host in hosts:
        host.node.run(["ip", "link", "del", DEVICE], check=False)
