"""flannel itself: whole daemons of its udp backend, and an etcd for them on node 1.

No distribution has a package of flanneld, so its path is given: `--flanneld FILE`, the variable
FLANNELD_BINARY, or a flanneld in PATH. It must be built with cgo, which its udp backend needs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bench.peers._tunnel import IPV4_UDP, Command, Plan, Side, Task, Tunnel
from tunneld import gojson
from tunneld.lab import CONFIG
from tunneld.lease import Lease, LeaseAttrs, format_attrs

if TYPE_CHECKING:
    from bench.contenders import Options

DEVICE = "flannel0"
ETCD_PORT = 2379
PREFIX = "/coreos.com/network"
BINARY_VARIABLE = "FLANNELD_BINARY"


class Flannel(Tunnel):
    """One flanneld per node.

    Args:
        binary: name or path of flanneld.
        source: where that was said, for the message ("flag --flanneld").
    """

    name = "flannel"
    overhead = IPV4_UDP
    note = "udp backend, no encryption, its own TUN and routes; etcd on node1"
    tools = (("etcd", "etcd-server"), ("etcdctl", "etcd-client"))

    def __init__(self, binary: str, source: str) -> None:
        super().__init__()
        self._binary = binary
        self._source = source

    @property
    def program(self) -> str:
        """The binary as it was given."""
        return self._binary

    def missing(self) -> str | None:
        """Return why it cannot run here: no such binary, or no etcd."""
        if shutil.which(self._binary) is None:
            what = f"{self._source}: {self._binary} is no program"
            if self._source == "PATH":
                what = f"no {self._binary} in PATH"
            return (
                f"{what} (build github.com/flannel-io/flannel with CGO_ENABLED=1 and give the file:"
                f" --flanneld FILE or {BINARY_VARIABLE}=FILE)"
            )
        return super().missing()

    def helper(self, one: Task, other: Task) -> Plan:
        """Return an etcd that holds the network config and a reservation for each node."""
        client, peers = etcd_url(one), "http://127.0.0.1:2380"
        return Plan(
            argv=(
                *("etcd", "--name", "default", "--data-dir", str(one.directory / "etcd")),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
                *("--initial-cluster", f"default={peers}"),
            ),
            ready="ready to serve client requests",
            then=tuple(
                put(client, key, value) for key, value in entries(one.side, other.side).items()
            ),
            carries=False,
        )

    def plan(self, task: Task) -> Plan:
        """Return the command; the flags are flannel's (its Documentation/configuration.md)."""
        first = task if task.side.number < task.peer.number else other_half(task)
        environment = task.directory / "subnet.env"
        return Plan(
            argv=(
                self._binary,
                f"--etcd-endpoints={etcd_url(first)}",
                f"--etcd-prefix={PREFIX}",
                "--iface=eth0",
                f"--subnet-file={environment}",
                "--ip-masq=false",
                # They are for hosts whose FORWARD policy is DROP; the lab's is not.
                "--iptables-forward-rules=false",
            ),
            # flanneld writes it when its device and routes are there.
            ready=environment,
            device=DEVICE,
        )


def other_half(task: Task) -> Task:
    """Return the peer's view of the same tunnel."""
    return Task(task.peer, task.side, task.directory, task.mtu)


def etcd_url(first: Task) -> str:
    """Return where etcd listens: on the first node's side of the wire, so that both reach it."""
    return f"http://{first.side.public_ip}:{ETCD_PORT}"


def entries(*sides: Side) -> Mapping[str, str]:
    """Return key -> value: the network config, and each node's subnet as a permanent reservation.

    flanneld takes the lease whose PublicIP is its own, so node 1 gets 100.96.1.0/24.
    """
    found = {f"{PREFIX}/config": gojson.dumps(dict(CONFIG)).decode()}
    for side in sides:
        reservation = Lease(side.subnet, LeaseAttrs(side.public_ip))
        found[f"{PREFIX}/subnets/{reservation.key}"] = format_attrs(reservation.attrs).decode()
    return found


def put(endpoint: str, key: str, value: str) -> Command:
    """Return the command that writes one key with etcd's v3 interface."""
    return ("etcdctl", f"--endpoints={endpoint}", "put", key, value)


def contender(options: Options) -> Flannel:
    """Return the contender; the flag goes before the variable, and that before PATH."""
    if options.flanneld:
        return Flannel(options.flanneld, "flag --flanneld")
    if binary := os.environ.get(BINARY_VARIABLE):
        return Flannel(binary, f"variable {BINARY_VARIABLE}")
    return Flannel("flanneld", "PATH")
