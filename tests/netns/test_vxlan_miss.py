"""The vxlan-miss backend (generation 1): the daemon answers the kernel's misses, or nobody does."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from tests.netns import vxlan_bed as bed
from tests.netns.waiting import until
from tunneld.lab import NETWORK, Capture, Cluster, ClusterNode, ping, wait_for_ping
from tunneld.lab.iperf import tcp
from tunneld.link import sysctl

TYPE = "vxlan-miss"
NETWORK_ROUTE = f"100.96.0.0/16 dev {bed.DEVICE}"


@pytest.fixture
def pair() -> Iterator[Cluster]:
    with Cluster(nodes=2, backend={"Type": TYPE}) as cluster:
        start(cluster)
        yield cluster


def start(cluster: Cluster) -> None:
    cluster.start_daemons()
    for host in cluster.nodes:
        until(lambda: not bed.backend(host)["skipped"], "the peers' leases")  # noqa: B023


def set_neighbour_sysctl(host: ClusterNode, name: str, value: str) -> None:
    """A sysctl of the device, whose name has a dot."""
    host.node.call(lambda: sysctl.ensure(f"net/ipv4/neigh/{bed.DEVICE}/{name}", value))


def test_three_nodes_reach_each_other_and_tables_grow_with_conversations() -> None:
    with Cluster(nodes=3, backend={"Type": TYPE}) as cluster:
        start(cluster)
        one, two, three = cluster.nodes
        assert bed.tables(one) == (sorted([NETWORK_ROUTE, *bed.UNREACHABLE]), [], [])
        second = two.add_container(9)
        for source in (one.container, two.container, three.container):
            for sink in (one.container, two.container, three.container):
                if source is not sink:
                    # Not even the packet that asks is lost.
                    answer = ping(source, sink.address)
                    assert answer is not None
                    assert answer.ttl == 62
        wait_for_ping(one.container, second.address)
        wanted = {
            "100.96.2.3": bed.mac(two),
            "100.96.2.9": bed.mac(two),
            "100.96.3.4": bed.mac(three),
        }
        seen = dict(re.findall(r"(\S+) lladdr (\S+)", "\n".join(bed.neighbours(one))))
        assert seen == wanted
        assert bed.fdb(one) == sorted(
            f"{bed.mac(host)} dst {host.public_ip} self" for host in (two, three)
        )
        assert tcp(two.container, three.container, three.container.address, seconds=1).bytes > 1e6
        text = one.node.ip("-d", "link", "show", bed.DEVICE)
        assert "proxy" in text
        assert "l2miss" in text
        assert "l3miss" not in text
        status = bed.backend(one)
        assert (status["type"], status["device"], status["mtu"]) == (TYPE, bed.DEVICE, 1450)
        key = cluster.store_dir / "subnets" / "100.96.1.0-24"
        assert key.read_text() == bed.value(one.public_ip, bed.mac(one), kind=TYPE)


def test_entries_expire_and_are_asked_for_again(pair: Cluster) -> None:
    one, two = pair.nodes
    set_neighbour_sysctl(one, "base_reachable_time_ms", "200")
    set_neighbour_sysctl(one, "delay_first_probe_time", "0")
    wait_for_ping(one.container, two.container.address)
    until(lambda: "STALE" in " ".join(bed.neighbours(one)), "the entry to age")

    def confirmed() -> bool:
        # It ages again within a fraction of a second, and nobody asks without traffic.
        wait_for_ping(one.container, two.container.address)
        return "REACHABLE" in " ".join(bed.neighbours(one))

    until(confirmed, "it to be confirmed by the daemon")


def test_a_mac_that_is_forgotten_is_asked_for(pair: Cluster) -> None:
    one, two = pair.nodes
    set_neighbour_sysctl(one, "base_reachable_time_ms", "3600000")
    wait_for_ping(one.container, two.container.address)
    right = bed.fdb(one)
    one.node.run(["bridge", "fdb", "del", bed.mac(two), "dev", bed.DEVICE, "self"])
    # The packet that asks is lost: the kernel keeps none for this table (l2miss).
    wait_for_ping(one.container, two.container.address)
    assert bed.fdb(one) == right
    # An answer with the neighbour would have come too late for this.
    one.node.ip("neigh", "replace", "100.96.2.3", "lladdr", bed.mac(two), "dev", bed.DEVICE)
    one.node.run(["bridge", "fdb", "del", bed.mac(two), "dev", bed.DEVICE, "self"])
    wait_for_ping(one.container, two.container.address)
    assert bed.fdb(one) == right


def test_without_the_daemon_new_destinations_fail_and_old_ones_with_time(pair: Cluster) -> None:
    one, two = pair.nodes
    second = two.add_container(9)
    set_neighbour_sysctl(two, "base_reachable_time_ms", "3600000")
    wait_for_ping(one.container, two.container.address)
    wait_for_ping(two.container, one.container.address)
    one.daemon.kill()
    # What is known goes on.
    wait_for_ping(one.container, two.container.address)
    with Capture([(one.node, "eth0")], to=NETWORK) as leaks:
        answer = until(
            lambda: ping(one.container, second.address, timeout=10), "the kernel to give up"
        )
        assert answer.type == 3
        assert leaks.frames == []
    # And what is known must be confirmed, by nobody.
    set_neighbour_sysctl(one, "base_reachable_time_ms", "200")
    set_neighbour_sysctl(one, "delay_first_probe_time", "0")
    set_neighbour_sysctl(one, "retrans_time_ms", "20")
    one.node.ip("neigh", "change", "100.96.2.3", "dev", bed.DEVICE, "nud", "stale")

    def refused() -> bool:
        answer = ping(one.container, two.container.address, timeout=0.2)
        return answer is not None and answer.type == 3

    until(refused, "the old destination to fail")
    one.daemon.start()
    one.daemon.wait_ready()
    wait_for_ping(one.container, two.container.address)
    wait_for_ping(one.container, second.address)


def test_a_miss_that_waits_is_answered_when_the_peer_comes(pair: Cluster) -> None:
    one, two = pair.nodes
    path = pair.store_dir / "subnets" / "100.96.2.0-24"
    text = path.read_text()
    two.daemon.kill()
    path.unlink()
    until(lambda: not bed.fetch_peers(one), "the peer to go")
    set_neighbour_sysctl(one, "retrans_time_ms", "60000")
    one.node.run(["ping", "-c1", "-W0.1", str(two.container.address)], check=False)
    until(lambda: "INCOMPLETE" in " ".join(bed.neighbours(one)), "the kernel to ask")
    bed.put(pair, two.subnet, text)
    until(lambda: "REACHABLE" in " ".join(bed.neighbours(one)), "the late answer")


def test_an_unassigned_address_is_not_answered_and_nothing_leaves_in_clear(pair: Cluster) -> None:
    one = pair.nodes[0]
    set_neighbour_sysctl(one, "retrans_time_ms", "20")
    with Capture([(one.node, "eth0")], to=NETWORK) as leaks, Capture([(one.node, "eth0")]) as all_:
        answer = until(lambda: ping(one.container, "100.96.9.9"), "the kernel to give up")
        assert answer.type == 3
        assert leaks.frames == []
        # The ARP requests behind the misses stay inside the device.
        assert not [f for f in all_.frames if f.packet[22:24] == bed.PORT.to_bytes(2, "big")]
    assert "lladdr" not in " ".join(bed.neighbours(one))


def test_ipv6_misses_and_other_devices_are_ignored(pair: Cluster) -> None:
    one, two = pair.nodes
    one.node.call(lambda: sysctl.ensure(f"net/ipv6/conf/{bed.DEVICE}/disable_ipv6", "0"))
    one.node.call(lambda: sysctl.ensure(f"net/ipv6/neigh/{bed.DEVICE}/app_solicit", "3"))
    one.node.ip("-6", "address", "add", "fd00::1/64", "dev", bed.DEVICE, "nodad")
    with one.node.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("fd00::2", 9))
    wait_for_ping(one.container, two.container.address)
    assert "fd00::2 lladdr" not in one.node.ip("-6", "neigh", "show", "dev", bed.DEVICE)
    assert "neighbour watch" not in one.daemon.log.read_text()


def test_a_peer_that_leaves_takes_its_entries_along(pair: Cluster) -> None:
    one, two = pair.nodes
    wait_for_ping(one.container, two.container.address)
    two.daemon.kill()
    (pair.store_dir / "subnets" / "100.96.2.0-24").unlink()
    until(lambda: bed.fdb(one) == [], "the FDB entry to go")
    until(lambda: "lladdr" not in " ".join(bed.neighbours(one)), "the neighbour to go")


def test_a_restart_keeps_what_is_right_and_answers_what_was_asked_meanwhile(pair: Cluster) -> None:
    one, two = pair.nodes
    wait_for_ping(one.container, two.container.address)
    device = one.node.ip("-o", "link", "show", bed.DEVICE).split(":")[0]
    one.daemon.kill()
    one.daemon.start()
    one.daemon.wait_ready()
    assert one.node.ip("-o", "link", "show", bed.DEVICE).split(":")[0] == device
    assert f"{bed.mac(two)} dst {two.public_ip} self" in bed.fdb(one)
    wait_for_ping(one.container, two.container.address)


def test_device_and_route_are_repaired(pair: Cluster) -> None:
    one, two = pair.nodes
    one.node.ip("link", "del", bed.DEVICE)
    until(lambda: bed.repairs(one).get("device") == 1, "the device")
    one.node.ip("route", "del", "100.96.0.0/16", "dev", bed.DEVICE)
    until(lambda: bed.repairs(one).get("route") == 1, "the route")
    wait_for_ping(one.container, two.container.address)
    one.node.call(lambda: sysctl.ensure(f"net/ipv4/neigh/{bed.DEVICE}/app_solicit", "0"))
    one.node.ip("link", "set", bed.DEVICE, "down")
    until(lambda: bed.repairs(one).get("sysctl") == 1, "the sysctl")
    wait_for_ping(one.container, two.container.address)


def test_it_refuses_to_start_beside_flannel_nodes() -> None:
    with Cluster(nodes=1, backend={"Type": TYPE}) as cluster:
        one = cluster.nodes[0]
        bed.put(cluster, IPv4Network("100.96.5.0/24"), bed.value("10.168.0.9", "be:51:5e:8d:fd:f9"))
        # Our own of an earlier config is no obstacle.
        bed.put(cluster, one.subnet, bed.value(one.public_ip, "be:51:5e:8d:fd:f8"))
        one.daemon.start()
        until(lambda: not one.daemon.running, "the daemon to end")
        assert one.daemon.stop() == 2
        said = one.daemon.tail(1)
        for words in ("Backend.Type", "100.96.5.0-24 of 10.168.0.9", 'use "Type": "vxlan"'):
            assert words in said
        assert bed.DEVICE not in one.node.ip("link")
        (cluster.store_dir / "subnets" / "100.96.5.0-24").unlink()
        one.daemon.start()
        one.daemon.wait_ready()
        assert bed.mac(one) == "be:51:5e:8d:fd:f8"
