"""A node moves from flannel to tunneld and back, as docs/migrating-from-flannel.md says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.netns.waiting import until
from tunneld import cli
from tunneld.lab import wait_for_ping
from tunneld.lab.etcd import EtcdServer

if TYPE_CHECKING:
    from tunneld.lab import Cluster
    from tunneld.lab.cluster import ClusterNode

PREFIX = "/coreos.com/network"
CONFIG = '{"Network":"100.96.0.0/16","Backend":{"Type":"udp","Port":8285}}'
ENV = (
    "FLANNEL_NETWORK=100.96.0.0/16\nFLANNEL_SUBNET={}/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
)
DOC = Path(__file__).parents[2] / "docs" / "migrating-from-flannel.md"
CLOSE_THE_HOLE = "ip route add unreachable 100.96.0.0/16 metric 4294967295 proto 84"


def as_flannel_left_it(host: ClusterNode, etcd: EtcdServer) -> None:
    """Lease and subnet.env of a flanneld that has just ended."""
    lease = etcd.ctl("lease", "grant", "86400").split()[1]
    key = f"{PREFIX}/subnets/{host.subnet.network_address}-24"
    value = f'{{"PublicIP":"{host.public_ip}","PublicIPv6":null}}'
    etcd.ctl("put", f"--lease={lease}", key, value)
    host.daemon.subnet_file.write_text(ENV.format(host.bridge_address))


def commands() -> list[str]:
    """The commands of the document, without comments and output."""
    lines = re.findall(r"^ {8}(\S.*)$", DOC.read_text(), flags=re.MULTILINE)
    return [line.partition("#")[0].strip() for line in lines]


def test_a_node_moves_and_goes_back(cluster: Cluster) -> None:
    one, two = cluster.nodes
    assert CLOSE_THE_HOLE in commands()
    with EtcdServer(
        cluster.lab.directory / "etcd", host="10.168.0.66", node=cluster.stranger()
    ) as etcd:
        etcd.ctl("put", f"{PREFIX}/config", CONFIG)
        for host in cluster.nodes:
            as_flannel_left_it(host, etcd)
            argv = host.daemon.argv
            argv[argv.index("--store") + 1] = "etcd:"
            argv += ["--etcd-endpoints", etcd.url]
        before = etcd.ctl("get", "--prefix", PREFIX)
        env = one.daemon.subnet_file.read_text()
        one.node.run(CLOSE_THE_HOLE.split())
        cluster.start_daemons()
        until(lambda: one.daemon.status()["peers"] and two.daemon.status()["peers"], "the peers")
        wait_for_ping(one.container, two.container.address)
        # Both `diff` of the document print nothing.
        assert one.daemon.subnet_file.read_text() == env
        assert etcd.ctl("get", "--prefix", PREFIX) == before
        # And the route that was put by hand is the one that tunneld would have put.
        assert "unreachable_route" not in one.daemon.status()["backend"]["repairs"]

        assert one.daemon.stop() == 0
        assert etcd.ctl("get", "--prefix", PREFIX) == before, "flanneld finds its lease"
        argv = [sys.executable, "-m", "tunneld", "cleanup", "--run-dir", str(one.daemon.run_dir)]
        one.node.run(argv)
        assert one.node.ip("route", "show", "proto", "84") == ""
        assert "tunneld" not in one.node.run(["nft", "list", "ruleset"]).stdout.lower()
        assert "flannel0" not in one.node.ip("-brief", "link")


def test_the_commands_of_the_document_are_there() -> None:
    found = set(re.findall(r"\btunneld (\w[\w-]*)", "\n".join(commands())))
    assert {"doctor", "status", "cleanup"} <= found <= set(cli.COMMANDS)
    flags = set(re.findall(r"`(--[a-z][a-z-]+)", DOC.read_text()))
    text = cli.full_parser()._subparsers
    assert text is not None
    known = {
        flag
        for action in text._group_actions
        for command in dict(action.choices or {}).values()
        for flag in command._option_string_actions
    }
    assert flags
    assert flags <= known
    for name in re.findall(r"\bcontrib/[\w./-]+|\bdocs/[\w./-]+\.md", DOC.read_text()):
        assert (DOC.parents[1] / name).exists(), name
