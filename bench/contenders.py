"""The contenders: each is one way for packets between the two containers.

Ours and the kernel's stand here; optional ones (flannel, wireguard-go, ...) are one file each in
bench/peers. Such a module has a function

    def contender(options: Options) -> Contender

and is found by that; names that begin with an underscore are helpers. A contender is brought up on
the lab's two nodes, used, and taken down again, once per round:

    with item.up(cluster):
        ...             # item.pids() and item.command_lines() are valid here
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tunneld.errors import ConfigError
from tunneld.lab import process, wait_for_ping

if TYPE_CHECKING:
    from tunneld.lab import Cluster

PEERS = Path(__file__).with_name("peers")
YARDSTICK = "vxlan"

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "udp": (),
    "udp-python": ("--dataplane=python",),
    "udp-syscall": ("--dataplane=syscall",),
    "udp-mmsg": ("--dataplane=mmsg",),
    "udp-gso": ("--dataplane=gso", "--threads=1"),
    "udp-offload-1": ("--dataplane=offload", "--threads=1"),
    "udp-offload-2": ("--dataplane=offload", "--threads=2"),
}
"""Contender -> options of the daemon; `udp` is the daemon as it comes."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about optional contenders.

    Attributes:
        flanneld: path of a flanneld binary; None: look for it in PATH.
    """

    flanneld: str | None = None


@runtime_checkable
class Contender(Protocol):
    """One way between the containers of a two-node cluster.

    Attributes:
        name: on the command line and in results.
    """

    name: str

    def missing(self) -> str | None:
        """Return why it cannot run here, with the remedy ("not installed: apt-get install X")."""

    def up(self, cluster: Cluster) -> AbstractContextManager[None]:
        """Bring it up: on entry traffic between the containers passes; on exit nothing is left.

        It gives docker0 and the containers their MTU (`host.set_mtu`), and undoes what it did also
        when bringing it up fails half way.
        """

    def pids(self) -> Sequence[int]:
        """Return the processes that carry packets while it is up; empty for the kernel's ways."""

    def command_lines(self) -> list[str]:
        """Return what was run on the nodes, as a reader could type it ("node1: ip route ...")."""


@runtime_checkable
class Counting(Protocol):
    """A contender that counts its own system calls."""

    def system_calls(self) -> int:
        """Return how many its packet path has made since it is up, on both nodes."""


@dataclass(slots=True)
class Direct:
    """Plain routes between the nodes, as flannel's host-gw: what the underlay gives at best."""

    name: str = "direct"
    _lines: list[str] = field(default_factory=list)

    def missing(self) -> str | None:
        """Return None: the lab's own tools do it."""
        return None

    @contextlib.contextmanager
    def up(self, cluster: Cluster) -> Iterator[None]:
        """Route each node's subnet to the other's public IP."""
        self._lines = []
        routed = []
        try:
            for host in cluster.nodes:
                host.set_mtu(cluster.underlay.mtu)
                for peer in cluster.nodes:
                    if peer is host:
                        continue
                    route = [str(peer.subnet), "via", str(peer.public_ip), "dev", "eth0"]
                    host.node.ip("route", "replace", *route)
                    routed.append((host, route))
                    self._lines.append(f"{host.name}: ip route replace {' '.join(route)}")
            yield
        finally:
            for host, route in routed:
                host.node.ip("route", "del", *route)

    def pids(self) -> Sequence[int]:
        """Return nothing: the kernel forwards."""
        return ()

    def command_lines(self) -> list[str]:
        """Return the routes."""
        return self._lines


@dataclass(slots=True)
class Vxlan:
    """Kernel VXLAN, set up as flannel's backend does it: the yardstick."""

    name: str = YARDSTICK
    _lines: list[str] = field(default_factory=list)

    def missing(self) -> str | None:
        """Return None: a kernel without VXLAN says so when the device is made."""
        return None

    @contextlib.contextmanager
    def up(self, cluster: Cluster) -> Iterator[None]:
        """Make the VTEPs and teach them each other."""
        try:
            done = cluster.setup_vxlan()
            self._lines = [f"{command.host.name}: {command}" for command in done]
            yield
        finally:
            cluster.teardown_vxlan()

    def pids(self) -> Sequence[int]:
        """Return nothing: it has no process."""
        return ()

    def command_lines(self) -> list[str]:
        """Return the commands of both nodes."""
        return self._lines


@dataclass(slots=True)
class Udp:
    """tunneld's udp backend on one rung of the ladder.

    Attributes:
        name: key of `ARGUMENTS`.
        arguments: options of the daemon.
    """

    name: str
    arguments: tuple[str, ...]
    _cluster: Cluster | None = None

    def missing(self) -> str | None:
        """Return None: an engine that is not built is refused by the daemon itself."""
        return None

    @contextlib.contextmanager
    def up(self, cluster: Cluster) -> Iterator[None]:
        """Run a daemon on each node."""
        try:
            cluster.start_daemons(self.arguments)
            self._cluster = cluster
            yield
        finally:
            self._cluster = None
            cluster.stop_daemons()

    def pids(self) -> Sequence[int]:
        """Return both daemons."""
        return [host.daemon.pid for host in self._cluster.nodes] if self._cluster else []

    def command_lines(self) -> list[str]:
        """Return the daemons' command lines."""
        if self._cluster is None:
            return []
        return [
            f"{host.name}: {shlex.join(['tunneld', 'run', *host.daemon.argv, *self.arguments])}"
            for host in self._cluster.nodes
        ]

    def system_calls(self) -> int:
        """Return reads, writes and polls of both daemons' packet paths, both directions."""
        return sum(
            value
            for host in (self._cluster.nodes if self._cluster else ())
            for direction in ("outbound", "inbound")
            for name, value in host.daemon.status()["counters"][direction].items()
            if name.startswith("syscalls_")
        )


class UdpKernel(Udp):
    """The same bytes by the kernel's fou and ipip: the daemon only sets them up."""

    _TRIALS = (
        "ip fou add port 8285 ipproto 4",
        "ip link add t0 type ipip local 10.0.0.1 remote 10.0.0.2 encap fou encap-dport 8285",
    )

    def missing(self) -> str | None:
        """Return what this kernel refuses, tried in a namespace of its own."""
        for trial in self._TRIALS:
            done = process.run(["unshare", "--net", *trial.split()], check=False)
            if done.returncode != 0:
                said = done.stderr.strip().split("\n")[-1]
                return f"`{trial}`: {said} (a kernel with the modules fou and ipip)"
        return None

    def pids(self) -> Sequence[int]:
        """Return nothing: no process is in the path of packets."""
        return ()


def registry(options: Options = Options()) -> dict[str, Contender]:
    """Return every contender by name, in the order of the ladder; optional ones last."""
    items: list[Contender] = [Direct(), Vxlan()]
    items += [Udp(name, arguments) for name, arguments in ARGUMENTS.items()]
    items.append(UdpKernel("udp-kernel", ("--dataplane=kernel",)))
    items += _optional(options)
    return {item.name: item for item in items}


def _optional(options: Options) -> list[Contender]:
    found = []
    for info in pkgutil.iter_modules([str(PEERS)]):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"bench.peers.{info.name}")
        if hasattr(module, "contender"):
            found.append(module.contender(options))
    return sorted(found, key=lambda item: item.name)


def choose(names: Sequence[str], options: Options = Options()) -> list[Contender]:
    """Return the named contenders.

    Raises:
        ConfigError: no such contender.
    """
    known = registry(options)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"no contender {name!r}", field="--contender", remedy=f"one of {', '.join(known)}"
            )
    return [known[name] for name in dict.fromkeys(names)]


@contextlib.contextmanager
def carrying(item: Contender, cluster: Cluster) -> Iterator[None]:
    """Bring a contender up and wait until the containers reach each other.

    Raises:
        TimeoutError: they never did.
    """
    with item.up(cluster):
        one, other = cluster.containers
        wait_for_ping(one, other.address)
        yield
