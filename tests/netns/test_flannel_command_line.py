"""flanneld's command lines and variables, as its documentation has them, given to tunneld."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.waiting import until
from tunneld.cli.run import add_parser, normalise
from tunneld.lab import wait_for_ping
from tunneld.lab.etcd import EtcdServer
from tunneld.options import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunneld.lab import Cluster


CONFIG = '{"Network":"100.96.0.0/16","SubnetMin":"100.96.1.0","SubnetMax":"100.96.2.0"}'

# Documentation/running.md, configuration.md, troubleshooting.md, dist/functional-test.sh and the
# unit of CoreOS; the words in capitals stand for this cluster's.
LINES = [
    "--etcd-endpoints=ETCD",
    "--etcd-endpoints=ETCD -subnet-file SUBNET -etcd-prefix=/coreos.com/network",
    "-etcd-endpoints=ETCD -iface=eth0 -ip-masq=true -v=1",
    "-etcd-endpoints http://127.0.0.1:1,ETCD --public-ip=ADDRESS --iface-regex=^eth",
    """--etcd-endpoints=ETCD --etcd-prefix=/coreos.com/network --etcd-keyfile= --etcd-certfile=
    --etcd-cafile= --iface=ADDRESS --iptables-resync=5 --subnet-file=SUBNET
    --subnet-lease-renew-margin=60 --ip-masq=false -v=0 --healthz-ip=0.0.0.0 --healthz-port=0
    --kube-subnet-mgr=false --net-config-path=/etc/kube-flannel/net-conf.json""",
    """--etcd-endpoints ETCD -iface-can-reach 10.168.0.66 -ip-masq
    -ip-masq-fully-random-disable -iptables-forward-rules=true -iptables-resync 60
    -ip-blackhole-route -healthz-ip=127.0.0.1 -healthz-port=8081""",
]


@dataclass
class Served:
    """Two nodes and an etcd; the daemons know nothing but where to put their files."""

    cluster: Cluster
    etcd: str

    def start(self, line: str, variables: dict[str, str] | None = None) -> None:
        """Start daemons by a line of flannel's alone; ours is in the environment, for the lab."""
        for host in self.cluster.nodes:
            daemon = host.daemon
            environment = {
                "FLANNELD_RUN_DIR": str(daemon.run_dir),
                "FLANNELD_STATE_DIR": str(daemon.state_dir),
                "FLANNELD_SUBNET_FILE": str(daemon.subnet_file),
                **(variables or {}),
            }
            daemon.prefix = ["env", *(f"{name}={value}" for name, value in environment.items())]
            words = {"ETCD": self.etcd, "SUBNET": daemon.subnet_file, "ADDRESS": host.public_ip}
            filled = line
            for word, meant in words.items():
                filled = filled.replace(word, str(meant))
            daemon.argv = shlex.split(filled)
            daemon.start()
        for host in self.cluster.nodes:
            host.daemon.wait_ready()
        one, two = self.cluster.nodes
        until(lambda: one.daemon.status()["peers"], "the peer")
        wait_for_ping(one.container, two.container.address)
        wait_for_ping(two.container, one.container.address)


@pytest.fixture
def served(cluster: Cluster) -> Iterator[Served]:
    directory = cluster.lab.directory / "etcd"
    with EtcdServer(directory, host="10.168.0.66", node=cluster.stranger()) as server:
        server.ctl("put", "/coreos.com/network/config", CONFIG)
        for host in cluster.nodes:
            # flannel's way to a certain subnet; the lab's containers have it already.
            host.daemon.subnet_file.write_text(
                f"FLANNEL_NETWORK=100.96.0.0/16\nFLANNEL_SUBNET={host.subnet[1]}/24\n"
            )
        yield Served(cluster, server.url)


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_of_flannels(served: Served, line: str) -> None:
    served.start(line)
    masquerades = "-ip-masq\n" in line or "-ip-masq=true" in line
    found = served.cluster.nodes[0].daemon.environment()["FLANNEL_IPMASQ"]
    assert found == ("true" if masquerades else "false")


@pytest.mark.parametrize("dashes", ["-", "--"])
def test_each_flag_with_one_dash_and_with_two(dashes: str) -> None:
    """And with its value behind a space or an equals sign; what arrives is the same."""
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    for option in BY_NAME.values():
        for argv in ([f"{dashes}{option.name}=false"], [f"{dashes}{option.name}", "false"]):
            found: dict[str, Any] = vars(parser.parse_args(["run", *normalise(argv)]))
            assert found[option.name.replace("-", "_")] == ["false"]


def test_the_variables_of_flannel(served: Served) -> None:
    served.start(
        "",
        {
            "FLANNELD_ETCD_ENDPOINTS": served.etcd,
            "FLANNELD_ETCD_PREFIX": "/coreos.com/network",
            "FLANNELD_IFACE": "eth0",
            "FLANNELD_IP_MASQ": "true",
            "FLANNELD_IPTABLES_RESYNC": "10",
            "FLANNELD_IPTABLES_FORWARD_RULES": "true",
            "FLANNELD_IP_BLACKHOLE_ROUTE": "true",
            "FLANNELD_SUBNET_LEASE_RENEW_MARGIN": "30",
            "FLANNELD_PUBLIC_IP": "",
            "FLANNELD_HEALTHZ_PORT": "0",
            "FLANNELD_V": "1",
        },
    )
    assert served.cluster.nodes[0].daemon.environment() == {
        "FLANNEL_NETWORK": "100.96.0.0/16",
        "FLANNEL_SUBNET": "100.96.1.1/24",
        "FLANNEL_MTU": "1472",
        "FLANNEL_IPMASQ": "true",
    }


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("-kube-subnet-mgr", "does not run on the Kubernetes API"),
        ("--kube-api-url=https://10.0.0.1", "does not run on the Kubernetes API"),
        ("-public-ipv6=fd00::1", "IPv6"),
    ],
)
def test_what_is_refused_says_why(cluster: Cluster, flag: str, why: str) -> None:
    daemon = cluster.nodes[0].daemon
    daemon.start([flag])
    until(lambda: not daemon.running, "its end")
    assert daemon.stop() == 2
    name = flag.lstrip("-").partition("=")[0]
    assert daemon.tail(1).startswith(f"tunneld: flag --{name}: refused: ")
    assert why in daemon.tail(1)
