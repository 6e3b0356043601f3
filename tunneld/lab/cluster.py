"""A whole cluster: nodes with a docker0 bridge and a container each, a wire, and a store.

             node1                                      node2
    container-1 100.96.1.2                     container-2 100.96.2.3
         |                                          |
    docker0 100.96.1.1/24                      docker0 100.96.2.1/24
    flannel0 100.96.1.0/32                     flannel0 100.96.2.0/32
    eth0 10.168.0.2/24 ------- underlay ------ eth0 10.168.0.3/24

Node N has eth0 10.168.0.(N+1), subnet 100.96.N.0/24 and container-N 100.96.N.(N+1). The store is
a directory that all daemons share; each node's lease lies in it as a permanent reservation, so the
subnets are known before any daemon runs.
"""

from __future__ import annotations

import contextlib
import json
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Any, Self

from tunneld.lab import netns, vxlan
from tunneld.lab.daemon import Daemon
from tunneld.lab.netns import Lab, Node
from tunneld.lab.relay_faults import Faults
from tunneld.lab.underlay import Underlay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

NETWORK = IPv4Network("100.96.0.0/16")
PORT = 8285
CONFIG: Mapping[str, Any] = {"Network": str(NETWORK), "Backend": {"Type": "udp", "Port": PORT}}
STRANGER = 66


class Container(Node):
    """A network namespace with one veth to its host's docker0.

    Attributes:
        address: its address in the host's subnet.
    """

    def __init__(self, host: ClusterNode, name: str, address: IPv4Address) -> None:
        super().__init__(host.node.lab, name)
        self.host = host
        self.address = address
        self.veth = f"veth{int(address) & 0xFF}"
        netns.link((self, "eth0"), (host.node, self.veth))
        host.node.ip("link", "set", self.veth, "master", "docker0")
        self.batch(
            [
                f"address add {address}/{host.subnet.prefixlen} dev eth0",
                f"route add default via {host.bridge_address}",
            ]
        )

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU of both ends of the veth, as docker does with --mtu."""
        self.ip("link", "set", "eth0", "mtu", str(mtu))
        self.host.node.ip("link", "set", self.veth, "mtu", str(mtu))


class ClusterNode:
    """One host of the cluster.

    Attributes:
        number: from 1.
        node: its namespace.
        public_ip: address of eth0.
        subnet: its lease.
        bridge_address: of docker0.
        containers: those on docker0; the first is `container`.
        daemon: its tunneld, started or not.
    """

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.number = number
        self.node = cluster.lab.node(f"node{number}")
        self.public_ip = IPv4Address(cluster.underlay.address(number)[0].split("/")[0])
        self.subnet = IPv4Network((int(NETWORK.network_address) + (number << 8), 24))
        self.bridge_address = self.subnet[1]
        self.containers: list[Container] = []
        self.daemon = Daemon(self.node, cluster.lab.directory / self.name, cluster.store_url)
        cluster.underlay.attach(self.node, number)
        self.node.sysctl("net.ipv4.ip_forward", "1")
        self.node.batch(
            [
                "link add docker0 type bridge forward_delay 0",
                f"address add {self.bridge_address}/24 dev docker0",
                "link set docker0 up",
            ]
        )
        self.add_container(number + 1)

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return self.node.name

    @property
    def container(self) -> Container:
        """The first container."""
        return self.containers[0]

    def add_container(self, last_octet: int) -> Container:
        """Make another container, at `subnet` + `last_octet`."""
        suffix = "" if not self.containers else f"-{len(self.containers) + 1}"
        name = f"container-{self.number}{suffix}"
        container = Container(self, name, self.subnet[last_octet])
        self.node.lab.nodes.append(container)
        self.containers.append(container)
        return container

    def set_mtu(self, mtu: int) -> None:
        """Give docker0 and every container the overlay's MTU."""
        for container in self.containers:
            container.set_mtu(mtu)
        self.node.ip("link", "set", "docker0", "mtu", str(mtu))


class Cluster:
    """Nodes, wire and store, up between `__enter__` and `__exit__`.

    Attributes:
        lab: owns the namespaces.
        nodes: the hosts, node1 first.
        store_dir: directory of the file store.

    Args:
        nodes: how many hosts.
        setting: offloads of the underlay: "on", "sgro" or "plain".
        shape: of the underlay: "switch", "cable" (two nodes), "router" or "relay" (two nodes).
        mtu: of the underlay, bytes.
        second_mtu: of the second link behind the router.
        faults: what the relay does to frames.
        config: the network config document.
        backend: its Backend object, such as `{"Type": "vxlan"}`, in place of the one in `config`.
    """

    def __init__(
        self,
        nodes: int = 2,
        *,
        setting: str = "sgro",
        shape: str = "switch",
        mtu: int = 1500,
        second_mtu: int = 1400,
        faults: Faults | None = None,
        config: Mapping[str, Any] = CONFIG,
        backend: Mapping[str, Any] | None = None,
    ) -> None:
        self.lab = Lab()
        self.nodes: list[ClusterNode] = []
        self._count = nodes
        self._config = config if backend is None else {**config, "Backend": backend}
        self._shape = shape
        self._setting = setting
        self._mtu = mtu
        self._second_mtu = second_mtu
        self._faults = faults
        self._stranger: Node | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.lab)
            self.underlay = Underlay(
                self.lab,
                shape=self._shape,
                setting=self._setting,
                mtu=self._mtu,
                second_mtu=self._second_mtu,
                faults=self._faults,
            )
            (self.store_dir / "subnets").mkdir(parents=True)
            self.write_config(self._config)
            for number in range(1, self._count + 1):
                host = ClusterNode(self, number)
                self.nodes.append(host)
                self.reserve(host.subnet, host.public_ip)
                self.lab.on_close(host.daemon.close)
            stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.lab.close()

    @property
    def store_dir(self) -> Path:
        """Directory of the file store."""
        return self.lab.directory / "store"

    @property
    def store_url(self) -> str:
        """The store as `--store` takes it."""
        return f"file:{self.store_dir}"

    @property
    def containers(self) -> list[Container]:
        """The first container of each node."""
        return [host.container for host in self.nodes]

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the network config, as a person would by hand."""
        text = json.dumps(config, separators=(",", ":"))
        (self.store_dir / "config").write_text(text + "\n")

    def reserve(self, subnet: IPv4Network, public_ip: IPv4Address | str) -> Path:
        """Put a key by hand: a permanent reservation; returns its file."""
        path = self.store_dir / "subnets" / str(subnet).replace("/", "-")
        # Moved there whole: on a busy machine a daemon could else read an empty file.
        draft = self.lab.directory / f"draft-{path.name}"
        draft.write_text(f'{{"PublicIP":"{public_ip}","PublicIPv6":null}}')
        return draft.rename(path)

    def stranger(self) -> Node:
        """Return a host at 10.168.0.66 on the same wire that has no lease (made on first use)."""
        if self._stranger is None:
            self._stranger = self.lab.node("stranger")
            self.underlay.attach(self._stranger, STRANGER - 1)
        return self._stranger

    def start_daemons(
        self,
        args: Sequence[str] = (),
        *,
        args_by_node: Mapping[int, Sequence[str]] | None = None,
        timeout: float = 60.0,
    ) -> None:
        """Start tunneld on every node, wait until all are ready, give containers FLANNEL_MTU.

        Args:
            args: further options of `tunneld run`, for all.
            args_by_node: further options by node number.
            timeout: seconds until each must be ready.
        """
        for host in self.nodes:
            host.daemon.start([*args, *(args_by_node or {}).get(host.number, ())])
        for host in self.nodes:
            host.daemon.wait_ready(timeout)
            host.set_mtu(int(host.daemon.environment()["FLANNEL_MTU"]))

    def stop_daemons(self) -> list[int]:
        """End tunneld on every node; returns the exit codes."""
        return [host.daemon.stop() for host in self.nodes]

    def setup_vxlan(self) -> list[vxlan.Command]:
        """Connect the nodes by kernel VXLAN; returns the commands that were run, in order."""
        commands = vxlan.setup(self.nodes, mtu=self._mtu)
        for host in self.nodes:
            host.set_mtu(self._mtu - vxlan.OVERHEAD)
        return commands

    def teardown_vxlan(self) -> None:
        """Remove the VXLAN again."""
        vxlan.teardown(self.nodes)
