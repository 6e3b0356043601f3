"""What the vxlan tests share: leases of nodes that are not there, tables, a watch on them.

Leases of 500 peers are halves (/25) of the scenario's subnets: the /16 has only 255 of those.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from tests.netns import leases
from tests.netns.waiting import until
from tunneld.lab import NETWORK, Cluster, ClusterNode
from tunneld.link.rtnl_neigh import read
from tunneld.link.rtnl_watch import messages
from tunneld.observe.status import fetch

DEVICE = "flannel.1"
PORT = 8472
UNREACHABLE = [
    "unreachable 100.96.0.0/16 metric 4294967295",
    "unreachable 100.96.1.0/24 metric 4294967295",
]
_GROUPS = 0x1 | 0x4 | 0x10 | 0x40  # links, neighbours and FDB, IPv4 addresses, IPv4 routes
_SO_RCVBUFFORCE = 33


def value(public_ip: object, mac: str, *, vni: int = 1, kind: str = "vxlan") -> str:
    """A lease as flannel writes it."""
    return (
        f'{{"PublicIP":"{public_ip}","PublicIPv6":null,"BackendType":"{kind}",'
        f'"BackendData":{{"VNI":{vni},"VtepMAC":"{mac}"}}}}'
    )


def put(cluster: Cluster, subnet: IPv4Network, text: str) -> Path:
    return leases.put(cluster, str(subnet).replace("/", "-"), text)


def peers(count: int) -> list[tuple[IPv4Network, IPv4Address, str]]:
    """Subnet, public IP and MAC of nodes that are not there."""
    found = []
    for number in range(count):
        subnet = IPv4Network((int(NETWORK.network_address) + (4 << 8) + (number << 7), 25))
        mac = f"be:51:5e:00:{number >> 8:02x}:{number & 255:02x}"
        found.append((subnet, IPv4Address("172.16.0.1") + number, mac))
    return found


def add_peers(cluster: Cluster, count: int) -> list[Path]:
    return [put(cluster, net, value(address, mac)) for net, address, mac in peers(count)]


def routes(host: ClusterNode) -> list[str]:
    lines = host.node.ip("route", "show", "proto", "84").splitlines()
    return sorted(" ".join(line.split()) for line in lines)


def neighbours(host: ClusterNode) -> list[str]:
    lines = host.node.ip("neigh", "show", "dev", DEVICE).splitlines()
    return sorted(" ".join(line.split()) for line in lines)


def fdb(host: ClusterNode) -> list[str]:
    text = host.node.run(["bridge", "fdb", "show", "dev", DEVICE]).stdout
    return sorted(" ".join(line.split()) for line in text.splitlines())


def tables(host: ClusterNode) -> tuple[list[str], list[str], list[str]]:
    return routes(host), neighbours(host), fdb(host)


def mac(host: ClusterNode) -> str:
    """The VtepMAC that a node announces."""
    name = str(host.subnet).replace("/", "-")
    path = Path(host.daemon.argv[1].removeprefix("file:")) / "subnets" / name
    found: str = json.loads(path.read_text())["BackendData"]["VtepMAC"]
    return found


def wanted(host: ClusterNode, others: list[ClusterNode]) -> tuple[list[str], list[str], list[str]]:
    """The tables of generation 2 towards these peers, as flannel has them."""
    bases = [(other, other.subnet.network_address) for other in others]
    own = host.subnet
    closed = [UNREACHABLE[0], f"unreachable {own} metric 4294967295"]
    return (
        sorted([*closed, *(f"{o.subnet} via {base} dev {DEVICE} onlink" for o, base in bases)]),
        sorted(f"{base} lladdr {mac(o)} PERMANENT" for o, base in bases),
        sorted(f"{mac(o)} dst {o.public_ip} self permanent" for o, _ in bases),
    )


def fetch_peers(host: ClusterNode) -> list[str]:
    return [peer["subnet"] for peer in fetch(host.daemon.run_dir)["peers"]]


def backend(host: ClusterNode) -> dict[str, Any]:
    found: dict[str, Any] = fetch(host.daemon.run_dir)["backend"]
    return found


def repairs(host: ClusterNode) -> dict[str, int]:
    found: dict[str, int] = backend(host)["repairs"]
    return found


def cleanup(host: ClusterNode) -> str:
    argv = [sys.executable, "-m", "tunneld", "cleanup", "--run-dir", str(host.daemon.run_dir)]
    return host.node.run(argv).stdout


@dataclass
class Changes:
    """What the kernel told of changes of routes, addresses, and of the VTEP and its tables."""

    told: list[tuple[int, bytes]] = field(default_factory=list)
    lost: bool = False


@contextlib.contextmanager
def watching(host: ClusterNode) -> Iterator[Changes]:
    """Collect changes while the block runs; other devices' links and neighbours are left out."""
    (link,) = json.loads(host.node.ip("-j", "link", "show", DEVICE))
    sock = host.node.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
    sock.bind((0, _GROUPS))
    changes = Changes()
    marked = threading.Event()
    marker = IPv4Address("198.51.100.99").packed

    def collect() -> None:
        while not marked.is_set():
            try:
                data = sock.recv(1 << 17)
            except OSError:
                changes.lost = True
                continue
            for kind, body in messages(data):
                if marker in body:
                    marked.set()
                elif _concerns(kind, body, link["ifindex"]):
                    changes.told.append((kind, body))

    reader = threading.Thread(target=collect)
    reader.start()
    try:
        yield changes
    finally:
        # Messages come in order: behind this one there is nothing of the block.
        host.node.ip("route", "add", "unreachable", "198.51.100.99/32")
        until(marked.is_set, "the watch to have read all")
        reader.join()
        host.node.ip("route", "del", "unreachable", "198.51.100.99/32")
        sock.close()


def _concerns(kind: int, body: bytes, ifindex: int) -> bool:
    if kind in {16, 17}:
        return bool(struct.unpack_from("=I", body, 4)[0] == ifindex)
    if kind in {28, 29}:
        entry = read(body)
        return entry is not None and entry.ifindex == ifindex
    return kind in {20, 21, 24, 25}
