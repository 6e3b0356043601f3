"""How fast the tables of kernel VXLAN follow the store: 500 peers come, stay over a restart, leave.

One real daemon in a namespace, a store on disk into which 500 leases are written at once. Times are
from the first write on, until the kernel shows all routes, neighbours and FDB entries.

    python -m bench tables --peers 500 --rounds 3 --json tables.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import struct
import time
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any

from bench import common
from bench.common import Spread
from tunneld.lab import NETWORK, Cluster, wait_for_ping
from tunneld.lease import LeaseAttrs, VtepData, format_attrs, format_key
from tunneld.link import rtnl_neigh, rtnl_routes
from tunneld.link.rtnl import PROTO_TUNNELD
from tunneld.link.rtnl_bulk import BulkSocket
from tunneld.link.rtnl_watch import messages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tunneld.lab import ClusterNode

DEVICE = "flannel.1"
BAR_MS = 2000.0
BAR_MISS_MS = 10.0
_MAX_PEERS = 500
_TIMEOUT_S = 60.0
_RTMGRP_NEIGH = 0x4


def lease(number: int) -> tuple[str, bytes]:
    """Return key and value of a node that is not there; halves, for the /16 has 255 subnets."""
    subnet = IPv4Network((int(NETWORK.network_address) + (4 << 8) + (number << 7), 25))
    mac = f"be:51:5e:00:{number >> 8:02x}:{number & 255:02x}"
    attrs = LeaseAttrs(
        IPv4Address("172.16.0.1") + number,
        backend_type="vxlan",
        backend_data=VtepData(mac, 1).document,
    )
    return format_key(subnet), format_attrs(attrs)


class Tables:
    """The three tables of one node, read by a socket of our own in its namespace.

    Attributes:
        index: number of the VTEP.
    """

    def __init__(self, host: ClusterNode) -> None:
        self._host = host
        (link,) = json.loads(host.node.ip("-j", "link", "show", DEVICE))
        self.index = int(link["ifindex"])

    def sizes(self) -> tuple[int, int, int]:
        """Return how many routes, neighbours and FDB entries there are."""

        async def count() -> tuple[int, int, int]:
            bulk = BulkSocket()
            try:
                return (
                    len(await rtnl_routes.routes(bulk, proto=PROTO_TUNNELD)),
                    len(await rtnl_neigh.neighbours(bulk, self.index, fdb=False)),
                    len(await rtnl_neigh.neighbours(bulk, self.index, fdb=True)),
                )
            finally:
                bulk.close()

        return self._host.node.call(lambda: asyncio.run(count()))

    def wait(self, sizes: tuple[int, int, int]) -> float:
        """Wait until the tables have these sizes; returns `time.monotonic()` of that moment."""
        deadline = time.monotonic() + _TIMEOUT_S
        while (now := self.sizes()) != sizes:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the tables have {now} entries instead of {sizes}")
        return time.monotonic()


def changes(sock: socket.socket, ifindex: int) -> int:
    """Read what the kernel told of a device's tables, and return how many changes that were."""
    count = 0
    while True:
        try:
            data = sock.recv(1 << 17, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return count
        for kind, body in messages(data):
            if kind in {rtnl_neigh.RTM_NEWNEIGH, rtnl_neigh.RTM_DELNEIGH}:
                count += struct.unpack_from("=i", body, 4)[0] == ifindex
            elif kind in {24, 25}:
                count += 1


def measure(peers: int, rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of each figure, round by round."""
    found: dict[str, list[float]] = {"come": [], "restart": [], "changes": [], "leave": []}
    with Cluster(nodes=1, backend={"Type": "vxlan"}) as cluster:
        (host,) = cluster.nodes
        cluster.start_daemons()
        tables = Tables(host)
        empty = tables.sizes()
        full = (empty[0] + peers, peers, peers)
        folder = cluster.store_dir / "subnets"
        for number in range(1, rounds + 1):
            began = time.monotonic()
            paths = _write(folder, peers)
            found["come"].append((tables.wait(full) - began) * 1e3)
            restart, changed = _restart(host, tables)
            found["restart"].append(restart)
            found["changes"].append(changed)
            began = time.monotonic()
            for path in paths:
                path.unlink()
            found["leave"].append((tables.wait(empty) - began) * 1e3)
            now = ", ".join(f"{name} {values[-1]:.0f}" for name, values in found.items())
            common.say(f"round {number}/{rounds}: {now}")
    return found


def _write(folder: Path, peers: int) -> list[Path]:
    paths = []
    for number in range(peers):
        key, text = lease(number)
        paths.append(folder / key)
        paths[-1].write_bytes(text)
    return paths


def _restart(host: ClusterNode, tables: Tables) -> tuple[float, int]:
    """Kill the daemon and start it; milliseconds until it is ready, changes in the kernel."""
    sock = host.node.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        sock.bind((0, _RTMGRP_NEIGH | 0x40))
        host.daemon.kill()
        began = time.monotonic()
        host.daemon.start()
        host.daemon.wait_ready()
        took = (time.monotonic() - began) * 1e3
        tables.sizes()
        return took, changes(sock, tables.index)


def misses(count: int) -> list[float]:
    """Return how long the daemon of generation 1 takes to answer, in milliseconds, per miss."""
    found: list[float] = []
    with Cluster(nodes=2, backend={"Type": "vxlan-miss"}) as cluster:
        cluster.start_daemons()
        one, two = cluster.nodes
        wait_for_ping(one.container, two.container.address)
        sock = one.node.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        with sock:
            sock.bind((0, _RTMGRP_NEIGH))
            sock.settimeout(5)
            # Addresses that nobody bears serve as well: the peer's subnet is what counts.
            addresses = [two.subnet[10 + number] for number in range(count)]
            found += [_miss(one, sock, address) for address in addresses]
    return found


def _miss(host: ClusterNode, sock: socket.socket, address: IPv4Address) -> float:
    with host.node.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        # From the packet on: what is read of the miss itself may come after its answer.
        began = time.monotonic()
        sender.sendto(b"x", (str(address), 9))
    while True:
        for event in rtnl_neigh.parse(sock.recv(1 << 17)):
            entry = event.entry
            if event.kind == "new" and entry and entry.dst == address and entry.mac:
                return (time.monotonic() - began) * 1e3


def table(found: dict[str, list[float]], answered: list[float], peers: int) -> str:
    """Render the figures as Markdown."""
    names = {
        "come": f"{peers} peers appear: tables complete, ms (bar 2000)",
        "restart": f"killed and started with {peers} known peers: ready, ms",
        "changes": "changes of entries and routes by that restart (bar 0)",
        "leave": f"{peers} peers leave: tables empty, ms (bar 2000)",
    }
    lines = ["| what | median (lowest-highest) |", "|---|---|"]
    lines += [f"| {names[name]} | {Spread.of(found[name]).text('.0f')} |" for name in names]
    lines.append(
        f"| generation 1: a miss is answered, ms of {len(answered)} (bar 10) |"
        f" {Spread.of(answered).text('.2f')} |"
    )
    return "\n".join([*lines, "", common.machine_line() + "."])


def passed(found: dict[str, list[float]], answered: list[float]) -> bool:
    """Tell whether every bar is met."""
    slowest = max(*found["come"], *found["leave"])
    quick = statistics.median(answered) < BAR_MISS_MS
    return slowest <= BAR_MS and not any(found["changes"]) and quick


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers", type=int, default=_MAX_PEERS, help="1 to 500 (default 500)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--misses", type=int, default=100, help="1 to 200 (default 100)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there too")
    args = parser.parse_args(arguments)
    if not 1 <= args.peers <= _MAX_PEERS or args.rounds < 1 or not 1 <= args.misses <= 200:
        parser.error("--peers must be 1 to 500, --rounds at least 1, --misses 1 to 200")
    common.warn_if_busy()
    found = measure(args.peers, args.rounds)
    answered = misses(args.misses)
    good = passed(found, answered)
    print(table(found, answered, args.peers))
    print("PASSED" if good else "FAILED")
    document: dict[str, Any] = {"machine": common.machine(), "ms": found, "miss_ms": answered}
    common.write_json(args.json, document)
    return 0 if good else 1
