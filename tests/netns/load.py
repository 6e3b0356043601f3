"""A mixed load between two containers while peers come and go, and what it does to the daemons.

Everything at once and in both directions: TCP as fast as it gets, numbered UDP datagrams of several
kinds of sizes, pings; meanwhile ten peers a second are added to the store and ten removed.
"""

from __future__ import annotations

import itertools
import re
import socket
import statistics
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

from bench.common import UDP_PORT, UdpResult, require_udp_tools, say, udp
from tunneld.lab import Cluster, Container, Daemon
from tunneld.lab.iperf import TcpResult, tcp

ROUND_S = 10
CHANGES_PER_S = 10
LIFE_STEPS = 10
"""A peer stays for so many steps of the churn: the store settles an edit for 50 ms."""

SIZES = (
    ("16-1400", 5000),
    ("12-4000", 4000),
    ("1200", 8000),
    ("64-127", 5000),
    ("1300-9000", 1500),
)
"""UDP payload and datagrams per second, one after the other; above 1444 they leave in fragments."""

PING_SIZES = (56, 1200, 3000)
PING = re.compile(r"(\d+) packets transmitted, (\d+) received(?:, \+(\d+) duplicates)?")


@dataclass(frozen=True)
class Pings:
    """What `ping` told about one round."""

    sent: int
    received: int
    duplicates: int


class Churn:
    """Ten times a second one peer is added to the store and the oldest one removed.

    A datagram goes to a peer that came a moment ago and to one that left a moment ago: the packet
    path counts the first as that peer's, the second as having no route, and so shows that it knows.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._alive: deque[tuple[str, Path]] = deque()
        self._gone: deque[str] = deque(maxlen=LIFE_STEPS)
        self._numbers = itertools.cycle(range(10, 210))
        self._sockets = [
            container.socket(socket.AF_INET, socket.SOCK_DGRAM) for container in cluster.containers
        ]
        self._due = time.monotonic()
        self.added = 0
        self.removed = 0

    def step(self) -> None:
        now = time.monotonic()
        self._due = max(self._due + 1 / CHANGES_PER_S, now)
        time.sleep(self._due - now)
        number = next(self._numbers)
        subnet = IPv4Network(f"100.96.{number}.0/24")
        path = self._cluster.reserve(subnet, f"10.168.0.{number}")
        self._alive.append((str(subnet[9]), path))
        self.added += 1
        if len(self._alive) > LIFE_STEPS:
            self._send_to(self._alive[0][0])
            self._remove()
            self._send_to(self._gone[0])

    def _remove(self) -> None:
        address, path = self._alive.popleft()
        path.unlink()
        self._gone.append(address)
        self.removed += 1

    def _send_to(self, address: str) -> None:
        for sock in self._sockets:
            sock.sendto(b"are you there", (address, 9))

    def close(self) -> None:
        """Remove the last peers."""
        while self._alive:
            self._remove()
        for sock in self._sockets:
            sock.close()


class Vitals:
    """Memory and descriptors of one daemon over time."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._began = time.monotonic()
        self._rss: list[tuple[float, int]] = []

    def sample(self) -> None:
        self._rss.append((time.monotonic() - self._began, self.rss_kb()))

    def rss_kb(self) -> int:
        text = Path(f"/proc/{self._daemon.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0])

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self._daemon.pid}/fd").iterdir()))

    def windows(self, length: float) -> list[int]:
        """Return the median RSS in kB of each whole window of so many seconds."""
        found: dict[int, list[int]] = defaultdict(list)
        for at, rss in self._rss:
            found[int(at // length)].append(rss)
        return [round(statistics.median(found[number])) for number in sorted(found)]


class MixedLoad:
    """All of it until the time is up; `run` raises the first error of any part.

    Args:
        cluster: two nodes whose daemons forward.
        seconds: how long.
    """

    def __init__(self, cluster: Cluster, seconds: float) -> None:
        require_udp_tools()
        self.seconds = seconds
        self.streams: list[TcpResult] = []
        self.datagrams: list[UdpResult] = []
        self.pings: list[Pings] = []
        self.churn = Churn(cluster)
        self.vitals = [Vitals(host.daemon) for host in cluster.nodes]
        self.reached: set[tuple[str, str]] = set()
        """(node, subnet) of peers of the churn that a daemon sent something to."""
        self._cluster = cluster
        self._errors: list[Exception] = []
        self._deadline = 0.0
        for container in cluster.containers:
            # IP ids come again after 16 s: what was lost must not be completed by a later fragment
            # of the same id (RFC 4963), which looks like a datagram that was overtaken.
            container.sysctl("net.ipv4.ipfrag_time", "1")

    def run(self) -> None:
        one, two = self._cluster.containers
        works: list[Callable[[], None]] = [self.churn.step, self._sample]
        for ends in ((one, two), (two, one)):
            works += [
                partial(self._stream, *ends),
                partial(self._send, iter(itertools.cycle(SIZES)), itertools.count(), *ends),
                partial(self._ping, iter(itertools.cycle(PING_SIZES)), *ends),
            ]
        began = time.monotonic()
        self._deadline = began + self.seconds
        threads = [threading.Thread(target=self._until_deadline, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(ROUND_S / len(threads))
            self._tell(time.monotonic() - began)
        self.churn.close()
        if self._errors:
            raise self._errors[0]

    def _until_deadline(self, work: Callable[[], None]) -> None:
        try:
            while time.monotonic() < self._deadline and not self._errors:
                work()
        except Exception as error:  # noqa: BLE001 - raised by run
            self._errors.append(error)

    def _round(self) -> int:
        return max(1, round(min(ROUND_S, self._deadline - time.monotonic())))

    def _stream(self, sender: Container, receiver: Container) -> None:
        self.streams.append(tcp(sender, receiver, receiver.address, seconds=self._round()))

    def _send(
        self,
        sizes: itertools.cycle[tuple[str, int]],
        seeds: itertools.count[int],
        sender: Container,
        receiver: Container,
    ) -> None:
        (size, pps), seed = next(sizes), next(seeds)
        port = UDP_PORT + seed % 100
        seconds = self._round()
        self.datagrams.append(
            udp(sender, receiver, size=size, seconds=seconds, pps=pps, seed=seed, port=port)
        )

    def _ping(self, sizes: itertools.cycle[int], sender: Container, receiver: Container) -> None:
        argv = ["ping", "-q", "-i", "0.1", "-c", str(10 * self._round()), "-W", "2"]
        argv += ["-s", str(next(sizes)), str(receiver.address)]
        said = sender.run(argv, check=False).stdout
        found = PING.search(said)
        assert found, said
        self.pings.append(Pings(*(int(figure or 0) for figure in found.groups())))

    def _sample(self) -> None:
        for host, vitals in zip(self._cluster.nodes, self.vitals, strict=True):
            vitals.sample()
            for peer in host.daemon.status()["peers"][1:]:
                if peer["tx_packets"]:
                    self.reached.add((host.name, peer["subnet"]))
        time.sleep(min(1.0, self.seconds / 50))

    def _tell(self, elapsed: float) -> None:
        gigabytes = sum(stream.bytes for stream in self.streams) / 1e9
        received = sum(result.received for result in self.datagrams)
        out_of_order = sum(result.reordered + result.duplicates for result in self.datagrams)
        sent, back = (sum(getattr(p, name) for p in self.pings) for name in ("sent", "received"))
        memory = ", ".join(f"{vitals.rss_kb() / 1024:.1f}" for vitals in self.vitals)
        fds = ", ".join(str(vitals.descriptors()) for vitals in self.vitals)
        say(
            f"soak {elapsed:.0f}/{self.seconds:.0f} s: TCP {gigabytes:.1f} GB, UDP {received:,}"
            f" datagrams ({out_of_order} out of order), pings {back}/{sent}, peers"
            f" +{self.churn.added} -{self.churn.removed}, RSS {memory} MiB, descriptors {fds}"
        )
