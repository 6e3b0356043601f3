"""The lab: what it promises to the demo, the tests and the benchmarks.

container-1 -- docker0 [node1] eth0 ---- switch ---- eth0 [node2] docker0 -- container-2
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.netns.waiting import until
from tunneld.errors import StartError
from tunneld.lab import (
    NETWORK,
    Capture,
    Cluster,
    CommandError,
    Lab,
    ping,
    process,
    wait_for_ping,
)
from tunneld.lab.iperf import INTERVAL, tcp
from tunneld.lab.sweep import NETNS_DIR
from tunneld.lab.underlay import SEGMENTATION, SETTINGS

if TYPE_CHECKING:
    from tunneld.lab import Node


def namespaces(owner: int | None = None) -> set[str]:
    prefix = f"tl{owner or os.getpid()}-"
    return {path.name for path in NETNS_DIR.glob(f"{prefix}*")}


def scratch(owner: int) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"tl{owner}-*"))


def features(node: Node, ifname: str) -> dict[str, bool]:
    text = node.run(["ethtool", "-k", ifname]).stdout
    return {
        name: state == "on"
        for name, state in re.findall(r"^\s*([\w-]+): (on|off)", text, re.MULTILINE)
    }


class TestTopology:
    def test_addresses_and_routes_are_those_of_the_scenario(self, cluster: Cluster) -> None:
        node1, node2 = cluster.nodes
        assert [str(node.public_ip) for node in cluster.nodes] == ["10.168.0.2", "10.168.0.3"]
        assert str(node1.container.address) == "100.96.1.2"
        assert str(node2.container.address) == "100.96.2.3"
        routes = node1.node.ip("route")
        assert "default via 10.168.0.1 dev eth0" in routes
        assert "10.168.0.0/24 dev eth0" in routes
        assert "100.96.1.0/24 dev docker0" in routes
        assert node1.node.sysctl("net.ipv4.ip_forward") == "1"

    def test_the_store_holds_flannels_bytes(self, cluster: Cluster) -> None:
        value = (cluster.store_dir / "subnets" / "100.96.2.0-24").read_bytes()
        assert value == b'{"PublicIP":"10.168.0.3","PublicIPv6":null}'

    def test_wire_and_bridge_carry_packets_and_nothing_crosses_between_containers(
        self, cluster: Cluster
    ) -> None:
        node1, node2 = cluster.nodes
        answer = ping(node1.node, node2.public_ip)
        assert answer is not None
        assert answer.source == node2.public_ip
        assert ping(node1.container, node1.bridge_address) is not None
        assert ping(node1.container, node2.container.address, timeout=0.3) is None

    def test_a_second_container_shares_the_bridge(self, cluster: Cluster) -> None:
        node1 = cluster.nodes[0]
        second = node1.add_container(9)
        answer = ping(node1.container, second.address)
        assert answer is not None
        assert answer.ttl == 64  # switched, not routed

    def test_the_stranger_is_on_the_wire_and_not_in_the_store(self, cluster: Cluster) -> None:
        stranger = cluster.stranger()
        assert ping(stranger, cluster.nodes[0].public_ip) is not None
        assert "10.168.0.66" not in "".join(
            path.read_text() for path in (cluster.store_dir / "subnets").iterdir()
        )

    def test_three_nodes_follow_the_pattern(self) -> None:
        with Cluster(nodes=3) as cluster:
            third = cluster.nodes[2]
            assert str(third.public_ip) == "10.168.0.4"
            assert third.container.address == IPv4Address("100.96.3.4")
            assert ping(cluster.nodes[0].node, third.public_ip) is not None

    def test_the_router_tells_the_mtu_of_its_second_link(self) -> None:
        with Cluster(nodes=2, shape="router") as cluster:
            node1, node2 = cluster.nodes
            assert ping(node1.node, node2.public_ip) is not None
            answer = ping(node1.node, node2.public_ip, size=1472, dont_fragment=True)
            assert answer is not None
            assert (answer.type, answer.code, answer.mtu) == (3, 4, 1400)


class TestUnderlaySettings:
    @pytest.mark.parametrize("shape", ["switch", "cable"])
    @pytest.mark.parametrize("setting", ["sgro", "plain"])
    def test_the_features_are_effective_on_both_hosts(self, setting: str, shape: str) -> None:
        with Cluster(nodes=2, setting=setting, shape=shape) as cluster:
            for host in cluster.nodes:
                have = features(host.node, "eth0")
                assert not [name for name in SEGMENTATION if have[name]]
                assert not have["tx-tcp-segmentation"]
                assert not have["tx-udp-segmentation"]
                assert not have["tx-udp_tnl-segmentation"]
                software = setting == "sgro"
                assert have["tx-checksum-ip-generic"] is software
                assert have["generic-segmentation-offload"] is software
                assert have["generic-receive-offload"] is software

    def test_on_leaves_the_defaults(self) -> None:
        with Cluster(nodes=2, setting="on") as cluster:
            have = features(cluster.nodes[0].node, "eth0")
            assert have["tx-tcp-segmentation"]
            assert have["tx-udp-segmentation"]

    @pytest.mark.parametrize("setting", sorted(SETTINGS))
    def test_frames_on_the_wire_are_as_large_as_the_setting_says(self, setting: str) -> None:
        with Cluster(nodes=2, setting=setting, shape="cable") as cluster:
            node1, node2 = cluster.nodes
            # The receiver's side: what crossed, before its GRO merges (taps see frames after it,
            # so with GRO on they may be large again; the sender's tap is before segmentation).
            with Capture([(node2.node, "eth0")]) as capture:
                result = tcp(node1.node, node2.node, node2.public_ip, seconds=1)
                frames = [frame for frame in capture.frames if not frame.outgoing]
            assert result.bytes > 1_000_000
            largest = max(len(frame.frame) for frame in frames)
            assert (largest <= 1514) is (setting == "plain")


class TestVxlan:
    def test_containers_reach_each_other_and_the_commands_are_flannels(
        self, cluster: Cluster
    ) -> None:
        node1, node2 = cluster.nodes
        commands = [str(command) for command in cluster.setup_vxlan() if command.host is node1]
        assert commands == [
            (
                "ip link add flannel.1 address 5e:f8:4f:00:e3:36 mtu 1450 type vxlan id 1 dev eth0"
                " local 10.168.0.2 dstport 8472 nolearning"
            ),
            "ip address add 100.96.1.0/32 dev flannel.1",
            "ip link set flannel.1 up",
            "ip neigh replace 100.96.2.0 lladdr 5e:f8:4f:00:e3:37 dev flannel.1 nud permanent",
            "bridge fdb replace 5e:f8:4f:00:e3:37 dev flannel.1 dst 10.168.0.3 self permanent",
            "ip route replace 100.96.2.0/24 via 100.96.2.0 dev flannel.1 onlink",
        ]
        assert wait_for_ping(node1.container, node2.container.address).ttl == 62
        assert '"mtu":1450' in node1.container.ip("-j", "link", "show", "eth0")
        cluster.teardown_vxlan()
        assert ping(node1.container, node2.container.address, timeout=0.3) is None


class TestCapture:
    def test_a_packet_is_seen_with_direction_and_time_at_each_station(
        self, cluster: Cluster
    ) -> None:
        node1, node2 = cluster.nodes
        cluster.setup_vxlan()
        taps = [(node1.node, "docker0"), (node1.node, "flannel.1"), (node2.node, "docker0")]
        with Capture(taps, to=IPv4Network(f"{node2.container.address}/32")) as capture:
            wait_for_ping(node1.container, node2.container.address)
            frames = capture.wait(lambda frames: len(frames) >= 3)
            assert capture.lost() == 0
        assert [(frame.node, frame.interface, frame.outgoing) for frame in frames[:3]] == [
            ("node1", "docker0", False),
            ("node1", "flannel.1", True),
            ("node2", "docker0", True),
        ]
        assert [frame.packet[8] for frame in frames[:3]] == [64, 63, 62]

    def test_the_filter_finds_what_leaves_in_clear_and_nothing_else(self, cluster: Cluster) -> None:
        node1, node2 = cluster.nodes
        with Capture([(node1.node, "eth0")], to=NETWORK) as capture:
            ping(node1.node, node2.public_ip)
            assert capture.frames == []
            # No tunnel runs, so the default route takes it: the leak that the filter is for.
            ping(node1.container, node2.container.address, timeout=0.2)
            leaked = capture.wait(bool)
        assert leaked[0].packet[16:20] == node2.container.address.packed


class TestTearDown:
    def test_nothing_is_left(self) -> None:
        with Cluster(nodes=2) as cluster:
            child = cluster.nodes[0].node.popen(["sleep", "600"])
            # setsid forks and its parent ends, so popen loses sight of the one that stays.
            detach = ["setsid", "sleep", "600"]
            cluster.nodes[0].container.popen(detach, stdout=subprocess.DEVNULL).wait(10)
            pids = cluster.nodes[0].container.pids()
            directory = cluster.lab.directory
            assert pids
            assert len(namespaces()) == 5
        assert child.poll() is not None
        assert namespaces() == set()
        assert not directory.exists()
        # The kernel takes its time to end what was killed.
        until(lambda: not [pid for pid in pids if alive(pid)], "the processes to end")

    def test_nothing_is_left_after_a_failure(self) -> None:
        with pytest.raises(CommandError, match="no-such-device"), Cluster(nodes=2) as cluster:
            cluster.nodes[0].node.ip("link", "set", "no-such-device", "up")
        assert namespaces() == set()

    def test_nothing_is_left_when_building_fails_half_way(self) -> None:
        with pytest.raises(CommandError), Cluster(nodes=2, mtu=10):
            pass
        assert namespaces() == set()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_nothing_is_left_after_a_signal(self, number: signal.Signals) -> None:
        child = start_lab_process()
        child.send_signal(number)
        try:
            assert child.wait(60) != 0
        finally:
            # A lab that does not heed the signal must not outlive this test.
            process.stop([child], grace=20)
        assert namespaces(child.pid) == set()
        assert scratch(child.pid) == []

    def test_what_a_killed_lab_leaves_is_swept_by_the_next(self) -> None:
        child = start_lab_process()
        child.kill()
        child.wait(60)
        assert namespaces(child.pid)
        assert scratch(child.pid)
        with Lab():
            assert namespaces(child.pid) == set()
            assert scratch(child.pid) == []

    def test_without_root_the_message_has_a_remedy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        with pytest.raises(StartError, match="sudo"), Lab():
            pass


def test_iperfs_lines_are_understood() -> None:
    line = "[  5]   0.50-1.00   sec  42.1 MBytes   706 Mbits/sec   12    1.2 MBytes\n"
    match = INTERVAL.search(line)
    assert match is not None
    assert (match["end"], match["rate"], match["retransmits"]) == ("1.00", "706", "12")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def start_lab_process() -> subprocess.Popen[str]:
    """Start a lab in another process and wait until it is up."""
    code = (
        "import signal\nfrom tunneld.lab import Cluster\n"
        "with Cluster(nodes=2):\n    print('up', flush=True)\n    signal.pause()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    child.stdout.close()
    return child
