"""The daemon without root: CAP_NET_ADMIN alone, as the systemd unit gives it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.waiting import until
from tunneld.lab import Cluster, wait_for_ping

if TYPE_CHECKING:
    from collections.abc import Mapping

NOBODY = 65534
AS_NOBODY = (
    *("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"),
    *("--no-new-privs", "--inh-caps", "-all,+net_admin", "--ambient-caps", "-all,+net_admin"),
    *("--bounding-set", "-all,+net_admin"),
)
CAP_NET_ADMIN = f"{1 << 12:016x}"

UNIT = Path(__file__).parents[2] / "contrib" / "systemd" / "tunneld.service"


def start(cluster: Cluster, *args: str) -> None:
    directory = cluster.lab.directory
    for path in (directory, *directory.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    for host in cluster.nodes:
        host.daemon.prefix = list(AS_NOBODY)
    cluster.start_daemons(args)


def of_process(pid: int) -> Mapping[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize(
    ("backend", "device"),
    [
        ({"Type": "udp", "Port": 8285}, "flannel0"),
        ({"Type": "vxlan"}, "flannel.1"),
        ({"Type": "host-gw"}, "eth0"),
    ],
)
def test_two_nodes_without_root(backend: dict[str, Any], device: str) -> None:
    with Cluster(nodes=2, backend=backend) as cluster:
        start(cluster, "--ip-masq")
        one, two = cluster.nodes
        facts = of_process(one.daemon.pid)
        assert facts["Uid"].split() == [str(NOBODY)] * 4
        assert facts["CapEff"] == facts["CapBnd"] == facts["CapPrm"] == CAP_NET_ADMIN
        wait_for_ping(one.container, two.container.address)
        document = one.daemon.status()
        assert document["state"] == "ready"
        assert document["backend"]["device"] == device
        assert document["rules"]["error"] == ""
        assert "masquerade" in one.node.run(["nft", "list", "ruleset"]).stdout
        # Nothing was refused. (The lab's reservations are of type udp until the peer is up.)
        log = one.daemon.log.read_text().splitlines()
        assert not [line for line in log if "level=info" not in line and "its lease is" not in line]
        one.node.ip("route", "del", "100.96.0.0/16" if device == "flannel0" else "100.96.2.0/24")
        until(lambda: sum(one.daemon.status()["backend"]["repairs"].values()), "the repair")
        wait_for_ping(one.container, two.container.address)
        assert [host.daemon.stop() for host in cluster.nodes] == [0, 0]


def test_the_device_of_the_udp_backend_without_root(cluster: Cluster) -> None:
    start(cluster)
    one, two = cluster.nodes
    assert one.node.sysctl("net.ipv4.conf.flannel0.accept_local") == "1"
    assert "0200A80A:205D" in one.node.run(["cat", "/proc/net/udp"]).stdout
    one.node.ip("link", "del", "flannel0")
    until(lambda: one.daemon.status()["backend"]["repairs"].get("device"), "the repair")
    wait_for_ping(one.container, two.container.address)
    # More than SO_RCVBUF would give: SO_RCVBUFFORCE worked.
    (line,) = (
        line for line in one.node.run(["ss", "-Hulnm"]).stdout.splitlines() if "skmem" in line
    )
    buffer = re.search(r",rb(\d+),", line)
    assert buffer is not None
    assert int(buffer[1]) == 16 << 20


def test_several_queues_need_one_more_and_say_so(cluster: Cluster) -> None:
    directory = cluster.lab.directory
    for path in (directory, *directory.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    one = cluster.nodes[0]
    one.daemon.prefix = list(AS_NOBODY)
    one.daemon.start(["--queues", "2"])
    until(lambda: not one.daemon.running, "the end")
    assert one.daemon.stop() == 1
    assert "AmbientCapabilities=" in one.daemon.tail()
    assert "--queues" in UNIT.read_text()


def test_the_unit_is_hardened() -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(UNIT)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_the_unit_says_nothing_that_systemd_does_not_know(tmp_path: Path) -> None:
    # Only the program and the man page are elsewhere on this machine.
    text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE)
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"^Documentation=.*\n", "", text, flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    "line",
    [
        "DynamicUser=yes",
        "CapabilityBoundingSet=CAP_NET_ADMIN",
        "AmbientCapabilities=CAP_NET_ADMIN",
        "Type=notify",
        "TimeoutStartSec=infinity",
        "RuntimeDirectory=tunneld flannel",
        "RuntimeDirectoryPreserve=yes",
        "StateDirectory=tunneld",
        "RestartPreventExitStatus=2",
    ],
)
def test_what_the_unit_promises(line: str) -> None:
    assert line in UNIT.read_text().splitlines()


@pytest.mark.parametrize("word", ["ProtectKernelTunables", "PrivateDevices", "PrivateNetwork"])
def test_what_would_break_the_daemon_is_not_set(word: str) -> None:
    assert not re.search(rf"^{word}=", UNIT.read_text(), flags=re.MULTILINE)
