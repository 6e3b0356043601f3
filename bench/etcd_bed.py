"""A real daemon on a real etcd with many leases, and a packet that shows when a route is in force.

    container-1 -- docker0 [node1] flannel0 === eth0 ==== eth0 [stranger: etcd, UDP 8285]

The leases of the events bear the stranger's address. A datagram to such a subnet leaves the
container every half millisecond; the first one that reaches the stranger, encapsulated, has found
its route in the packet path. No word of the daemon is asked for that.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import threading
import time
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tunneld.errors import TunneldError
from tunneld.lab import Cluster
from tunneld.lab.etcd import EtcdServer, free_port
from tunneld.lab.etcd_http import EtcdGateway

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from tunneld.lab import Node

PREFIX = "/coreos.com/network"
NETWORK = IPv4Network("100.64.0.0/10")
CONFIG = json.dumps({"Network": str(NETWORK), "SubnetLen": 24})
STRANGER = "10.168.0.66"
PORT = 8285
HEALTH_PORT = 8080
PROBE_S = 0.0005
FIRST_EVENT = 12_000
"""Number of the subnet of the first event; below it are those of the other peers."""

_FAR = IPv4Address("172.16.0.0")
_GIVE_UP_S = 30.0


def subnet(number: int) -> IPv4Network:
    """Return one of the /24s of the network."""
    return IPv4Network((int(NETWORK.network_address) + (number << 8), 24))


def lease(number: int, public_ip: str) -> tuple[str, str]:
    """Return key and value as flannel writes them."""
    key = str(subnet(number)).replace("/", "-")
    return f"{PREFIX}/subnets/{key}", f'{{"PublicIP":"{public_ip}","PublicIPv6":null}}'


def crowd(count: int, shift: int = 0) -> dict[str, str]:
    """Return the leases of so many peers that nobody sends to, each with an address of its own."""
    own = IPv4Network("100.96.1.0/24")
    numbers = [number for number in range(1, FIRST_EVENT) if subnet(number) != own][:count]
    return dict(lease(number, str(_FAR + number + shift)) for number in numbers)


class Answers:
    """Asks /healthz again and again while the block runs: the event loop must answer at once.

    Args:
        node: where the daemon runs.

    Attributes:
        waits: (`time.monotonic()` of the question, seconds until the answer).
    """

    def __init__(self, node: Node) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: node.call(self._ask), name="healthz")
        self.waits: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def longest(self, since: float = 0.0) -> float:
        """Return the longest wait for an answer to a question since then, milliseconds."""
        return max((wait for at, wait in self.waits if at + wait >= since), default=0.0) * 1e3

    def _ask(self) -> None:
        while not self._stop.wait(0.001):
            with socket.socket() as sock:
                sock.settimeout(_GIVE_UP_S)
                began = time.monotonic()
                sock.connect(("127.0.0.1", HEALTH_PORT))
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
                sock.recv(4096)
                self.waits.append((began, time.monotonic() - began))


class EtcdBed:
    """One node with its daemon, an etcd on another host, and the packet that looks for routes.

    Attributes:
        host: the node.
        etcd: the server.
        gateway: writes to it.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            cluster = stack.enter_context(Cluster(nodes=1))
            (self.host,) = cluster.nodes
            self._wire = cluster.stranger()
            self._directory = cluster.lab.directory / "etcd"
            self.etcd = stack.enter_context(self._server(free_port()))
            self.gateway = EtcdGateway(self.etcd.url, self._wire)
            stack.callback(self.gateway.close)
            self.gateway.put(f"{PREFIX}/config", CONFIG)
            self.host.daemon.use_etcd(self.etcd.url, self.host.subnet)
            self._probe = self.host.container.socket(socket.AF_INET, socket.SOCK_DGRAM)
            stack.callback(self._probe.close)
            self._sink = self._wire.socket(socket.AF_INET, socket.SOCK_DGRAM)
            stack.callback(self._sink.close)
            self._sink.bind((STRANGER, PORT))
            self._sink.setblocking(False)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _server(self, port: int) -> EtcdServer:
        return EtcdServer(self._directory, host=STRANGER, node=self._wire, port=port)

    def start(self) -> None:
        """Start the daemon, and return when it is ready."""
        self.host.daemon.start(["--healthz-port", str(HEALTH_PORT)])
        self.host.daemon.wait_ready(60)

    def answers(self) -> Answers:
        """Return what asks the daemon's health port."""
        return Answers(self.host.node)

    def event(self, number: int) -> float:
        """Put one lease; returns the seconds from before the request until a packet arrived."""
        began = time.monotonic()
        self.gateway.begin_put(*lease(number, STRANGER))
        arrived = self.wait_for_route(number)
        self.gateway.finish()
        return arrived - began

    def forget(self, number: int) -> None:
        """Delete the lease of an event."""
        self.gateway.delete(lease(number, STRANGER)[0])

    def wait_for_route(self, number: int) -> float:
        """Send until a packet arrives; returns `time.monotonic()` of that.

        Raises:
            TunneldError: none did within half a minute.
        """
        to = str(subnet(number)[9])
        wanted = IPv4Address(to).packed
        deadline = time.monotonic() + _GIVE_UP_S
        while time.monotonic() < deadline:
            # The error is the answer to an earlier one: there was no route yet.
            with contextlib.suppress(OSError):
                self._probe.sendto(struct.pack("d", time.monotonic()), (to, 9))
            if select.select([self._sink], [], [], PROBE_S)[0]:
                arrived = time.monotonic()
                if self._sink.recv(2048)[16:20] == wanted:
                    return arrived
        raise TunneldError(f"no packet came through to {to}: {self.host.daemon.tail(5)}")

    def change_unseen(self, change: Callable[[EtcdGateway], None]) -> float:
        """Stop etcd, change its content where the daemon cannot see it, start it again.

        Returns:
            `time.monotonic()` of the moment at which etcd was started again.
        """
        self.gateway.close()
        self.etcd.kill()
        with self._server(free_port()) as elsewhere:
            gateway = EtcdGateway(elsewhere.url, self._wire)
            with contextlib.closing(gateway):
                change(gateway)
        began = time.monotonic()
        self.etcd.start()
        return began

    def memory(self) -> float:
        """Return the most memory that the daemon has ever had resident, megabytes."""
        text = Path(f"/proc/{self.host.daemon.pid}/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) * 1024 / 1e6
