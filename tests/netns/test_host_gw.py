"""host-gw between real hosts: the table, traffic over restarts, peers that are no neighbours."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from bench.common import require_udp_tools
from bench.stream import UdpStream
from tests.netns.leases import put
from tests.netns.waiting import until
from tunneld.lab import NETWORK, Cluster, ClusterNode, ping, wait_for_ping
from tunneld.lab.iperf import tcp
from tunneld.lab.process import run
from tunneld.observe.status import fetch

TYPE = "host-gw"
CONFIG = {"Network": str(NETWORK), "Backend": {"Type": TYPE}}
MANY = 500
UNREACHABLE = [
    "unreachable 100.96.0.0/16 metric 4294967295",
    "unreachable 100.96.1.0/24 metric 4294967295",
]


def reserve(cluster: Cluster, subnet: IPv4Network, public_ip: object, kind: str = TYPE) -> Path:
    value = f'{{"PublicIP":"{public_ip}","PublicIPv6":null,"BackendType":"{kind}"}}'
    return put(cluster, str(subnet).replace("/", "-"), value)


@contextlib.contextmanager
def cluster_of(nodes: int, *, shape: str = "switch", second_mtu: int = 1500) -> Iterator[Cluster]:
    with Cluster(nodes=nodes, shape=shape, second_mtu=second_mtu, config=CONFIG) as cluster:
        for host in cluster.nodes:
            reserve(cluster, host.subnet, host.public_ip)
        yield cluster


@pytest.fixture
def pair() -> Iterator[Cluster]:
    with cluster_of(2) as cluster:
        cluster.start_daemons()
        yield cluster


def routes(host: ClusterNode) -> list[str]:
    lines = host.node.ip("route", "show", "proto", "84").splitlines()
    return sorted(" ".join(line.split()) for line in lines)


def via(number: int) -> str:
    return f"100.96.{number}.0/24 via 10.168.0.{number + 1} dev eth0"


def document(host: ClusterNode) -> dict[str, Any]:
    return fetch(host.daemon.run_dir)


def repairs(host: ClusterNode) -> dict[str, int]:
    found: dict[str, int] = document(host)["backend"]["repairs"]
    return found


def skipped(host: ClusterNode) -> dict[str, str]:
    found: dict[str, str] = document(host)["backend"]["skipped"]
    return found


@contextlib.contextmanager
def monitor(host: ClusterNode, what: str = "route") -> Iterator[list[str]]:
    """Collect what `ip monitor` tells of changes while the block runs, ours and others'."""
    child = host.node.popen(["ip", "monitor", what])
    seen: list[str] = []
    marker = "198.51.100.0/24"

    def read() -> None:
        if child.stdout is not None:
            seen.extend(line.strip() for line in child.stdout)

    reader = threading.Thread(target=read)
    reader.start()

    def listening() -> bool:
        host.node.ip("route", "replace", "unreachable", marker)
        host.node.ip("route", "del", "unreachable", marker)
        return any(marker in line for line in seen)

    until(listening, "the monitor to listen")
    try:
        yield seen
        count = len(seen)
        until(lambda: listening() and len(seen) > count, "the monitor to have told all")
    finally:
        child.terminate()
        reader.join()
        seen[:] = [line for line in seen if marker not in line]


def test_three_nodes_reach_each_other() -> None:
    with cluster_of(3) as cluster:
        cluster.start_daemons()
        one, two, three = cluster.nodes
        wanted = sorted([via(2), via(3), *UNREACHABLE])
        until(lambda: routes(one) == wanted, "the peers")
        for source in cluster.nodes:
            for sink in cluster.nodes:
                if source is not sink:
                    wait_for_ping(source.container, sink.container.address)
        # The MTU is the underlay's, and a packet of that size goes through.
        full = ping(one.container, two.container.address, size=1500 - 28, dont_fragment=True)
        assert full is not None
        assert full.type == 0
        result = tcp(two.container, three.container, three.container.address, seconds=1)
        assert result.bytes > 1e6
        backend = document(one)["backend"]
        assert (backend["type"], backend["device"], backend["mtu"]) == (TYPE, "eth0", 1500)
        assert (backend["dataplane"], backend["threads"], backend["skipped"]) == ("kernel", 0, {})
        assert document(one)["state"] == "ready"
        assert one.daemon.environment()["FLANNEL_MTU"] == "1500"
        key = cluster.store_dir / "subnets" / "100.96.1.0-24"
        assert key.read_bytes() == (
            b'{"PublicIP":"10.168.0.2","PublicIPv6":null,"BackendType":"host-gw"}'
        )


def test_traffic_survives_kill_and_restart(pair: Cluster) -> None:
    one, two = pair.nodes
    wait_for_ping(one.container, two.container.address)
    require_udp_tools()
    with monitor(one) as changes, UdpStream(one.container, two.container) as stream:
        one.daemon.kill()
        one.daemon.start()
        one.daemon.wait_ready()
        assert one.daemon.stop() == 0
        one.daemon.start()
        one.daemon.wait_ready()
    result = stream.result
    assert result.sent > 1000
    assert (result.received, result.duplicates) == (result.sent, 0)
    assert changes == []


def test_many_peers_come_stay_over_a_restart_and_go(pair: Cluster) -> None:
    one = pair.nodes[0]
    before = routes(one)
    subnets = [NETWORK.network_address + (n << 8) for n in range(3, 3 + 250)]
    halves = [IPv4Network((int(base) + half, 25)) for base in subnets for half in (0, 128)]
    assert len(halves) == MANY
    for number, subnet in enumerate(halves):
        reserve(pair, subnet, f"10.168.0.{100 + number % 100}")
    until(lambda: len(routes(one)) == len(before) + MANY, "the routes", timeout=60)
    until(lambda: document(one)["state"] == "ready", "ready")
    with monitor(one) as changes:
        one.daemon.kill()
        one.daemon.start()
        one.daemon.wait_ready()
        assert len(document(one)["peers"]) == MANY + 1
        # A fault of ours as a mark: when it is repaired, all that came before was compared.
        one.node.ip("route", "del", str(halves[0]))
        until(lambda: repairs(one) == {"route": 1}, "the repair")
    assert [line for line in changes if str(halves[0]) not in line] == []
    for subnet in halves:
        (pair.store_dir / "subnets" / str(subnet).replace("/", "-")).unlink()
    until(lambda: routes(one) == before, "the routes to go", timeout=60)


FAULTS = {
    "one": ["route", "del", "100.96.2.0/24"],
    "all": ["route", "flush", "proto", "84"],
    "elsewhere": ["route", "replace", "100.96.2.0/24", "via", "10.168.0.77"],
    "down": ["link", "set", "eth0", "down"],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_lost_routes_come_back(pair: Cluster, fault: str) -> None:
    one, two = pair.nodes
    before = routes(one)
    one.node.ip(*FAULTS[fault])
    if fault == "down":
        until(lambda: document(one)["state"] == "degraded", "the daemon to see it")
        # No leak meanwhile, and one line instead of one for each peer.
        until(lambda: "interface is down" in one.daemon.log.read_text(), "the line")
        assert routes(one) == UNREACHABLE
        assert one.daemon.log.read_text().count("interface is down") == 1
        one.node.ip("link", "set", "eth0", "up")
    until(lambda: repairs(one).get("route"), "the repair")
    # A flush takes them one by one, and may be overtaken.
    until(lambda: routes(one) == before, "the routes")
    wait_for_ping(one.container, two.container.address)
    until(lambda: document(one)["state"] == "ready", "ready")
    assert "peer skipped" not in one.daemon.log.read_text()


def test_nothing_to_repair_means_nothing_repaired(pair: Cluster) -> None:
    one = pair.nodes[0]
    # Events of others wake the repair; the last of them is followed and tells that all were seen.
    for number in range(10):
        one.node.ip("link", "add", f"other{number}", "type", "bridge")
    one.node.ip("route", "del", "unreachable", str(NETWORK))
    until(lambda: repairs(one), "the repair")
    assert repairs(one) == {"unreachable_route": 1}


def test_routes_of_an_earlier_life_go_and_others_stay(pair: Cluster) -> None:
    one = pair.nodes[0]
    one.daemon.kill()
    stale = [
        "100.96.9.0/24 via 10.168.0.3 dev eth0 proto 84",
        "100.96.2.0/25 via 10.168.0.9 dev eth0 proto 84",
        "unreachable 100.96.8.0/24 proto 84 metric 4294967295",
    ]
    foreign = [
        "100.96.10.0/24 via 10.168.0.3 dev eth0 proto static",
        "172.20.0.0/24 via 10.168.0.3 dev eth0 proto 84",
    ]
    one.node.batch(f"route add {route}" for route in (*stale, *foreign))
    one.daemon.start()
    one.daemon.wait_ready()
    assert routes(one) == sorted([*UNREACHABLE, via(2), "172.20.0.0/24 via 10.168.0.3 dev eth0"])
    assert "100.96.10.0/24" in one.node.ip("route")


def test_routes_stay_after_sigterm_and_cleanup_removes_them(pair: Cluster) -> None:
    one, two = pair.nodes
    assert one.daemon.stop() == 0
    assert via(2) in routes(one)
    wait_for_ping(one.container, two.container.address)
    done = one.node.run(
        [sys.executable, "-m", "tunneld", "cleanup", "--run-dir", str(one.daemon.run_dir)]
    )
    assert "removed route 100.96.2.0/24" in done.stdout
    assert routes(one) == []


def test_peers_on_another_link_are_skipped_and_named() -> None:
    with cluster_of(3, shape="router") as cluster:
        cluster.start_daemons()
        one, two, three = cluster.nodes
        # Node 1 is alone on its link; 2 and 3 share one.
        until(lambda: len(skipped(one)) == 2, "the peers to be skipped")
        until(lambda: len(skipped(two)) == 1, "the peer to be skipped")
        assert "10.168.1.3 is not on the same link as eth0" in skipped(one)["100.96.2.0/24"]
        assert list(skipped(two)) == ["100.96.1.0/24"]
        assert routes(one) == UNREACHABLE
        wait_for_ping(two.container, three.container.address)
        until(lambda: one.daemon.log.read_text().count("peer skipped") == 2, "two lines")
        # Nobody sends overlay packets to the router.
        answer = ping(one.container, two.container.address)
        assert answer is not None
        assert answer.type == 3
        # The link reaches further now: no longer skipped.
        one.node.ip("route", "add", "10.168.1.3/32", "dev", "eth0")
        until(lambda: list(skipped(one)) == ["100.96.3.0/24"], "one to be taken")
        until(lambda: "100.96.2.0/24 via 10.168.1.3 dev eth0" in routes(one), "its route")
        text = run(
            [sys.executable, "-m", "tunneld", "status", "--run-dir", str(one.daemon.run_dir)]
        ).stdout
        assert "skipped  100.96.3.0/24: 10.168.1.4 is not on the same link as eth0" in text


def test_leases_of_other_types_are_ignored(pair: Cluster) -> None:
    one = pair.nodes[0]
    reserve(pair, IPv4Network("100.96.7.0/24"), "10.168.0.50", "vxlan")
    pair.reserve(IPv4Network("100.96.8.0/24"), "10.168.0.51")
    until(lambda: len(skipped(one)) == 2, "both to be skipped")
    assert "type vxlan" in skipped(one)["100.96.7.0/24"]
    assert "type udp" in skipped(one)["100.96.8.0/24"]
    until(lambda: routes(one) == sorted([via(2), *UNREACHABLE]), "the other routes alone")


def test_a_public_ip_that_the_interface_does_not_bear_is_refused() -> None:
    with cluster_of(1) as cluster:
        one = cluster.nodes[0]
        one.daemon.start(["--public-ip", "203.0.113.7"])
        until(lambda: not one.daemon.running, "the daemon to end")
        assert one.daemon.stop() == 1
        assert "203.0.113.7 is not among the addresses of eth0 (10.168.0.2)" in one.daemon.tail()
        assert routes(one) == []


def test_underlay_mtu_and_address_are_followed(pair: Cluster) -> None:
    one, two = pair.nodes
    one.node.ip("link", "set", "eth0", "mtu", "1400")
    until(lambda: one.daemon.environment()["FLANNEL_MTU"] == "1400", "subnet.env")
    one.node.batch(
        [
            "address add 10.168.0.22/24 dev eth0",
            "address del 10.168.0.2/24 dev eth0",
            "address replace 10.168.0.22/24 dev eth0",
        ]
    )
    until(lambda: "100.96.1.0/24 via 10.168.0.22 dev eth0" in routes(two), "the peer to follow")
    until(lambda: via(2) in routes(one), "our own route")
    wait_for_ping(one.container, two.container.address)
    value = json.loads((pair.store_dir / "subnets" / "100.96.1.0-24").read_text())
    assert (value["PublicIP"], value["BackendType"]) == ("10.168.0.22", TYPE)


def test_the_bridge_of_the_own_subnet_wins(pair: Cluster) -> None:
    one, two = pair.nodes
    assert "docker0" in one.node.ip("route", "get", "100.96.1.2")
    one.node.ip("link", "set", "docker0", "down")
    # Not back over the wire, where the peer would send it here again.
    answer = until(lambda: ping(two.container, IPv4Address("100.96.1.2")), "an answer")
    assert (answer.type, answer.source) == (3, one.public_ip)
