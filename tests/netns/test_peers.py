"""The optional contenders for real: up, carry, and gone without a trace, also after a fault.

container-1 -- docker0 [node1] tun === UDP over a cable === tun [node2] docker0 -- container-2

Those that are not installed are not collected. A toy tunnel of this file is always there, so that
what all of them share is tested on every machine.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from bench.contenders import Options, registry
from bench.peers._tunnel import IPV4_UDP, Plan, Side, Task, Tunnel
from bench.peers.wireguard_go import SOCKETS
from tunneld.lab import Capture, Cluster, ClusterNode, CommandError, ping

DEVICE = "toy0"
SCRIPT = textwrap.dedent("""
    import fcntl, os, select, socket, struct, sys
    device, here, there = sys.argv[1:]
    tun = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", device.encode(), 0x1001))  # TUN, NO_PI
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((here, 7001))
    print("running", flush=True)
    while True:
        ready = select.select([tun, sock], [], [])[0]
        if tun in ready:
            sock.sendto(os.read(tun, 65535), (there, 7001))
        if sock in ready:
            os.write(tun, sock.recv(65535))
""")


class Toy(Tunnel):
    """The smallest tunnel that there is."""

    name = "toy"
    overhead = IPV4_UDP
    note = "no encryption"
    tools = ((sys.executable, "python3"),)

    def plan(self, task: Task) -> Plan:
        addresses = str(task.side.public_ip), str(task.peer.public_ip)
        return Plan(
            argv=(sys.executable, "-c", SCRIPT, DEVICE, *addresses),
            ready="running",
            device=DEVICE,
            then=task.address_device(DEVICE),
        )


class Broken(Toy):
    """Its second half fails when the process runs already."""

    def plan(self, task: Task) -> Plan:
        plan = super().plan(task)
        if task.side.number == 1:
            return plan
        return Plan(argv=plan.argv, ready=plan.ready, then=(("ip", "link", "set", "nodev", "up"),))


def installed() -> list[Tunnel]:
    """Return the toy, and every peer that runs here; flannel's test is below."""
    known = [item for item in registry(Options()).values() if isinstance(item, Tunnel)]
    return [Toy(), *(item for item in known if item.name != "flannel" and item.missing() is None)]


@pytest.fixture
def cable() -> Iterator[Cluster]:
    with Cluster(nodes=2, shape="cable") as cluster:
        yield cluster


def traces(cluster: Cluster) -> list[object]:
    """Return what a contender could leave: devices, routes, processes, files."""
    found: list[object] = [sorted(path.name for path in cluster.lab.directory.iterdir())]
    for host in cluster.nodes:
        found += [
            [line.split()[1] for line in host.node.ip("-o", "link").splitlines()],
            host.node.ip("route"),
            host.node.ip("-o", "-4", "address"),
            host.node.pids(),
        ]
    # That directory belongs to the whole machine: others may have theirs there.
    return [*found, sorted(SOCKETS.glob(f"wg{os.getpid()}-*"))]


def device_of(tunnel: Tunnel) -> str:
    """Return the name of the device that a tunnel makes on node 2."""
    one = Side(1, "node1", IPv4Address("10.168.0.2"), IPv4Network("100.96.1.0/24"))
    other = Side(2, "node2", IPv4Address("10.168.0.3"), IPv4Network("100.96.2.0/24"))
    return tunnel.plan(Task(other, one, Path("/nowhere"), 1400)).device


def fragments(host: ClusterNode) -> int:
    """Return how many IP fragments a node has made."""
    text = host.node.call(Path("/proc/thread-self/net/snmp").read_text)
    names, values = (line.split() for line in text.splitlines() if line.startswith("Ip:"))
    return int(values[names.index("FragCreates")])


@pytest.mark.parametrize("tunnel", installed(), ids=lambda tunnel: tunnel.name)
class TestInstalled:
    def test_carries_full_packets_unfragmented_and_leaves_nothing(
        self, cable: Cluster, tunnel: Tunnel
    ) -> None:
        before = traces(cable)
        one, other = cable.containers
        began = time.monotonic()
        with tunnel.up(cable):
            assert time.monotonic() - began < 30
            assert len(tunnel.pids()) == 2
            for host, pid in zip(cable.nodes, tunnel.pids(), strict=True):
                assert pid in host.node.pids()
            mtu = int(one.run(["cat", "/sys/class/net/eth0/mtu"]).stdout)
            assert mtu == 1500 - tunnel.overhead
            with Capture([(cable.nodes[0].node, "eth0")]) as capture:
                answer = ping(one, other.address, size=mtu - 28, dont_fragment=True)
                assert answer is not None
                assert (answer.type, answer.ttl) == (0, 62)
                # The MTU is neither too large for the wire nor smaller than it need be.
                capture.wait(lambda frames: any(len(frame.packet) == 1500 for frame in frames))
                assert max(len(frame.packet) for frame in capture.frames) == 1500
            assert [fragments(host) for host in cable.nodes] == [0, 0]
            assert f"# {tunnel.name} {tunnel.version()}: " in tunnel.command_lines()[0]
            assert any(line.startswith("node2: ") for line in tunnel.command_lines())
        assert tunnel.pids() == []
        assert traces(cable) == before

    def test_fails_and_leaves_nothing_where_its_second_device_cannot_be_made(
        self, cable: Cluster, tunnel: Tunnel
    ) -> None:
        device = device_of(tunnel)
        cable.nodes[1].node.ip("link", "add", device, "type", "bridge")
        before = traces(cable)
        with pytest.raises(CommandError, match="on node2: "), tunnel.up(cable):
            pytest.fail("it cannot have come up")
        assert tunnel.pids() == []
        assert traces(cable) == before

    def test_comes_up_again_at_once(self, cable: Cluster, tunnel: Tunnel) -> None:
        for _ in range(2):
            with tunnel.up(cable):
                assert ping(cable.containers[0], cable.containers[1].address)


def test_a_command_that_fails_half_way_is_undone(cable: Cluster) -> None:
    before = traces(cable)
    broken = Broken()
    with pytest.raises(CommandError, match="nodev"), broken.up(cable):
        pytest.fail("it cannot have come up")
    assert broken.pids() == []
    assert traces(cable) == before


WRAPPER = """#!/bin/sh
exec {python} -m tunneld run --run-dir="$(mktemp -d {scratch}/run-XXXXXX)" \\
    --state-dir="$(mktemp -d {scratch}/state-XXXXXX)" "$@"
"""


@pytest.fixture
def flanneld(tmp_path: Path) -> Path:
    """Our own daemon as the binary: it takes flannel's flags and speaks with the same etcd."""
    wrapper = tmp_path / "flanneld"
    wrapper.write_text(WRAPPER.format(python=sys.executable, scratch=tmp_path))
    wrapper.chmod(0o755)
    return wrapper


class TestFlannel:
    def test_etcd_and_both_daemons_come_up_carry_and_go(
        self, cable: Cluster, flanneld: Path
    ) -> None:
        contender = registry(Options(flanneld=str(flanneld)))["flannel"]
        assert contender.missing() is None
        one, other = cable.containers
        with contender.up(cable):
            assert len(contender.pids()) == 2  # etcd carries nothing
            assert len(cable.nodes[0].node.pids()) >= 2
            answer = ping(one, other.address, size=1472 - 28, dont_fragment=True)
            assert answer is not None
            assert answer.type == 0
            lines = contender.command_lines()
            assert sum("etcdctl" in line for line in lines) == 3
            assert sum("--etcd-endpoints=http://10.168.0.2:2379" in line for line in lines) == 2
        assert contender.pids() == []
        assert [host.node.pids() for host in cable.nodes] == [[], []]
        assert [host.node.ip("-o", "link").count("flannel0") for host in cable.nodes] == [0, 0]
        assert not list(cable.lab.directory.glob("flannel-*"))

    def test_a_binary_that_ends_is_reported_and_etcd_goes_too(
        self, cable: Cluster, tmp_path: Path
    ) -> None:
        binary = tmp_path / "flanneld"
        binary.write_text("#!/bin/sh\necho this is no flannel\nexit 1\n")
        binary.chmod(0o755)
        before = traces(cable)
        contender = registry(Options(flanneld=str(binary)))["flannel"]
        with (
            pytest.raises(CommandError, match="flanneld ended with status 1 on node1: this is no"),
            contender.up(cable),
        ):
            pytest.fail("it cannot have come up")
        assert traces(cable) == before
