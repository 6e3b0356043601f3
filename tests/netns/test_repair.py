"""Self-repair: what others do to our device, routes and underlay is noticed, repaired, counted.

The deadlines here are generous (a busy test machine); the figures come from `bench repair`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.waiting import until
from tests.netns.wire import Meter, at_rest
from tunneld.lab import NETWORK, Capture, Cluster, ping, wait_for_ping
from tunneld.observe.status import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunneld.lab import ClusterNode

ICMP_UNREACHABLE = 3
FRAGMENTATION_NEEDED = 4


def backend(host: ClusterNode) -> dict[str, Any]:
    document: dict[str, Any] = fetch(host.daemon.run_dir)["backend"]
    return document


def repairs(host: ClusterNode) -> dict[str, int]:
    counted: dict[str, int] = backend(host)["repairs"]
    return counted


def counters(host: ClusterNode, direction: str) -> dict[str, int]:
    found: dict[str, int] = fetch(host.daemon.run_dir)["counters"][direction]
    return found


@contextlib.contextmanager
def no_leak(cluster: Cluster) -> Iterator[None]:
    """Fail when a packet for the Network is seen on an eth0 outside the tunnel."""
    taps = [(host.node, "eth0") for host in cluster.nodes]
    with Capture(taps, to=NETWORK) as capture:
        yield
        assert capture.frames == []
        assert capture.lost() == 0


@contextlib.contextmanager
def traffic(host: ClusterNode, destination: IPv4Address) -> Iterator[None]:
    """Keep pinging from the host's container, 200 times a second."""
    child = host.container.popen(["ping", "-q", "-i", "0.005", str(destination)])
    try:
        yield
    finally:
        child.terminate()
        child.communicate(timeout=30)


@pytest.mark.parametrize("rung", ["offload", "mmsg", "python"])
def test_device_deleted_20_times_under_traffic(cluster: Cluster, rung: str) -> None:
    cluster.start_daemons(["--dataplane", rung])
    one, two = cluster.nodes
    wait_for_ping(one.container, two.container.address)
    with no_leak(cluster), traffic(one, two.container.address):
        for count in range(1, 21):
            one.node.ip("link", "del", "flannel0")
            until(lambda count=count: repairs(one).get("device") == count, "the repair")  # type: ignore[misc]
            wait_for_ping(one.container, two.container.address)
    assert backend(one)["device"] == "flannel0"
    assert backend(one)["dataplane"] == rung
    assert "dataplane" not in repairs(one)
    # The counters are one life's, not the last dataplane's.
    assert counters(one, "outbound")["packets_read"] >= 20

    def agreed() -> bool:
        now = fetch(one.daemon.run_dir)
        sent: int = now["counters"]["outbound"]["packets_written"]
        return bool(now["peers"][0]["tx_packets"] == sent >= 20)

    # The last pings may still be on their way.
    until(agreed, "all packets to be counted as that peer's")


def test_conservation_over_repairs(running_cluster: Cluster) -> None:
    one, two = running_cluster.nodes
    with traffic(one, two.container.address):
        for count in range(1, 6):
            one.node.ip("link", "del", "flannel0")
            until(lambda count=count: repairs(one).get("device") == count, "the repair")  # type: ignore[misc]
    assert at_rest(one.daemon)["outbound"]["packets_read"] > 0


FAULTS = {
    "down": (["link", "set", "flannel0", "down"], "link"),
    "address": (["address", "flush", "dev", "flannel0"], "address"),
    "route": (["route", "del", "100.96.0.0/16", "dev", "flannel0"], "route"),
    "mtu": (["link", "set", "flannel0", "mtu", "1300"], "link"),
    "unreachable": (["route", "del", "unreachable", "100.96.0.0/16"], "unreachable_route"),
    "own unreachable": (["route", "del", "unreachable", "100.96.1.0/24"], "unreachable_route"),
    "all routes": (["route", "flush", "proto", "84"], "unreachable_route"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_repaired_and_counted(running_cluster: Cluster, fault: str) -> None:
    one, two = running_cluster.nodes
    command, kind = FAULTS[fault]
    wait_for_ping(one.container, two.container.address)
    before = one.node.ip("route"), one.node.ip("address", "show", "flannel0")
    one.node.ip(*command)
    until(lambda: kind in repairs(one), f"the repair of {kind}")
    until(
        lambda: (one.node.ip("route"), one.node.ip("address", "show", "flannel0")) == before,
        "the state before",
    )
    wait_for_ping(one.container, two.container.address)
    # A flush takes routes one by one, and may be overtaken.
    assert repairs(one)[kind] == 1 or "flush" in command


def test_down_and_up_at_once(running_cluster: Cluster) -> None:
    one, two = running_cluster.nodes
    with no_leak(running_cluster), traffic(one, two.container.address):
        for _ in range(10):
            before = repairs(one)
            one.node.batch(["link set flannel0 down", "link set flannel0 up"])
            until(lambda before=before: repairs(one) != before, "a repair")  # type: ignore[misc]
            wait_for_ping(one.container, two.container.address)
    # The route does not come back by itself; the link does, unless it was seen in between.
    assert "route" in repairs(one)
    assert set(repairs(one)) <= {"route", "link"}


def test_nothing_to_repair_means_nothing_repaired(running_cluster: Cluster) -> None:
    one = running_cluster.nodes[0]
    # Events of others wake the repair; the last of them is followed and tells that all were seen.
    for number in range(30):
        one.node.ip("link", "add", f"other{number}", "type", "bridge")
    one.node.ip("link", "set", "flannel0", "mtu", "1300")
    until(lambda: repairs(one), "the repair")
    assert repairs(one) == {"link": 1}


def test_what_the_kernel_drops_before_us_is_counted(running_cluster: Cluster) -> None:
    one, two = running_cluster.nodes
    flood = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for _ in range(8000): s.sendto(b'x', ('{two.container.address}', 9))"
    )

    def dropped() -> int:
        found: int = fetch(one.daemon.run_dir)["counters"]["kernel"]["tun_queue_dropped"]
        return found

    assert dropped() == 0
    os.kill(one.daemon.pid, signal.SIGSTOP)
    try:
        one.node.run([sys.executable, "-c", flood])
    finally:
        os.kill(one.daemon.pid, signal.SIGCONT)
    # The queue holds 5000.
    before = until(dropped, "drops")
    assert before >= 2900
    one.node.ip("link", "del", "flannel0")
    until(lambda: repairs(one).get("device"), "the repair")
    assert dropped() == before


def test_killed_under_traffic_leaks_nothing(running_cluster: Cluster) -> None:
    one, two = running_cluster.nodes
    wait_for_ping(one.container, two.container.address)
    with no_leak(running_cluster), traffic(one, two.container.address):
        one.daemon.kill()
        until(lambda: "flannel0" not in one.node.ip("-brief", "link"), "the device to go")
        one.daemon.start()
        one.daemon.wait_ready()
        wait_for_ping(one.container, two.container.address)


def test_underlay_mtu_is_followed(running_cluster: Cluster) -> None:
    one, two = running_cluster.nodes
    one.node.ip("link", "set", "eth0", "mtu", "1400")
    until(lambda: one.daemon.environment()["FLANNEL_MTU"] == "1372", "subnet.env")
    assert backend(one)["mtu"] == 1372
    assert "mtu 1372" in one.node.ip("link", "show", "flannel0")
    assert repairs(one) == {"underlay_mtu": 1}
    # Bigger than the tunnel now takes: the container is told (by the kernel or by us).
    answer = until(
        lambda: ping(one.container, two.container.address, size=1400, dont_fragment=True),
        "an answer",
    )
    assert (answer.type, answer.code, answer.mtu) == (ICMP_UNREACHABLE, FRAGMENTATION_NEEDED, 1372)
    one.node.ip("link", "set", "eth0", "mtu", "1500")
    until(lambda: one.daemon.environment()["FLANNEL_MTU"] == "1472", "subnet.env again")


def test_underlay_address_is_followed(running_cluster: Cluster) -> None:
    one, two = running_cluster.nodes
    one.node.batch(
        [
            "address add 10.168.0.22/24 dev eth0",
            "address del 10.168.0.2/24 dev eth0",
            "address replace 10.168.0.22/24 dev eth0",
        ]
    )
    lease = until(
        lambda: (
            found
            if (found := fetch(one.daemon.run_dir)["lease"])["public_ip"] == "10.168.0.22"
            else None
        ),
        "the lease to follow",
    )
    assert lease["subnet"] == "100.96.1.0/24"
    until(
        lambda: fetch(two.daemon.run_dir)["peers"][0]["public_ip"] == "10.168.0.22",
        "the peer to learn it",
    )
    wait_for_ping(one.container, two.container.address)
    wait_for_ping(two.container, one.container.address)
    assert repairs(one)["underlay_address"] == 1
    own = ["nft", "list", "set", "ip", "tunneld", "own"]
    until(lambda: "{ 10.168.0.22 }" in one.node.run(own).stdout, "the guard to know it")
    assert "firewall_rules" not in repairs(one)
    until(lambda: fetch(one.daemon.run_dir)["state"] == "ready", "ready again")


def test_underlay_address_flushed_and_back(running_cluster: Cluster) -> None:
    one, two = running_cluster.nodes
    with no_leak(running_cluster):
        one.node.ip("address", "flush", "dev", "eth0")
        one.node.ip("address", "add", "10.168.0.2/24", "dev", "eth0")
        wait_for_ping(one.container, two.container.address)
    assert one.daemon.running


def test_own_addresses_are_followed(running_cluster: Cluster) -> None:
    one, two = running_cluster.nodes
    one.node.ip("address", "add", "10.99.0.1/32", "dev", "lo")
    command = ["ping", "-c1", "-W1", "-I", "10.99.0.1", str(two.container.address)]
    one.node.run(command, check=False)
    assert counters(two, "inbound")["drop_own_source"] == 0
    two.node.ip("address", "add", "10.99.0.1/32", "dev", "lo")

    def refused() -> int:
        one.node.run(["ping", "-c1", "-W0.1", *command[3:]], check=False)
        return counters(two, "inbound")["drop_own_source"]

    until(refused, "the address to be refused as a source")


def test_bridge_down_neither_bounces_nor_redirects(running_cluster: Cluster) -> None:
    one, two = running_cluster.nodes
    wait_for_ping(two.container, one.container.address)
    one.node.ip("link", "set", "docker0", "down")
    meter = Meter(one.daemon)
    answer = until(lambda: ping(two.container, one.container.address), "an answer")
    assert answer.type == ICMP_UNREACHABLE
    change = meter.after(outbound=1, inbound=1)
    # What comes back is the kernel's ICMP errors, never the packets themselves.
    assert 1 <= change.outbound["packets_read"] <= change.inbound["packets_read"]
    frames = counters(one, "outbound")
    assert frames["drop_own_subnet"] == 0
    assert answer.source == IPv4Address("100.96.1.0")


def test_path_mtu_behind_a_router_is_learnt_and_told() -> None:
    with Cluster(shape="router", second_mtu=1400) as cluster:
        cluster.start_daemons()
        one, two = cluster.nodes
        wait_for_ping(one.container, two.container.address)

        def told() -> bool:
            # The first ones reach node2, whose docker0 is narrow too; they teach node1's kernel,
            # and from then on node1's end of the tunnel tells.
            answer = ping(
                one.container, two.container.address, size=1440, dont_fragment=True, timeout=0.5
            )
            return (
                answer
                == replace(answer, source=one.subnet.network_address, type=3, code=4, mtu=1372)
                if answer
                else False
            )

        until(told, "Fragmentation Needed with 1372 from node1")
        until(lambda: counters(one, "outbound")["drop_too_big"], "it to be counted")
        answer = ping(one.container, two.container.address, size=1300, dont_fragment=True)
        assert answer is not None
        assert answer.type == 0
