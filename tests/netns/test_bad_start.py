"""Bad starts: the exit code, and a message that names the cause and the remedy."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.netns.waiting import until
from tunneld.lab import Cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

HIDE_TUN = "mount -t tmpfs none /dev/net && exec "


def start(
    cluster: Cluster, *extra: str, before: Sequence[str] = (), argv: Sequence[str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a daemon that must end by itself."""
    host = cluster.nodes[0]
    command = [sys.executable, "-m", "tunneld", "run", *(argv or host.daemon.argv), *extra]
    return host.node.run([*before, *command], check=False, timeout=60)


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("tunneld: "), done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in last


def untouched(cluster: Cluster) -> None:
    """No device, no route of ours, no socket is left by a start that failed early."""
    host = cluster.nodes[0]
    assert "flannel" not in host.node.ip("-brief", "link")
    assert host.node.ip("route", "show", "proto", "84") == ""
    assert not (host.daemon.run_dir / "tunneld.sock").exists()


def test_no_tun_device(cluster: Cluster) -> None:
    shell = ["unshare", "-m", "sh", "-c", HIDE_TUN + '"$@"', "sh"]
    refused(start(cluster, before=shell), 1, "/dev/net/tun", "modprobe tun")
    untouched(cluster)


def test_no_capability(cluster: Cluster) -> None:
    drop = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
    refused(start(cluster, before=drop), 1, "CAP_NET_ADMIN")
    untouched(cluster)


@pytest.mark.parametrize("kind", ["vxlan", "vxlan-miss", "host-gw"])
def test_no_capability_for_a_kernel_backend(kind: str) -> None:
    drop = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
    with Cluster(nodes=1, backend={"Type": kind}) as cluster:
        key = cluster.store_dir / "subnets" / "100.96.1.0-24"
        reserved = key.read_text()
        refused(start(cluster, before=drop), 1, "Operation not permitted", "CAP_NET_ADMIN")
        untouched(cluster)
        assert key.read_text() == reserved, "a lease that nobody serves"


def test_port_in_use_names_the_owner(cluster: Cluster) -> None:
    script = (
        "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.bind(('0.0.0.0', 8285)); print('bound', flush=True); time.sleep(60)"
    )
    child = cluster.nodes[0].node.popen([sys.executable, "-c", script])
    assert child.stdout is not None
    assert child.stdout.readline() == "bound\n"
    refused(start(cluster), 1, "UDP port 8285 on 10.168.0.2 is in use", f"(pid {child.pid})")
    untouched(cluster)


def test_no_such_interface(cluster: Cluster) -> None:
    argv = cluster.nodes[0].daemon.argv
    argv[argv.index("eth0")] = "eth7"
    refused(start(cluster, argv=argv), 1, "eth7", "--iface")
    untouched(cluster)


def test_unwritable_subnet_file(cluster: Cluster) -> None:
    refused(start(cluster, "--subnet-file", "/proc/none/subnet.env"), 1, "/proc/none/subnet.env")
    untouched(cluster)


def test_unusable_run_dir(cluster: Cluster) -> None:
    refused(start(cluster, "--run-dir", "/proc/none"), 1, "/proc/none", "--run-dir")


def test_run_dir_too_long_for_a_socket(cluster: Cluster) -> None:
    path = cluster.lab.directory / ("x" * 100)
    refused(start(cluster, "--run-dir", str(path)), 1, "control socket", "--run-dir")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", ("config",)),
        ('{"Network":""}', ("please define a correct Network parameter",)),
        ('{"Network":"100.96.0.0/16","SubnetLen":31}', ("SubnetLen must be less than /31",)),
        ('{"Network":"100.96.0.0/16","Backend":{"Type":"x"}}', ("unknown backend type: x",)),
        ('{"Network":"100.96.0.0/16","Backend":{"Type":"ipip"}}', ("ipip", "only udp")),
        ('{"Network":"100.96.0.0/16","EnableIPv6":true}', ("EnableIPv6",)),
        ('{"Network":"10.168.0.0/16"}', ("10.168.0.2", "Network")),
    ],
)
def test_bad_network_config(cluster: Cluster, config: str, words: tuple[str, ...]) -> None:
    (cluster.store_dir / "config").write_text(config)
    code = 1 if config.startswith('{"Network":"10.168') else 2
    refused(start(cluster), code, *words)
    untouched(cluster)


@pytest.mark.parametrize("flag", ["-kube-subnet-mgr", "--store=etcd:x"])
def test_refused_flags(cluster: Cluster, flag: str) -> None:
    refused(start(cluster, flag), 2, flag.lstrip("-").partition("=")[0])
    untouched(cluster)


def test_static_peers_without_us(cluster: Cluster) -> None:
    (cluster.store_dir / "subnets" / "100.96.1.0-24").unlink()
    refused(start(cluster), 1, "10.168.0.2", "static peers")
    untouched(cluster)


def test_a_config_that_becomes_right_is_waited_for_only_when_missing(cluster: Cluster) -> None:
    host = cluster.nodes[0]
    (cluster.store_dir / "config").write_text("")
    host.daemon.start()
    until(lambda: "waiting for the store" in host.daemon.log.read_text(), "the log line")
    cluster.write_config(json.loads('{"Network":"100.96.0.0/16","Backend":{"Type":"udp"}}'))
    host.daemon.wait_ready()
