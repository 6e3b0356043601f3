"""What lessons measure: one TCP stream, a burst of pings, what the daemons count meanwhile."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunneld.lab import iperf, machine

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address

    from tunneld.demo.story import Story
    from tunneld.lab import Container, Daemon, Node


@dataclass(frozen=True, slots=True)
class Load:
    """One TCP stream.

    Attributes:
        gbps: gigabits per second of payload.
        bytes: payload in all.
        cpu_s_per_gb: CPU seconds of the whole machine for a gigabyte.
    """

    gbps: float
    bytes: int
    cpu_s_per_gb: float


@dataclass(frozen=True, slots=True)
class PathCalls:
    """What daemons have counted themselves on the way of the packets.

    Attributes:
        calls: system calls: for packets from and to the TUN and the socket, and the waits.
        packets: that were sent to a peer: data, acknowledgements, everything.
    """

    calls: int = 0
    packets: int = 0

    @classmethod
    def of(cls, daemons: Iterable[Daemon]) -> PathCalls:
        """Read them now, summed up."""
        calls = packets = 0
        for daemon in daemons:
            counters = daemon.status()["counters"]
            packets += counters["outbound"]["packets_written"]
            calls += sum(
                value
                for words in counters.values()
                for name, value in words.items()
                if name.startswith("syscalls_")
            )
        return cls(calls, packets)

    def per_packet_since(self, before: PathCalls) -> float:
        """Return the calls of all daemons together for a packet since then; 0.0: none was sent."""
        packets = self.packets - before.packets
        return (self.calls - before.calls) / packets if packets else 0.0


def doubt() -> str:
    """Return a sentence if something else has kept this machine's CPUs busy lately; else ""."""
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    if load <= cpus:
        return ""
    return (
        f" Before this lesson began {load:.1f} programs at a time wanted the {cpus} CPUs here (load"
        " average of a minute): if they still do, the figures are theirs as much as the tunnel's."
    )


def tcp(story: Story, client: Container, server: Container, seconds: int) -> Load:
    """Run iperf3 from one container to another, showing command, progress and result.

    Raises:
        CommandError: no traffic gets through.
    """
    serve = "iperf3 -s &"
    if not any(block.host == server.name and block.text == serve for block in story.blocks):
        # Once a lesson: for who types the commands later.
        story.command(server.name, serve)
    story.command(client.name, " ".join(iperf.client_command(server.address, seconds)))

    def show(elapsed: float, gbps: float) -> None:
        story.progress(elapsed, seconds, f"{elapsed:3.1f} s  {gbps:5.2f} Gb/s")

    show(0.0, 0.0)
    before = machine.cpu_seconds()
    result = iperf.tcp(client, server, server.address, seconds=seconds, progress=show)
    cpu = (machine.cpu_seconds() - before) / max(result.bytes / 1e9, 1e-9)
    story.progress_done(
        f"{result.gbps:.2f} Gb/s, {result.bytes / 1e9:.2f} GB,"
        f" {cpu:.1f} s of CPU per GB (whole machine)"
    )
    return Load(result.gbps, result.bytes, cpu)


def rtt_us(client: Node, address: IPv4Address) -> float:
    """Return the mean round trip of 50 pings, microseconds; nan: none came back."""
    argv = ["ping", "-q", "-c", "50", "-i", "0.005", str(address)]
    match = re.search(r"= [\d.]+/([\d.]+)/", client.run(argv, check=False).stdout)
    return float(match[1]) * 1e3 if match else float("nan")
