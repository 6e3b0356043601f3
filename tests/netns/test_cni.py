"""Containers by CNI: the conflists that we ship, run by Debian's plugins on two nodes.

The flannel meta-plugin is no part of containernetworking-plugins any more. Where it is installed
it runs; else `delegated` stands in for it: it does what its source does (flannel-io/cni-plugin,
flannel_linux.go: doCmdAdd, getDelegateIPAM), and the delegate, which does all the work, is real.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.netns.firewall import WORLD, heard
from tunneld.lab import NETWORK, Cluster, wait_for_ping
from tunneld.lab.process import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunneld.lab import ClusterNode, Node

CONTRIB = Path(__file__).parents[2] / "contrib" / "cni"
PLUGINS = Path("/usr/lib/cni")


@dataclass
class Runtime:
    """What a container runtime does on one host: each plugin in turn, in the host's namespace.

    Attributes:
        host: the node.
        conflist: as in /etc/cni/net.d.
        data: where host-local keeps what it gave away.
    """

    host: ClusterNode
    conflist: dict[str, Any]
    data: Path
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, container: Node) -> IPv4Interface:
        """Give a container its eth0; returns the address."""
        result: dict[str, Any] | None = None
        for plugin in self.conflist["plugins"]:
            result = json.loads(self._call("ADD", container, plugin, result))
        assert result is not None
        self.results[container.netns] = result
        return IPv4Interface(result["ips"][0]["address"])

    def delete(self, container: Node) -> None:
        """Take it away again; a runtime may do that twice."""
        for plugin in reversed(self.conflist["plugins"]):
            self._call("DEL", container, plugin, self.results[container.netns])

    def _call(
        self, command: str, container: Node, plugin: dict[str, Any], result: dict[str, Any] | None
    ) -> str:
        head = {"name": self.conflist["name"], "cniVersion": self.conflist["cniVersion"]}
        conf = {**plugin, **head}
        # Both hosts of this test have one file system.
        if conf["type"] == "flannel":
            conf |= {"dataDir": str(self.data / "flannel"), "ipam": {"dataDir": str(self.data)}}
            if not (PLUGINS / "flannel").exists():
                conf = delegated(conf, self.host.daemon.environment())
        elif conf["type"] == "bridge":
            conf["ipam"] = {**conf["ipam"], "dataDir": str(self.data)}
        if result is not None:
            conf["prevResult"] = result
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container.netns,
            "CNI_NETNS": f"/run/netns/{container.netns}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(PLUGINS),
            "PATH": os.environ["PATH"],
        }
        done = subprocess.run(
            self.host.node.argv([str(PLUGINS / conf["type"])]),
            input=json.dumps(conf),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def delegated(conf: dict[str, Any], subnet_env: dict[str, str]) -> dict[str, Any]:
    """Return the network config that the flannel meta-plugin hands on."""
    delegate = {"type": "bridge", **conf["delegate"], "name": conf["name"]}
    delegate["cniVersion"] = conf["cniVersion"]
    delegate.setdefault("ipMasq", subnet_env["FLANNEL_IPMASQ"] != "true")
    delegate.setdefault("mtu", int(subnet_env["FLANNEL_MTU"]))
    if delegate["type"] == "bridge":
        delegate.setdefault("isGateway", True)
    subnet = IPv4Interface(subnet_env["FLANNEL_SUBNET"]).network
    delegate["ipam"] = {
        "type": "host-local",
        **conf["ipam"],
        "ranges": [[{"subnet": str(subnet)}]],
        "routes": [{"dst": subnet_env["FLANNEL_NETWORK"]}],
    }
    return delegate


def flannels(host: ClusterNode) -> dict[str, Any]:
    conflist: dict[str, Any] = json.loads((CONTRIB / "10-flannel.conflist").read_text())
    plugin = conflist["plugins"][0]
    assert plugin["subnetFile"] == "/run/flannel/subnet.env"
    plugin["subnetFile"] = str(host.daemon.subnet_file)
    return conflist


def bridges(host: ClusterNode) -> dict[str, Any]:
    text = run([str(CONTRIB / "mk-bridge-conflist.sh"), str(host.daemon.subnet_file)]).stdout
    conflist: dict[str, Any] = json.loads(text)
    return conflist


@pytest.fixture
def bare() -> Iterator[Cluster]:
    """Two hosts without docker."""
    with Cluster(nodes=2) as cluster:
        for host in cluster.nodes:
            host.node.ip("link", "del", "docker0")
        yield cluster


def start(cluster: Cluster, args: list[str]) -> None:
    for host in cluster.nodes:
        host.daemon.start(args)
    for host in cluster.nodes:
        host.daemon.wait_ready()


@pytest.mark.parametrize("conflist", [flannels, bridges])
@pytest.mark.parametrize("args", [["--ip-masq"], []])
def test_containers_of_two_nodes_reach_each_other(
    bare: Cluster, conflist: Any, args: list[str]
) -> None:
    start(bare, args)
    before = [rules(host) for host in bare.nodes]
    runtimes = []
    containers: list[tuple[Node, IPv4Address]] = []
    for host in bare.nodes:
        runtime = Runtime(host, conflist(host), bare.lab.directory / f"cni-{host.number}")
        container = bare.lab.node(f"pod{host.number}")
        address = runtime.add(container)
        assert address.network == host.subnet
        assert address.ip != host.bridge_address
        assert "mtu 1472" in container.ip("link", "show", "eth0")
        assert f"default via {host.bridge_address}" in container.ip("route")
        runtimes.append(runtime)
        containers.append((container, address.ip))
    (one, one_address), (two, two_address) = containers
    assert str(NETWORK) in one.ip("route")
    wait_for_ping(one, two_address)
    wait_for_ping(two, one_address)
    seen = heard(two, str(two_address), (one, str(one_address)))
    plugin_masquerades = conflist is flannels and not args
    assert seen == ("100.96.2.0" if plugin_masquerades else str(two_address))
    if args:
        world = (bare.stranger(), WORLD)
        assert heard(two, str(two_address), world) == str(bare.nodes[1].public_ip)

    for runtime, (container, _) in zip(runtimes, containers, strict=True):
        runtime.delete(container)
        runtime.delete(container)
        assert nothing_left(runtime, container)
    assert [rules(host) for host in bare.nodes] == before


def rules(host: ClusterNode) -> list[str]:
    """Return every rule of iptables."""
    lines = host.node.run(["iptables-save"]).stdout.splitlines()
    return sorted(line for line in lines if line.startswith("-A"))


def nothing_left(runtime: Runtime, container: Node) -> bool:
    """No interface, no veth on the bridge, no address given away; the bridge itself stays."""
    assert "eth0" not in container.ip("-brief", "link")
    assert runtime.host.node.ip("link", "show", "master", "cni0") == ""
    given = [path.name for path in runtime.data.glob("*/*") if path.name[:1].isdigit()]
    assert given == []
    return True


def test_the_script_says_what_is_missing(tmp_path: Path) -> None:
    script = str(CONTRIB / "mk-bridge-conflist.sh")
    done = run([script, str(tmp_path / "none")], check=False)
    assert done.returncode == 1
    assert "start tunneld first" in done.stderr
    (tmp_path / "subnet.env").write_text("FLANNEL_NETWORK=100.96.0.0/16\n")
    done = run([script, str(tmp_path / "subnet.env")], check=False)
    assert done.returncode != 0
    assert "FLANNEL_SUBNET" in done.stderr


def test_a_long_subnet(tmp_path: Path) -> None:
    """FLANNEL_SUBNET of a /28 in the middle of an octet."""
    file = tmp_path / "subnet.env"
    file.write_text(
        "FLANNEL_NETWORK=100.96.0.0/16\nFLANNEL_SUBNET=100.96.1.17/28\nFLANNEL_MTU=1400\n"
    )
    conflist = json.loads(run([str(CONTRIB / "mk-bridge-conflist.sh"), str(file)]).stdout)
    (bridge,) = conflist["plugins"]
    assert bridge["ipam"]["ranges"] == [[{"subnet": "100.96.1.16/28"}]]
    assert bridge["mtu"] == 1400
