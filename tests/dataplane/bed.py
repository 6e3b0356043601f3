"""The test bed of the packet path: everything around one engine, on loopback, without privileges.

   test's end                                         peers, all on the port of the engine's socket
  +----------+  socketpair  +--------+      UDP      +-- 127.0.0.2  100.96.2.0/24
  | "kernel" |--------------| engine |---------------+-- 127.0.0.3  100.96.3.0/24
  +----------+ tun   tun_fd +--------+ 127.0.0.1     +-- 127.0.0.4  for tests
   100.96.1.0/24                                     +-- 127.0.0.9  stranger: no lease
                                                     +-- 127.0.0.2, another port: masqueraded

An AF_UNIX SOCK_SEQPACKET pair stands for the TUN: like it, it keeps packets apart, is polled, and
reads and writes one packet per call; on rung offload behind a vnet header. The real TUN is used in
tests/netns. Tests wait for states:
`send_*` return once every packet has been counted and everything that was written has arrived.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from tests.dataplane.superpackets import cut_frame, to_frame
from tunneld.dataplane import Route, RouteSnapshot
from tunneld.dataplane.engine import Engine
from tunneld.dataplane.probe import segment_limit
from tunneld.dataplane.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tunneld.dataplane import Dataplane

RUNGS = ("python", "syscall", "mmsg", "gso", "offload")
HOST = "127.0.0.1"
PEER2, PEER3, PEER4, STRANGER = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.9"
SNAPSHOT = RouteSnapshot(
    network=IPv4Network("100.96.0.0/16"),
    subnet=IPv4Network("100.96.1.0/24"),
    tun_address=IPv4Address("100.96.1.0"),
    mtu=1472,
    port=8285,
    routes=(
        Route(IPv4Network("100.96.2.0/24"), IPv4Address(PEER2)),
        Route(IPv4Network("100.96.3.0/24"), IPv4Address(PEER3)),
    ),
    own_addresses=frozenset(
        IPv4Address(a) for a in (HOST, "100.96.1.0", "100.96.1.1", "10.168.0.2")
    ),
)
DEADLINE_S = 30.0
MAX_SEGMENTS = segment_limit() or 1
CHUNK_PACKETS = 64
CHUNK_BYTES = 64_000
SO_MEMINFO = 55
UDP_GRO = 104
CLONE_NEWNET = 0x40000000

# Drops that are answered by an ICMP error or counted as suppressed, in either direction.
ANSWERED = ("drop_no_route", "drop_ttl_expired", "drop_too_big")


def open_sockets(host: str, others: Sequence[str], port: int = 0) -> dict[str, socket.socket]:
    """Bind one non-blocking UDP socket per address, all to one port (0: a free one)."""
    while True:
        opened: dict[str, socket.socket] = {}
        wanted = port
        try:
            for address in (host, *others):
                opened[address] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                opened[address].setblocking(False)
                opened[address].bind((address, wanted))
                wanted = opened[address].getsockname()[1]
        except OSError:
            for sock in opened.values():
                sock.close()
            if port:
                raise
        else:
            return opened


def open_sockets_apart(
    host: str, others: Sequence[str], port: int = 0, *, rate: str = ""
) -> dict[str, socket.socket]:
    """The same in a network namespace without a name, whose loopback has these addresses.

    It lives as long as the sockets do, so nothing is left behind. Needs CAP_SYS_ADMIN. With a
    `rate` (as tc writes it) its loopback is so slow that a socket's send buffer can fill up.
    """
    results: list[dict[str, socket.socket]] = []

    def inside() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for address in (host, *others):
            subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
        if rate:
            tbf = ["root", "tbf", "rate", rate, "burst", "3000", "limit", "1000000"]
            subprocess.run(["tc", "qdisc", "add", "dev", "lo", *tbf], check=True)
        results.append(open_sockets(host, others, port))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    return results[0]


@dataclass
class Outcome:
    """What became of the packets of one `send_*`.

    Attributes:
        tun: packets that came out of the TUN.
        datagrams: payloads that reached each address.
        outbound: changes of the counters, without the zeros.
        inbound: likewise.
    """

    tun: list[bytes] = field(default_factory=list)
    datagrams: dict[str, list[bytes]] = field(default_factory=dict)
    outbound: Counter[str] = field(default_factory=Counter)
    inbound: Counter[str] = field(default_factory=Counter)


class Bed:
    """One engine of one rung with everything around it; `open_bed` of conftest.py makes them."""

    def __init__(
        self,
        rung: str,
        *,
        snapshot: RouteSnapshot = SNAPSHOT,
        icmp_rate: int = 1_000_000,
        sockets: dict[str, socket.socket] | None = None,
        threads: str = "1",
    ) -> None:
        self.vnet = rung == "offload"
        self.sockets = sockets or open_sockets(HOST, (PEER2, PEER3, PEER4, STRANGER))
        self.engine_socket = self.sockets.pop(next(iter(self.sockets)))
        self.port: int = self.engine_socket.getsockname()[1]
        self.masqueraded = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.masqueraded.setblocking(False)
        if PEER2 in self.sockets:
            self.masqueraded.bind((PEER2, 0))
            self.sockets["masqueraded"] = self.masqueraded
        self.tun, self.tun_fd = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.tun.setblocking(False)
        self.tun_fd.setblocking(False)
        if rung in ("gso", "offload"):
            self.engine_socket.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
        self.snapshot = replace(snapshot, port=self.port)
        self.exits: list[OSError | None] = []
        self.fed = Counter[str]()
        tun_fd, udp_fd = self.tun_fd.fileno(), self.engine_socket.fileno()
        self.engine: Dataplane
        if rung == "python":
            self.engine = Reference(
                tun_fd=tun_fd, udp_fd=udp_fd, snapshot=self.snapshot, icmp_rate=icmp_rate
            )
        else:
            self.engine = Engine(
                tun_fd=tun_fd,
                udp_fd=udp_fd,
                snapshot=self.snapshot,
                rung=rung,
                icmp_rate=icmp_rate,
                threads=threads,
                uso=True,
                max_segments=MAX_SEGMENTS,
            )

    def start(self) -> None:
        self.engine.start(self.exits.append)

    def publish(self, **changes: object) -> None:
        """Publish the snapshot with some fields changed."""
        self.snapshot = replace(self.snapshot, **changes)  # type: ignore[arg-type]
        self.engine.publish(self.snapshot)

    async def wait_for(self, state: Callable[[], bool], what: str) -> None:
        """Wait until `state` holds; fails with the counters after `DEADLINE_S` seconds."""
        deadline = time.monotonic() + DEADLINE_S
        turns = 0
        while not state():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for {what}: {self.engine.counters()}")
            turns += 1
            await asyncio.sleep(0 if turns < 100 else 0.001)

    def at_rest(self) -> bool:
        """Whether all that was fed is counted to the end: read, written or dropped, answered."""
        counters = self.engine.counters()
        return all(
            values["packets_read"] == self.fed[direction]
            and values["packets_read"] == values["packets_written"] + total(values, "drop_")
            and sum(values.get(name, 0) for name in ANSWERED) == total(values, "icmp_")
            for direction, values in (
                ("outbound", counters.outbound),
                ("inbound", counters.inbound),
            )
        )

    async def send_tun(self, *packets: bytes) -> Outcome:
        """Let the kernel route packets to the TUN."""
        return await self._send("outbound", packets, self.feed)

    def feed(self, packet: bytes) -> int:
        """Put one packet into the TUN's queue; neither waits nor counts."""
        return self.tun.send(to_frame(packet) if self.vnet else packet)

    def drain_tun(self) -> list[bytes]:
        """Everything that waits in the TUN now, as the packets that the kernel makes of it."""
        frames = drain(self.tun)
        return [packet for frame in frames for packet in cut_frame(frame)] if self.vnet else frames

    async def send_udp(self, sender: str, *datagrams: bytes) -> Outcome:
        """Let the socket at an address send datagrams to the engine's socket."""
        sock, to = self.sockets[sender], self.engine_socket.getsockname()
        return await self._send("inbound", datagrams, lambda datagram: sock.sendto(datagram, to))

    async def _send(
        self, direction: str, packets: Sequence[bytes], send: Callable[[bytes], int]
    ) -> Outcome:
        """Feed packets in chunks that no queue drops; collect what comes out."""
        before = self.engine.counters()
        outcome = Outcome(datagrams={name: [] for name in self.sockets})
        chunk: list[bytes] = []
        for index, packet in enumerate(packets):
            chunk.append(packet)
            size = sum(map(len, chunk))
            last = index == len(packets) - 1
            if not last and len(chunk) < CHUNK_PACKETS and size < CHUNK_BYTES:
                continue
            for one in chunk:
                send(one)
            self.fed[direction] += len(chunk)
            chunk.clear()
            await self._collect(before.outbound, before.inbound, outcome)
        after = self.engine.counters()
        outcome.outbound = changes(before.outbound, after.outbound)
        outcome.inbound = changes(before.inbound, after.inbound)
        return outcome

    async def _collect(
        self, outbound: dict[str, int], inbound: dict[str, int], outcome: Outcome
    ) -> None:
        """Wait until the counters rest and what they say was written has arrived."""
        await self.wait_for(self.at_rest, "counters at rest")
        now = self.engine.counters()
        new_out, new_in = changes(outbound, now.outbound), changes(inbound, now.inbound)
        to_tun = new_in["packets_written"] + total(new_out, "icmp_sent_")
        to_peers = new_out["packets_written"] + total(new_in, "icmp_sent_")

        def arrived() -> bool:
            outcome.tun += self.drain_tun()
            for name, sock in self.sockets.items():
                outcome.datagrams[name] += drain(sock)
            peers = sum(map(len, outcome.datagrams.values()))
            return len(outcome.tun) >= to_tun and peers >= to_peers

        await self.wait_for(arrived, f"{to_tun} packets at the TUN, {to_peers} at the peers")

    async def close(self) -> None:
        """Stop, and assert what must hold after every test: nothing lost, nothing uncounted."""
        try:
            if not self.exits:
                await self.wait_for(self.at_rest, "counters at rest at the end of the test")
            await self.engine.stop()
            assert len(self.exits) == 1
            assert_conserved(self.engine)
            assert socket_dropped(self.engine_socket) == 0
        finally:
            await self.engine.stop()
            for sock in (self.tun, self.tun_fd, self.engine_socket, self.masqueraded):
                sock.close()
            for sock in self.sockets.values():
                sock.close()


def assert_conserved(engine: Dataplane) -> None:
    """Packets read = packets written + the sum of the drop counters, in each direction.

    And each system call that moves packets is in one bucket, one where its packets belong.
    """
    counters = engine.counters()
    for values in (counters.outbound, counters.inbound):
        assert values["packets_read"] == values["packets_written"] + total(values, "drop_")
        for operation in ("read", "written"):
            buckets = f"batch_{operation}_"
            assert total(values, buckets) == values[f"syscalls_{operation}"]
            assert values[f"{buckets}more"] == 0
            most = {n: values[f"{buckets}{n}"] for n in (0, *(1 << power for power in range(13)))}
            packets = values[f"packets_{operation}"]
            assert sum((n // 2 + (n > 0)) * calls for n, calls in most.items()) <= packets
            assert packets <= sum(n * calls for n, calls in most.items())


def total(values: dict[str, int], prefix: str) -> int:
    """Sum of the counters whose names begin so."""
    return sum(value for name, value in values.items() if name.startswith(prefix))


def changes(before: dict[str, int], after: dict[str, int]) -> Counter[str]:
    """What was counted between two readings, without the zeros."""
    return Counter({name: n - before[name] for name, n in after.items() if n != before[name]})


def drain(sock: socket.socket) -> list[bytes]:
    """Everything that waits in a socket now."""
    packets = []
    while True:
        try:
            packets.append(sock.recv(65536))
        except BlockingIOError:
            return packets


def socket_dropped(sock: socket.socket) -> int:
    """Datagrams that the kernel dropped before the engine could read them."""
    (dropped,) = struct.unpack_from("=I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36), 32)
    return int(dropped)


def resident_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - read often
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
