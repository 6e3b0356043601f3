"""The packet path in plain Python: rung `python`, and the oracle that the C engine is held to.

Read this file to learn what a tunnel does; csrc/outbound.c and csrc/inbound.c do the same, faster.

Outbound, overlay -> underlay:
  1. A container's packet was routed to the TUN. The event loop says so, `_tun_readable` reads it:
     the packet comes up from the kernel.
  2. `decide_outbound` looks at it: is it IPv4, whose subnet holds its destination, may it travel
     one hop further, does it fit? The answer is a `Verdict`; nothing has happened yet.
  3. Forwarded: the packet, its TTL one smaller, becomes the whole payload of a datagram to the
     peer (`_send`): it goes down into the kernel again, this time as UDP.
     Dropped: one counter says why, and where the rules allow it an ICMP error goes to the TUN.

Inbound, underlay -> overlay, is the mirror image:
  4. A datagram reached the socket: `_udp_readable` takes it.
  5. `decide_inbound` trusts nothing in it: the sender must be a peer, the inner source must be
     that peer's, the inner destination must be ours.
  6. Forwarded: the payload goes to the TUN, and the kernel routes it to the container's bridge.
     Dropped: counted; an expired TTL is reported to the sender by a datagram back to the peer.

Each packet costs two system calls, is copied in each of them, and waits for the event loop: that
is what the rungs above this one save.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from typing import TYPE_CHECKING

from tunneld.dataplane import DataplaneCounters, PeerCounters, RouteSnapshot
from tunneld.dataplane.admission import Peer, Table, Verdict, decide_inbound, decide_outbound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from ipaddress import IPv4Network

PACKET_MAX = 65536
TURN_BUDGET = 64
"""Packets that one direction moves before the event loop may do something else."""

_VOLUME = (
    "packets_read bytes_read packets_written bytes_written superpackets_read superpackets_written "
    "syscalls_read syscalls_written syscalls_poll"
)
_BATCHES = " ".join(
    f"batch_{operation}_{most}"
    for operation in ("read", "written")
    for most in (0, *(1 << power for power in range(13)), "more")
)
_INVALID = "drop_too_short drop_not_ipv4 drop_bad_header_length drop_bad_length drop_bad_checksum"
OUTBOUND_COUNTERS = tuple(
    f"{_VOLUME} icmp_sent_net_unreachable icmp_sent_time_exceeded icmp_sent_fragmentation_needed "
    f"icmp_suppressed {_INVALID} drop_own_subnet drop_own_peer drop_no_route drop_ttl_expired "
    f"drop_too_big drop_send_failed drop_stopped {_BATCHES}".split()
)
INBOUND_COUNTERS = tuple(
    f"{_VOLUME} icmp_sent_time_exceeded icmp_suppressed {_INVALID} drop_truncated "
    "drop_outer_source drop_outer_port drop_own_source drop_spoofed_source drop_martian_source "
    "drop_outside_source drop_foreign_destination drop_ttl_expired drop_write_failed "
    f"{_BATCHES}".split()
)


def _with_batches(counters: Mapping[str, int]) -> dict[str, int]:
    """Add the system calls by the packets that they moved: here one each, or none."""
    made = dict(counters)
    for operation in ("read", "written"):
        made[f"batch_{operation}_1"] = packets = made[f"packets_{operation}"]
        made[f"batch_{operation}_0"] = made[f"syscalls_{operation}"] - packets
    return made


class TokenBucket:
    """A rate limit: `rate` tokens a second, and no more than `rate` saved up. It starts full.

    Args:
        rate: tokens per second; 0 never gives one.
        clock: seconds, monotonic.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._tokens = float(rate)
        self._last = clock()

    def take(self) -> bool:
        """Take one token if there is one."""
        now = self._clock()
        self._tokens = min(float(self._rate), self._tokens + (now - self._last) * self._rate)
        self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Reference:
    """The packet path on an asyncio event loop; see `tunneld.dataplane.Dataplane`.

    Args:
        tun_fd: a non-blocking TUN (or any descriptor that keeps packets apart), borrowed.
        udp_fd: a bound UDP socket, borrowed.
        snapshot: the first routes.
        icmp_rate: ICMP errors per second and direction.
    """

    def __init__(
        self, *, tun_fd: int, udp_fd: int, snapshot: RouteSnapshot, icmp_rate: int = 100
    ) -> None:
        self._tun_fd = tun_fd
        self._udp_fd = udp_fd
        self._table = Table(snapshot)
        self._out = dict.fromkeys(OUTBOUND_COUNTERS, 0)
        self._in = dict.fromkeys(INBOUND_COUNTERS, 0)
        self._out_bucket = TokenBucket(icmp_rate)
        self._in_bucket = TokenBucket(icmp_rate)
        self._waiting: tuple[bytes, Peer] | None = None
        self._running = False
        self._udp: socket.socket
        self._loop: asyncio.AbstractEventLoop
        self._on_exit: Callable[[OSError | None], None]

    @property
    def rung(self) -> str:
        """The rung that runs."""
        return "python"

    @property
    def threads(self) -> int:
        """No thread of its own: packets move in the event loop."""
        return 0

    def start(self, on_exit: Callable[[OSError | None], None]) -> None:
        """Begin to forward; see `Dataplane.start`."""
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        # Python's socket methods on the borrowed descriptor; `_finish` gives it back open.
        self._udp = socket.socket(fileno=self._udp_fd)
        self._running = True
        self._loop.add_reader(self._tun_fd, self._tun_readable)
        self._loop.add_reader(self._udp_fd, self._udp_readable)

    def publish(self, snapshot: RouteSnapshot) -> None:
        """Swap the whole snapshot between two packets."""
        table = Table(snapshot)
        for subnet, old in self._table.peers.items():
            new = table.peers.get(subnet)
            if new is not None and new.public_ip == old.public_ip:
                new.counters = old.counters
        self._table = table

    def counters(self) -> DataplaneCounters:
        """Read all counters."""
        return DataplaneCounters(_with_batches(self._out), _with_batches(self._in))

    def peer_counters(self) -> Mapping[IPv4Network, PeerCounters]:
        """Read the counters of each route of the current snapshot."""
        return {
            subnet: PeerCounters(c.tx_packets, c.tx_bytes, c.rx_packets, c.rx_bytes)
            for subnet, c in ((subnet, peer.counters) for subnet, peer in self._table.peers.items())
        }

    def gauges(self) -> Mapping[str, int | bool | str]:
        """Return the effective packets per system call."""
        return {"batch": 1}

    async def stop(self) -> None:
        """End the path; afterwards nobody touches the descriptors. Idempotent."""
        self._finish(None)

    # Steps 1 to 3: outbound.

    def _tun_readable(self) -> None:
        """Move packets from the TUN until it is empty or the budget is spent."""
        self._out["syscalls_poll"] += 1
        for _ in range(TURN_BUDGET):
            self._out["syscalls_read"] += 1
            try:
                packet = os.read(self._tun_fd, PACKET_MAX)
            except OSError as error:
                # EIO: the device is down and may come up again. A deleted one gives EBADFD.
                if error.errno not in (errno.EAGAIN, errno.EIO):
                    self._finish(OSError(errno.ENODEV, os.strerror(errno.ENODEV)))
                return
            if not packet:
                self._finish(OSError(errno.ENODEV, os.strerror(errno.ENODEV)))
                return
            verdict = decide_outbound(packet, self._table)
            self._out["packets_read"] += 1
            self._out["bytes_read"] += verdict.length
            if verdict.peer is None:
                self._drop_outbound(verdict)
            elif not self._send(verdict.packet, verdict.peer):
                self._wait_for_socket(verdict.packet, verdict.peer)
                return

    def _send(self, packet: bytes, peer: Peer) -> bool:
        """Make a packet the payload of a datagram to its peer; False: the socket is full now."""
        self._out["syscalls_written"] += 1
        try:
            self._udp.sendto(packet, socket.MSG_DONTWAIT, peer.endpoint)
        except BlockingIOError:
            return False
        except OSError:
            self._out["drop_send_failed"] += 1
            return True
        self._out["packets_written"] += 1
        self._out["bytes_written"] += len(packet)
        peer.counters.tx_packets += 1
        peer.counters.tx_bytes += len(packet)
        return True

    def _wait_for_socket(self, packet: bytes, peer: Peer) -> None:
        """Keep a packet until the socket takes it; those behind it wait in the TUN's queue."""
        self._waiting = packet, peer
        self._loop.remove_reader(self._tun_fd)
        self._loop.add_writer(self._udp_fd, self._udp_writable)

    def _udp_writable(self) -> None:
        """Send the packet that waited, then read the TUN again."""
        self._out["syscalls_poll"] += 1
        if self._waiting is None or not self._send(*self._waiting):
            return
        self._waiting = None
        self._loop.remove_writer(self._udp_fd)
        self._loop.add_reader(self._tun_fd, self._tun_readable)

    def _drop_outbound(self, verdict: Verdict) -> None:
        """Count a packet that ends here and tell its sender, through the TUN."""
        self._out[verdict.drop] += 1
        if verdict.answer is None:
            return
        counter, error = verdict.answer
        if not error or not self._out_bucket.take() or not self._write_tun(error):
            counter = "icmp_suppressed"
        self._out[counter] += 1

    # Steps 4 to 6: inbound.

    def _udp_readable(self) -> None:
        """Move datagrams from the socket until it is empty or the budget is spent."""
        self._in["syscalls_poll"] += 1
        for _ in range(TURN_BUDGET):
            self._in["syscalls_read"] += 1
            try:
                datagram, source = self._udp.recvfrom(PACKET_MAX, socket.MSG_DONTWAIT)
            except OSError:
                return
            verdict = decide_inbound(datagram, source, self._table)
            self._in["packets_read"] += 1
            self._in["bytes_read"] += verdict.length
            if verdict.drop:
                self._drop_inbound(verdict, source)
            else:
                self._deliver(verdict)

    def _deliver(self, verdict: Verdict) -> None:
        """Write an admitted packet to the TUN."""
        self._in["syscalls_written"] += 1
        if not self._write_tun(verdict.packet):
            self._in["drop_write_failed"] += 1
            return
        self._in["packets_written"] += 1
        self._in["bytes_written"] += verdict.length
        if verdict.peer is not None:
            verdict.peer.counters.rx_packets += 1
            verdict.peer.counters.rx_bytes += verdict.length

    def _drop_inbound(self, verdict: Verdict, source: tuple[str, int]) -> None:
        """Count a datagram that ends here and tell its inner sender, by way of the peer.

        Not through the TUN: with ip_forward off the kernel would not route the error back.
        """
        self._in[verdict.drop] += 1
        if verdict.answer is None:
            return
        counter, error = verdict.answer
        if not error or not self._in_bucket.take() or not self._send_error(error, source):
            counter = "icmp_suppressed"
        self._in[counter] += 1

    def _send_error(self, error: bytes, source: tuple[str, int]) -> bool:
        """Send an ICMP error as a bare packet in a datagram; whether the socket took it."""
        try:
            return self._udp.sendto(error, socket.MSG_DONTWAIT, source) == len(error)
        except OSError:
            return False

    def _write_tun(self, packet: bytes) -> bool:
        """Write one packet to the TUN; whether it took all of it."""
        try:
            return os.write(self._tun_fd, packet) == len(packet)
        except OSError:
            return False

    # Both directions.

    def _finish(self, error: OSError | None) -> None:
        """Let go of the descriptors and report, once; what still waited is counted."""
        if not self._running:
            return
        self._running = False
        self._loop.remove_reader(self._tun_fd)
        self._loop.remove_reader(self._udp_fd)
        self._loop.remove_writer(self._udp_fd)
        self._udp.detach()
        if self._waiting is not None:
            self._waiting = None
            self._out["drop_stopped"] += 1
        self._on_exit(error)
