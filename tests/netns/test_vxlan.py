"""The vxlan backend between real hosts: tables as flannel has them, wire, leases, MAC.

container-1 - docker0 - [flannel.1] node1 eth0 ---- switch ---- eth0 node2, node3
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.dataplane.packets import read_pcap
from tests.netns import vxlan_bed as bed
from tests.netns.waiting import until
from tunneld.backend.vxlan_config import derive_mac
from tunneld.lab import NETWORK, Capture, Cluster, ping, wait_for_ping
from tunneld.lab.iperf import tcp
from tunneld.lab.process import run
from tunneld.observe.status import fetch

FLANNEL = Path(__file__).parent.parent / "data" / "flannel-vxlan-underlay.pcap"


@pytest.fixture
def trio() -> Iterator[Cluster]:
    with Cluster(nodes=3, backend={"Type": "vxlan"}) as cluster:
        cluster.start_daemons()
        for host in cluster.nodes:
            others = [other for other in cluster.nodes if other is not host]
            until(lambda: bed.tables(host) == bed.wanted(host, others), "the peers")  # noqa: B023
        yield cluster


def test_three_nodes_reach_each_other_with_flannels_tables(trio: Cluster) -> None:
    for host in trio.nodes:
        others = [other for other in trio.nodes if other is not host]
        assert bed.tables(host) == bed.wanted(host, others)
        for other in others:
            assert wait_for_ping(host.container, other.container.address).ttl == 62
    one, two, three = trio.nodes
    full = ping(one.container, two.container.address, size=1450 - 28, dont_fragment=True)
    assert full is not None
    assert full.type == 0
    assert tcp(two.container, three.container, three.container.address, seconds=1).bytes > 1e6


def test_device_status_and_lease(trio: Cluster) -> None:
    one = trio.nodes[0]
    (link,) = json.loads(one.node.ip("-j", "-d", "address", "show", bed.DEVICE))
    data = link["linkinfo"]["info_data"]
    kept = {name: data[name] for name in ("id", "link", "local", "port", "learning")}
    assert kept == {
        "id": 1,
        "link": "eth0",
        "local": "10.168.0.2",
        "port": bed.PORT,
        "learning": False,
    }
    assert link["mtu"] == 1450
    addresses = [(a["local"], a["prefixlen"]) for a in link["addr_info"] if a["family"] == "inet"]
    assert addresses == [("100.96.1.0", 32)]
    assert one.daemon.environment()["FLANNEL_MTU"] == "1450"
    document = fetch(one.daemon.run_dir)
    assert document["state"] == "ready"
    shown = {name: document["backend"][name] for name in ("type", "device", "mtu", "dataplane")}
    assert shown == {"type": "vxlan", "device": bed.DEVICE, "mtu": 1450, "dataplane": "kernel"}
    argv = [sys.executable, "-m", "tunneld", "status", "--run-dir", str(one.daemon.run_dir)]
    assert "backend  vxlan on flannel.1, mtu 1450, dataplane kernel" in run(argv).stdout
    expected = bed.value("10.168.0.2", link["address"])
    assert (trio.store_dir / "subnets" / "100.96.1.0-24").read_text() == expected


def shape(packet: bytes) -> dict[str, object]:
    """What all VXLAN packets of one sender have in common; `packet` begins at the outer IPv4."""
    udp, vxlan, inner = packet[20:28], packet[28:36], packet[36:]
    return {
        "version, header length, TOS": packet[0:2].hex(),
        "DF, fragment": packet[6:8].hex(),
        "TTL": packet[8],
        "port": int.from_bytes(udp[2:4], "big"),
        "UDP length": int.from_bytes(udp[4:6], "big") - len(packet),
        "UDP checksum": udp[6:8] != b"\0\0",
        "flags": vxlan[0:4].hex(),
        "VNI, reserved": vxlan[4:8].hex(),
        "EtherType": inner[12:14].hex(),
        "local MACs": (inner[0] & 3, inner[6] & 3),
        "inner TTL": inner[14 + 8],
        "inner length": int.from_bytes(inner[16:18], "big") - len(inner),
    }


def echo_requests(packets: list[bytes]) -> list[bytes]:
    """The VXLAN packets that carry an echo request as a container sends it."""
    tunnelled = [
        p for p in packets if p[9:10] == b"\x11" and p[22:24] == bed.PORT.to_bytes(2, "big")
    ]
    return [p for p in tunnelled if p[50 + 8] == 63 and p[50 + 9] == 1 and p[70] == 8]


def test_packets_on_the_wire_are_flannels(trio: Cluster) -> None:
    one, two, _ = trio.nodes
    with Capture([(two.node, "eth0")]) as capture:
        wait_for_ping(one.container, two.container.address)
        frames = capture.wait(lambda frames: bool(echo_requests([f.packet for f in frames])))
        ours = echo_requests([frame.packet for frame in frames])[0]
    assert {str(shape(flannels)) for flannels in echo_requests(read_pcap(FLANNEL))} == {
        str(shape(ours))
    }
    assert (ours[12:16], ours[16:20]) == (one.public_ip.packed, two.public_ip.packed)
    assert (ours[36:42].hex(":"), ours[42:48].hex(":")) == (bed.mac(two), bed.mac(one))


def test_an_unassigned_address_is_unreachable_and_nothing_leaves_in_clear(trio: Cluster) -> None:
    one, two, _ = trio.nodes
    with Capture([(one.node, "eth0")], to=NETWORK) as leaks:
        answer = ping(one.container, "100.96.9.9")
        assert answer is not None
        assert answer.type == 3
        assert ping(one.node, "100.96.9.9", timeout=1.0) is None
        # Nor while the device is away, or for good when the daemon is.
        one.daemon.kill()
        one.node.ip("link", "del", bed.DEVICE)
        answer = ping(one.container, two.container.address)
        assert answer is not None
        assert answer.type == 3
        assert leaks.frames == []


def test_leases_that_are_none_of_ours_are_skipped_and_named(trio: Cluster) -> None:
    one = trio.nodes[0]
    before = bed.tables(one)
    mac = "be:51:5e:00:00:01"
    bad = {
        "100.96.10.0/24": ('{"PublicIP":"10.168.0.30","PublicIPv6":null}', "of type udp"),
        "100.96.11.0/24": (bed.value("10.168.0.31", mac, kind="host-gw"), "of type host-gw"),
        "100.96.12.0/24": (bed.value("10.168.0.32", mac, vni=2), "its VNI is 2, ours 1"),
        "100.96.13.0/24": (bed.value("10.168.0.33", "nonsense"), "no MAC address"),
        "100.96.14.0/24": (bed.value("10.168.0.34", "01:00:5e:00:00:01"), "one station"),
        "100.96.15.0/24": (bed.value("10.168.0.35", bed.mac(one)), "is our own"),
        "100.96.16.0/24": (bed.value("10.168.0.36", bed.mac(trio.nodes[1])), "100.96.2.0/24 too"),
    }
    for subnet, (text, _) in bad.items():
        bed.put(trio, IPv4Network(subnet), text)
    until(lambda: len(bed.backend(one)["skipped"]) == len(bad), "all to be skipped")
    for subnet, (_, reason) in bad.items():
        assert reason in bed.backend(one)["skipped"][subnet]
    assert bed.tables(one) == before
    # An old writer left the VNI out; several subnets behind one VTEP are fine.
    text = f'{{"PublicIP":"10.168.0.37","BackendType":"vxlan","BackendData":{{"VtepMAC":"{mac}"}}}}'
    for subnet in ("100.96.20.0/24", "100.96.21.0/24"):
        bed.put(trio, IPv4Network(subnet), text)
    until(lambda: f"{mac} dst 10.168.0.37 self permanent" in bed.fdb(one), "the FDB entry")
    until(lambda: "100.96.20.0" in " ".join(bed.neighbours(one)), "the neighbour")
    path = bed.put(trio, IPv4Network("100.96.20.0/24"), text)
    path.unlink()
    until(lambda: "100.96.20.0" not in " ".join(bed.neighbours(one)), "the one to go")
    assert f"{mac} dst 10.168.0.37 self permanent" in bed.fdb(one)
    until(lambda: f"100.96.21.0 lladdr {mac} PERMANENT" in bed.neighbours(one), "the other one")


def test_a_peer_that_changes_is_followed(trio: Cluster) -> None:
    one = trio.nodes[0]
    subnet, mac = IPv4Network("100.96.30.0/24"), "be:51:5e:00:00:01"
    bed.put(trio, subnet, bed.value("10.168.0.40", mac))
    until(lambda: f"{mac} dst 10.168.0.40 self permanent" in bed.fdb(one), "the peer")
    bed.put(trio, subnet, bed.value("10.168.0.41", mac))
    until(lambda: f"{mac} dst 10.168.0.41 self permanent" in bed.fdb(one), "its new address")
    until(lambda: "10.168.0.40" not in " ".join(bed.fdb(one)), "the old address to go")
    bed.put(trio, subnet, bed.value("10.168.0.41", "be:51:5e:00:00:02"))
    until(lambda: mac not in " ".join(bed.fdb(one)), "the old MAC to go")
    new = "100.96.30.0 lladdr be:51:5e:00:00:02 PERMANENT"
    until(lambda: new in bed.neighbours(one), "the new MAC")
    assert bed.repairs(one) == {}


def test_the_mac_is_the_lease_s_then_the_device_s_then_derived() -> None:
    def started(cluster: Cluster) -> str:
        one = cluster.nodes[0]
        one.daemon.start()
        one.daemon.wait_ready()
        found = one.node.ip("-j", "link", "show", bed.DEVICE)
        (link,) = json.loads(found)
        assert bed.mac(one) == link["address"]
        one.daemon.stop()
        return str(link["address"])

    with Cluster(nodes=1, backend={"Type": "vxlan"}) as cluster:
        one = cluster.nodes[0]
        derived = derive_mac(one.public_ip, 1)
        assert started(cluster) == derived
        # A flanneld had the node before: its random MAC is what the peers know.
        announced, device = "be:51:5e:8d:fd:f9", "ae:00:00:00:00:01"
        one.node.ip("link", "set", bed.DEVICE, "address", device)
        bed.put(cluster, one.subnet, bed.value(one.public_ip, announced))
        assert started(cluster) == announced
        one.node.ip("link", "set", bed.DEVICE, "address", device)
        cluster.reserve(one.subnet, one.public_ip)
        assert started(cluster) == device
        # Deleted and the lease gone: derived again, and the same.
        one.node.ip("link", "del", bed.DEVICE)
        cluster.reserve(one.subnet, one.public_ip)
        assert started(cluster) == derived


def test_direct_routing_takes_no_tunnel_on_the_same_link() -> None:
    backend = {"Type": "vxlan", "DirectRouting": True}
    with Cluster(nodes=2, backend=backend) as cluster:
        cluster.start_daemons()
        one, two = cluster.nodes
        # One peer is a neighbour, the other one behind the router.
        far = IPv4Network("100.96.40.0/24")
        bed.put(cluster, far, bed.value("192.0.2.40", "be:51:5e:00:00:01"))
        direct = f"{two.subnet} via {two.public_ip} dev eth0"
        tunnel = f"{far} via 100.96.40.0 dev {bed.DEVICE} onlink"
        wanted = sorted([*bed.UNREACHABLE, direct, tunnel])
        neighbours = ["100.96.40.0 lladdr be:51:5e:00:00:01 PERMANENT"]
        fdb = ["be:51:5e:00:00:01 dst 192.0.2.40 self permanent"]
        until(lambda: bed.tables(one) == (wanted, neighbours, fdb), "both")
        with Capture([(two.node, "eth0")], to=NETWORK) as capture:
            until(lambda: f"{one.subnet} via" in " ".join(bed.routes(two)), "the way back")
            wait_for_ping(one.container, two.container.address)
            capture.wait(bool)
        # The link ends there now: the tunnel takes over, and back.
        one.node.ip("route", "add", str(two.public_ip), "via", "10.168.0.1")
        until(lambda: f"{two.subnet} via 100.96.2.0" in " ".join(bed.routes(one)), "the tunnel")
        entry = f"{bed.mac(two)} dst {two.public_ip} self permanent"
        until(lambda: entry in bed.fdb(one), "the tunnel's end")
        one.node.ip("route", "del", str(two.public_ip))
        until(lambda: bed.tables(one) == (wanted, neighbours, fdb), "the direct route")


def test_options_of_the_network_config() -> None:
    backend = {"type": "vxlan", "vni": 77, "Port": 4789, "MTU": 1400, "learning": True, "GBP": True}
    with Cluster(nodes=2, backend=backend) as cluster:
        cluster.start_daemons()
        one, two = cluster.nodes
        wait_for_ping(one.container, two.container.address)
        (link,) = json.loads(one.node.ip("-j", "-d", "link", "show", "flannel.77"))
        data = link["linkinfo"]["info_data"]
        assert (data["id"], data["port"], data["learning"], data["gbp"]) == (77, 4789, True, True)
        assert link["mtu"] == 1350
        assert one.daemon.environment()["FLANNEL_MTU"] == "1350"
        assert '"VNI":77' in (cluster.store_dir / "subnets" / "100.96.1.0-24").read_text()


REFUSED: dict[str, tuple[dict[str, object], str, int]] = {
    "VNI": ({"VNI": 10_000_000}, "Backend.VNI: must lie between 0 and 9999999", 2),
    "switch": ({"Learning": "yes"}, "Backend.Learning: must be a boolean, not a string", 2),
    "name taken": ({"VNI": 5}, "flannel.5 that is no VXLAN device", 1),
    "VNI taken": ({"VNI": 6}, "VNI 6 on UDP port 8472 belongs to other", 1),
    "port taken": ({"VNI": 7, "Port": 9999}, "UDP port 9999 is in use by", 1),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_start_says_field_source_and_remedy(case: str) -> None:
    options, message, code = REFUSED[case]
    with Cluster(nodes=1, backend={"Type": "vxlan", **options}) as cluster:
        one = cluster.nodes[0]
        one.node.ip("link", "add", "flannel.5", "type", "bridge")
        one.node.batch(["link add other type vxlan id 6 dev eth0 dstport 8472"])
        with one.node.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("10.168.0.2", 9999))
            one.daemon.start()
            until(lambda: not one.daemon.running, "the daemon to end")
        assert one.daemon.stop() == code
        assert message in one.daemon.tail()
        assert "(" in one.daemon.tail().splitlines()[-1]
        assert "Traceback" not in one.daemon.log.read_text()
