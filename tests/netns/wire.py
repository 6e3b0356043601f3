"""Real daemons between a real TUN and raw UDP peers.

    container-1 - docker0 - [flannel0] node1 [eth0] ---- switch ---- raw peers: node2, node3
                                daemon                               stranger

A peer without a daemon is a node whose lease is a reservation and on which the test itself holds
the UDP socket: it sends and sees bare payloads. Packets are put into the TUN byte for byte by a
packet socket, or by a raw IP socket in a container where the kernel's own forwarding matters.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Self

from tests.netns.waiting import until
from tunneld.lab import PORT, Capture, Cluster, ClusterNode, Daemon, Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

RUNGS = ("python", "syscall", "mmsg", "gso", "offload")
ETH_P_IP = 0x0800
SO_RCVBUFFORCE = 33
UDP_SEGMENT, SEGMENTS = 103, 64


class RawPeer:
    """A UDP socket on a node, from the tunnel's port unless another one is asked for."""

    def __init__(self, node: Node, address: IPv4Address | str, port: int = PORT) -> None:
        self.address = str(address)
        self._sock = node.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self._sock.bind((self.address, port))

    def send(self, to: IPv4Address | str, *payloads: bytes) -> None:
        for payload in payloads:
            self._sock.sendto(payload, (str(to), PORT))

    def send_segments(self, to: IPv4Address | str, payload: bytes, count: int) -> None:
        """Send one payload many times with as few calls as UDP_SEGMENT allows."""
        at_once = min(SEGMENTS, 65_000 // len(payload))
        self._sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, len(payload))
        for first in range(0, count, at_once):
            many = min(at_once, count - first)
            self._sock.sendto(payload * many, (str(to), PORT))
        self._sock.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 0)

    def receive(
        self, count: int = 1, *, timeout: float = 30.0
    ) -> list[tuple[bytes, tuple[str, int]]]:
        """Return the next `count` payloads with their sources.

        Raises:
            TimeoutError: there were fewer within `timeout` seconds.
        """
        received: list[tuple[bytes, tuple[str, int]]] = []
        deadline = time.monotonic() + timeout
        while len(received) < count:
            left = max(0, deadline - time.monotonic())
            if not select.select([self._sock], [], [], left)[0]:
                raise TimeoutError(f"{len(received)} of {count} datagrams at {self.address}")
            received.append(self._sock.recvfrom(65535))
        return received

    def payloads(self, count: int) -> list[bytes]:
        """Return the next `count` payloads."""
        return [payload for payload, _ in self.receive(count)]

    def waiting(self) -> list[bytes]:
        """Return what has arrived and was not received yet."""
        payloads = []
        while select.select([self._sock], [], [], 0)[0]:
            payloads.append(self._sock.recv(65535))
        return payloads

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()


@dataclass(frozen=True)
class Change:
    """What a daemon counted since the meter was made, without the zeros."""

    outbound: Counter[str]
    inbound: Counter[str]

    def icmp_sent(self) -> int:
        """ICMP errors that the daemon made, in both directions."""
        both = self.outbound + self.inbound
        return sum(n for name, n in both.items() if name.startswith("icmp_sent_"))


class Meter:
    """What a daemon counts from now on."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._before = at_rest(daemon)

    def after(self, *, outbound: int = 0, inbound: int = 0) -> Change:
        """Wait until that many more packets were read and all are accounted for."""

        def read() -> bool:
            now: dict[str, dict[str, int]] = self._daemon.status()["counters"]
            more = {d: now[d]["packets_read"] - self._before[d]["packets_read"] for d in self._ways}
            return more["outbound"] >= outbound and more["inbound"] >= inbound

        until(read, f"{outbound} packets read outbound, {inbound} inbound")
        now = at_rest(self._daemon)
        return Change(*(changes(self._before[way], now[way]) for way in self._ways))

    _ways = ("outbound", "inbound")


def changes(before: dict[str, int], now: dict[str, int]) -> Counter[str]:
    return Counter({name: n - before[name] for name, n in now.items() if n != before[name]})


def conserved(values: dict[str, int]) -> bool:
    drops = sum(n for name, n in values.items() if name.startswith("drop_"))
    return values["packets_read"] == values["packets_written"] + drops


def told(values: dict[str, int]) -> bool:
    """Whether each sender was told, or not, of what ended here; this is counted last."""
    quiet = values["icmp_suppressed"]
    return (
        values.get("drop_no_route", 0) <= values.get("icmp_sent_net_unreachable", 0) + quiet
        and values["drop_ttl_expired"] <= values["icmp_sent_time_exceeded"] + quiet
    )


def at_rest(daemon: Daemon) -> dict[str, dict[str, int]]:
    """Return the counters once nothing is on its way.

    Raises:
        AssertionError: read = written + dropped does not come true in some direction.
    """

    def resting() -> dict[str, dict[str, int]] | None:
        found: dict[str, dict[str, int]] = daemon.status()["counters"]
        ways = (found["outbound"], found["inbound"])
        return found if all(conserved(way) and told(way) for way in ways) else None

    return until(resting, f"conservation on {daemon.node.name}")


def assert_nothing_lost(daemon: Daemon) -> None:
    """Conservation, and no packet that the kernel dropped before the daemon could read it."""
    assert at_rest(daemon)["kernel"] == {"tun_queue_dropped": 0, "socket_dropped": 0}


def inject(node: Node, packets: Iterable[bytes], device: str = "flannel0") -> None:
    """Put packets into the TUN, byte for byte, as if the kernel had routed them there."""
    with node.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sock:
        for packet in packets:
            sock.sendto(packet, (device, ETH_P_IP, 0, 0, b""))


def send_raw(node: Node, *packets: bytes) -> None:
    """Send IP packets with the headers that they have; the kernel routes them."""
    with node.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for packet in packets:
            sock.sendto(packet, (str(IPv4Address(packet[16:20])), 0))


def written(capture: Capture, device: str = "flannel0") -> list[bytes]:
    """Return the packets that the daemon wrote to its TUN."""
    return [f.packet for f in capture.frames if f.interface == device and not f.outgoing]


@dataclass
class Wire:
    """A cluster of which some nodes run a daemon and the others are raw peers.

    Attributes:
        cluster: the nodes.
        peers: by node number, those without a daemon.
    """

    cluster: Cluster
    peers: dict[int, RawPeer]

    @property
    def one(self) -> ClusterNode:
        """Node 1."""
        return self.cluster.nodes[0]

    @property
    def two(self) -> ClusterNode:
        """Node 2."""
        return self.cluster.nodes[1]

    @contextlib.contextmanager
    def capture(self, *taps: tuple[ClusterNode, str]) -> Iterator[Capture]:
        """Capture; what the capture itself lost would prove nothing."""
        with Capture([(host.node, device) for host, device in taps]) as capture:
            yield capture
            assert capture.lost() == 0


@contextlib.contextmanager
def wire(
    *args: str,
    nodes: int = 2,
    daemons: Sequence[int] = (1,),
    setting: str = "sgro",
    shape: str = "switch",
    second_mtu: int = 1400,
    lossy: bool = False,
) -> Iterator[Wire]:
    """Make a cluster; at the end assert that each daemon still alive lost and forgot nothing.

    Args:
        args: further options of `tunneld run`.
        nodes: how many.
        daemons: numbers of the nodes that run one; the others are raw peers.
        setting: offloads of the underlay.
        shape: of the underlay.
        second_mtu: of the router's second link.
        lossy: the test takes the device away under traffic, which costs the kernel packets.
    """
    with (
        contextlib.ExitStack() as stack,
        Cluster(nodes=nodes, setting=setting, shape=shape, second_mtu=second_mtu) as cluster,
    ):
        peers = {}
        for host in cluster.nodes:
            if host.number in daemons:
                host.daemon.start(args)
            else:
                peers[host.number] = RawPeer(host.node, host.public_ip)
                stack.callback(peers[host.number].close)
        running = [host for host in cluster.nodes if host.number in daemons]
        for host in running:
            host.daemon.wait_ready()
            host.set_mtu(int(host.daemon.environment()["FLANNEL_MTU"]))
        for host in running:
            until(lambda host=host: len(host.daemon.status()["peers"]) == nodes - 1, "the peers")  # type: ignore[misc]
        yield Wire(cluster, peers)
        for host in running:
            if host.daemon.running:
                at_rest(host.daemon) if lossy else assert_nothing_lost(host.daemon)
