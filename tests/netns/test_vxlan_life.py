"""The vxlan backend over its life: restarts under traffic, 500 peers, what others break."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from bench.common import require_udp_tools
from bench.stream import UdpStream
from tests.netns import vxlan_bed as bed
from tests.netns.waiting import until
from tunneld.lab import NETWORK, Capture, Cluster, ping, wait_for_ping
from tunneld.observe.status import fetch

MANY = 500


@pytest.fixture
def pair() -> Iterator[Cluster]:
    with Cluster(nodes=2, backend={"Type": "vxlan"}) as cluster:
        cluster.start_daemons()
        one, two = cluster.nodes
        until(lambda: bed.tables(one) == bed.wanted(one, [two]), "the peer")
        until(lambda: bed.tables(two) == bed.wanted(two, [one]), "the peer")
        yield cluster


def test_kill_term_and_restart_under_traffic_lose_nothing(pair: Cluster) -> None:
    one, two = pair.nodes
    wait_for_ping(one.container, two.container.address)
    require_udp_tools()
    with bed.watching(one) as changes, UdpStream(one.container, two.container) as stream:
        one.daemon.kill()
        one.daemon.start()
        one.daemon.wait_ready()
        assert one.daemon.stop() == 0
        one.daemon.start()
        one.daemon.wait_ready()
    result = stream.result
    assert result.sent > 1000
    assert (result.received, result.duplicates) == (result.sent, 0)
    assert (changes.told, changes.lost) == ([], False)


def test_500_peers_come_stay_over_a_restart_and_go(pair: Cluster) -> None:
    one, two = pair.nodes
    before = bed.tables(one)
    paths = bed.add_peers(pair, MANY)
    sizes = [len(table) + MANY for table in before]
    until(lambda: [len(table) for table in bed.tables(one)] == sizes, "the tables", timeout=60)
    full = bed.tables(one)
    subnet, address, mac = bed.peers(MANY)[-1]
    assert f"{subnet} via {subnet.network_address} dev {bed.DEVICE} onlink" in full[0]
    assert f"{subnet.network_address} lladdr {mac} PERMANENT" in full[1]
    assert f"{mac} dst {address} self permanent" in full[2]
    until(lambda: fetch(one.daemon.run_dir)["state"] == "ready", "ready")
    with bed.watching(one) as changes:
        one.daemon.kill()
        one.daemon.start()
        one.daemon.wait_ready()
        assert len(fetch(one.daemon.run_dir)["peers"]) == MANY + 1
    assert (changes.told, changes.lost) == ([], False)
    # A fault as a mark: with its repair all else has been compared.
    with bed.watching(one) as changes:
        one.node.ip("neigh", "del", str(subnet.network_address), "dev", bed.DEVICE)
        until(lambda: bed.repairs(one) == {"neighbour": 1}, "the repair")
    assert len(changes.told) <= 3  # failed, deleted, new
    assert bed.tables(one) == full
    for path in paths:
        path.unlink()
    until(lambda: bed.tables(one) == before, "the tables to be empty", timeout=60)
    wait_for_ping(one.container, two.container.address)


def test_what_an_earlier_life_left_goes_and_the_rest_is_not_touched(pair: Cluster) -> None:
    one, two = pair.nodes
    right = bed.tables(one)
    one.daemon.kill()
    dev, mac = f"dev {bed.DEVICE}", "be:51:5e:00:00:09"
    one.node.batch(
        [
            f"neigh add 100.96.9.0 lladdr {mac} {dev} nud permanent",
            f"route add 100.96.9.0/24 via 100.96.9.0 {dev} onlink proto 84",
            # A flanneld's: another protocol number, and one in the place of a right one.
            f"route add 100.96.10.0/24 via 100.96.10.0 {dev} onlink",
            "route add unreachable 100.96.8.0/24 metric 4294967295 proto 84",
            f"address add 100.96.77.0/32 {dev}",
            "route add 172.20.0.0/24 via 10.168.0.3 proto 84",
        ]
    )
    one.node.run(["bridge", "fdb", "add", mac, *dev.split(), "dst", "10.168.0.9", "self"])
    for address in ("10.168.0.8", "10.168.0.9"):
        default = ["00:00:00:00:00:00", *dev.split(), "dst", address, "self", "permanent"]
        one.node.run(["bridge", "fdb", "append", *default])
    one.daemon.start()
    one.daemon.wait_ready()
    outside = "172.20.0.0/24 via 10.168.0.3 dev eth0"
    assert bed.tables(one) == (sorted([*right[0], outside]), *right[1:])
    assert "100.96.10.0/24" not in one.node.ip("route")
    assert "100.96.77.0" not in one.node.ip("address")
    assert "100.96.1.0/32" in one.node.ip("address")
    wait_for_ping(one.container, two.container.address)


FAULTS = {
    "neighbour": ("ip neigh del 100.96.2.0 dev flannel.1", "neighbour"),
    "other neighbour": (
        "ip neigh replace 100.96.2.0 lladdr be:00:00:00:00:09 dev flannel.1 nud permanent",
        "neighbour",
    ),
    "neighbours": ("ip neigh flush dev flannel.1 nud permanent", "neighbour"),
    "fdb": ("bridge fdb del MAC dev flannel.1 self", "fdb"),
    "other fdb": (
        "bridge fdb replace MAC dev flannel.1 dst 10.168.0.9 self",
        "fdb",
    ),
    "route": ("ip route del 100.96.2.0/24", "route"),
    "other route": (
        "ip route replace 100.96.2.0/24 via 10.168.0.3 dev eth0",
        "route",
    ),
    "unreachable": ("ip route del unreachable 100.96.0.0/16", "unreachable_route"),
    "all routes": ("ip route flush proto 84", "route"),
    "down": ("ip link set flannel.1 down", "link"),
    "mtu": ("ip link set flannel.1 mtu 1300", "link"),
    "mac": ("ip link set flannel.1 address be:00:00:00:00:01", "link"),
    "address": ("ip address flush dev flannel.1", "address"),
    "deleted": ("ip link del flannel.1", "device"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_others_break_is_repaired_and_counted(pair: Cluster, fault: str) -> None:
    one, two = pair.nodes
    command, kind = FAULTS[fault]
    right = bed.tables(one)
    with Capture([(one.node, "eth0")], to=NETWORK) as leaks:
        one.node.run(command.replace("MAC", bed.mac(two)).split())
        until(lambda: kind in bed.repairs(one), f"the repair of {kind}")
        until(lambda: bed.tables(one) == right, "the tables as before")
        wait_for_ping(one.container, two.container.address)
        assert leaks.frames == []
    # A flush takes entries one by one, and may be overtaken.
    assert bed.repairs(one)[kind] == 1 or "flush" in command
    (link,) = json.loads(one.node.ip("-j", "address", "show", bed.DEVICE))
    assert link["mtu"] == 1450
    assert link["address"] == bed.mac(one)
    assert "100.96.1.0" in {address["local"] for address in link["addr_info"]}
    until(lambda: fetch(one.daemon.run_dir)["state"] == "ready", "ready")


def test_somebody_elses_permanent_entries_go(pair: Cluster) -> None:
    one = pair.nodes[0]
    right = bed.tables(one)
    bad = ["lladdr", "be:00:00:00:00:09", "dev", bed.DEVICE, "nud", "permanent"]
    one.node.ip("neigh", "add", "100.96.9.0", *bad)
    until(lambda: bed.tables(one) == right, "it to go")
    assert bed.repairs(one) == {}


def test_a_device_of_another_kind_of_vxlan_is_made_anew_and_peers_replayed(pair: Cluster) -> None:
    one, two = pair.nodes
    right, mac = bed.tables(one), bed.mac(one)
    one.daemon.kill()
    one.node.batch(
        [
            f"link del {bed.DEVICE}",
            f"link add {bed.DEVICE} type vxlan id 1 dev eth0 dstport 4789 proxy l2miss",
        ]
    )
    one.daemon.start()
    one.daemon.wait_ready()
    until(lambda: bed.tables(one) == right, "the tables")
    assert bed.mac(one) == mac
    assert "made anew" in one.daemon.log.read_text()
    wait_for_ping(one.container, two.container.address)


def test_deleted_under_traffic_again_and_again(pair: Cluster) -> None:
    one, two = pair.nodes
    right = bed.tables(one)
    with Capture([(one.node, "eth0")], to=NETWORK) as leaks:
        for count in range(1, 11):
            one.node.ip("link", "del", bed.DEVICE)
            until(lambda: bed.repairs(one).get("device") == count, "the repair")  # noqa: B023
            wait_for_ping(one.container, two.container.address)
        assert leaks.frames == []
    until(lambda: bed.tables(one) == right, "the tables as before")
    # The entries went with the device: nobody removed them one by one.
    assert bed.repairs(one) == {"device": 10}


def test_the_underlay_is_followed(pair: Cluster) -> None:
    one, two = pair.nodes
    mac = bed.mac(one)
    one.node.ip("link", "set", "eth0", "mtu", "1400")
    until(lambda: one.daemon.environment()["FLANNEL_MTU"] == "1350", "subnet.env")
    assert "mtu 1350" in one.node.ip("link", "show", bed.DEVICE)
    one.node.batch(
        [
            "address add 10.168.0.22/24 dev eth0",
            "address del 10.168.0.2/24 dev eth0",
            "address replace 10.168.0.22/24 dev eth0",
        ]
    )
    until(lambda: f"{mac} dst 10.168.0.22 self permanent" in bed.fdb(two), "the peer to follow")
    assert "local 10.168.0.22" in one.node.ip("-d", "link", "show", bed.DEVICE)
    assert bed.mac(one) == mac
    wait_for_ping(one.container, two.container.address)
    assert bed.repairs(one)["underlay_address"] == 1


def test_sigterm_leaves_traffic_and_cleanup_removes_all(pair: Cluster) -> None:
    one, two = pair.nodes
    right = bed.tables(one)
    assert one.daemon.stop() == 0
    assert bed.tables(one) == right
    wait_for_ping(one.container, two.container.address)
    said = bed.cleanup(one)
    assert f"removed device {bed.DEVICE}" in said
    assert bed.routes(one) == []
    assert bed.DEVICE not in one.node.ip("link")
    assert bed.cleanup(one) == "nothing of tunneld is here\n"


def test_udp_takes_over_in_a_living_namespace(pair: Cluster) -> None:
    """The routes of vxlan, which survive it, are longer than the one of flannel0."""
    one, two = pair.nodes
    for host in pair.nodes:
        assert host.daemon.stop() == 0
    for lease in (pair.store_dir / "subnets").iterdir():
        lease.unlink()
    pair.write_config({"Network": str(NETWORK), "Backend": {"Type": "udp"}})
    for host in pair.nodes:
        pair.reserve(host.subnet, host.public_ip)
    pair.start_daemons()
    wait_for_ping(one.container, two.container.address)
    left = [line for line in bed.routes(one) if not line.startswith("unreachable")]
    assert left == [f"{NETWORK} dev flannel0"]
    # The answer may reach the container before its packet is counted.
    until(lambda: fetch(one.daemon.run_dir)["peers"][0]["rx_packets"], "the packet to be counted")


def test_cleanup_finds_a_device_that_has_no_route() -> None:
    with Cluster(nodes=1, backend={"Type": "vxlan"}) as cluster:
        one = cluster.nodes[0]
        cluster.start_daemons()
        one.daemon.kill()
        assert f"removed device {bed.DEVICE}" in bed.cleanup(one)


def test_a_peer_that_the_kernel_refuses_costs_no_other_one(pair: Cluster) -> None:
    one, two = pair.nodes
    subnet = IPv4Network("100.96.50.0/24")
    right = bed.tables(one)
    # The kernel takes no address of its own for a next hop, and tells so in the last of the steps.
    one.node.ip("address", "add", "100.96.50.0/32", "dev", "lo")
    bed.put(pair, subnet, bed.value("10.168.0.60", "be:51:5e:00:00:07"))
    until(lambda: str(subnet) in bed.backend(one)["skipped"], "it to be told")
    assert "the kernel refuses its" in bed.backend(one)["skipped"][str(subnet)]
    until(lambda: bed.tables(one) == right, "the tables as before")
    wait_for_ping(one.container, two.container.address)
    answer = ping(one.container, "100.96.50.9")
    assert answer is not None
    assert answer.type == 3
    one.node.ip("address", "del", "100.96.50.0/32", "dev", "lo")
    until(lambda: str(subnet) in " ".join(bed.routes(one)), "it to be tried again")
    until(lambda: bed.backend(one)["skipped"] == {}, "it to be told")
    assert bed.repairs(one) == {}
