"""How long the tunnel is away after somebody breaks it, and what leaks meanwhile.

One datagram a millisecond goes from container-1 to container-2 while node 1's device is deleted,
set down, stripped of its address or route, and its daemon killed. The outage is the longest time
without an arrival, fault included. All the while both eth0 are watched for packets whose
destination lies in the Network and that are not encapsulated: there must be none.

    python -m bench repair --times 20
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench import common
from bench.common import Spread
from bench.flow import Flow
from tunneld.lab import NETWORK, Capture, Cluster, wait_for_ping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunneld.lab import Frame

DEVICE = "flannel0"
BAR_MS = 500.0
BAR_CPU = 0.05
ICMP_REDIRECT = 5

FAULTS: dict[str, tuple[str, ...]] = {
    "ip link del flannel0": ("ip link del flannel0",),
    "ip link set flannel0 down": ("ip link set flannel0 down",),
    "the same, and up again": ("ip link set flannel0 down", "ip link set flannel0 up"),
    "ip address flush dev flannel0": ("ip address flush dev flannel0",),
    "ip route del of the Network": (f"ip route del {NETWORK} dev flannel0",),
}


@dataclass(slots=True)
class Report:
    """What was measured.

    Attributes:
        outages: fault -> milliseconds, one per repetition.
        cpu_while_gone: share of one CPU that the daemon used while it could not repair.
        leaked: packets seen on an eth0 that should have been in the tunnel.
        bounced: packets for the own subnet that came back into flannel0 while docker0 was down.
        redirects: ICMP redirects seen meanwhile.
    """

    outages: dict[str, list[float]] = field(default_factory=dict)
    cpu_while_gone: float = 0.0
    leaked: int = 0
    bounced: int = 0
    redirects: int = 0

    @property
    def passed(self) -> bool:
        """Whether every bar is met."""
        worst = max(value for values in self.outages.values() for value in values)
        clean = not (self.leaked or self.bounced or self.redirects)
        return worst <= BAR_MS and self.cpu_while_gone < BAR_CPU and clean


class Bench:
    """One cluster with daemons, and the faults that are done to it."""

    def __init__(self, cluster: Cluster, flow: Flow, dataplane: str) -> None:
        self.cluster = cluster
        self.host, self.peer = cluster.nodes
        self.flow = flow
        self.dataplane = dataplane

    def steady(self) -> None:
        """Wait until traffic flows."""
        self.flow.wait_for_arrivals(50, after=time.monotonic())

    def fault(self, commands: Sequence[str]) -> float:
        """Break something and return the outage in milliseconds."""
        self.steady()
        before = time.monotonic()
        for command in commands:
            self.host.node.run(command.split())
        self.flow.wait_for_arrivals(20, after=time.monotonic())
        return self.flow.gap(before) * 1e3

    def kill(self) -> float:
        """Kill the daemon, let traffic hit the wall, start it; milliseconds from start to traffic.

        A service manager restarts it after a pause of its own, which is not ours to measure.
        """
        self.steady()
        self.host.daemon.kill()
        self.flow.wait_sent(300)
        started = time.monotonic()
        self.host.daemon.start(["--dataplane", self.dataplane])
        self.host.daemon.wait_ready()
        return (self.flow.wait_for_arrivals(after=started) - started) * 1e3

    def squat(self, seconds: float) -> float:
        """Take the device away and its name too; return the daemon's share of a CPU meanwhile."""
        self.steady()
        # Stopped meanwhile: it would have its device back before the name is taken.
        os.kill(self.host.daemon.pid, signal.SIGSTOP)
        try:
            self.host.node.batch([f"link del {DEVICE}", f"link add {DEVICE} type bridge"])
        finally:
            os.kill(self.host.daemon.pid, signal.SIGCONT)
        began, used = time.monotonic(), self.host.daemon.cpu_seconds()
        self.flow.wait_sent(int(seconds * 1000 * 0.8))
        share = (self.host.daemon.cpu_seconds() - used) / (time.monotonic() - began)
        self.host.node.ip("link", "del", DEVICE)
        self.flow.wait_for_arrivals(20, after=time.monotonic())
        return share

    def bridge_down(self, report: Report) -> None:
        """Take node 2's docker0 down under traffic and count bounces and redirects."""
        self.steady()
        node = self.peer.node
        taps = [(node, DEVICE), (node, "eth0"), (self.host.node, "eth0")]
        with Capture(taps) as capture:
            node.ip("link", "set", "docker0", "down")
            self.flow.wait_sent(500)
            frames = capture.frames
            report.bounced += sum(self._bounced(frame) for frame in frames)
            report.redirects += sum(_is_redirect(frame.packet) for frame in frames)
        node.ip("link", "set", "docker0", "up")
        self.steady()

    def _bounced(self, frame: Frame) -> bool:
        into_tunnel = frame.interface == DEVICE and frame.outgoing
        return into_tunnel and frame.packet[16:19] == self.peer.subnet.network_address.packed[:3]


def _is_redirect(packet: bytes) -> bool:
    start = (packet[0] & 15) * 4 if packet else 0
    return len(packet) > start and packet[9] == 1 and packet[start] == ICMP_REDIRECT


def measure(times: int, dataplane: str) -> Report:
    """Do everything to one cluster."""
    report = Report()
    with Cluster(nodes=2) as cluster:
        cluster.start_daemons(["--dataplane", dataplane])
        one, other = cluster.containers
        wait_for_ping(one, other.address)
        taps = [(host.node, "eth0") for host in cluster.nodes]
        with Capture(taps, to=NETWORK) as leak, Flow(one, other) as flow:
            bench = Bench(cluster, flow, dataplane)
            for name, commands in FAULTS.items():
                count = times if "del flannel0" in name else max(times // 4, 1)
                report.outages[name] = [bench.fault(commands) for _ in range(count)]
                common.say(f"{name}: {Spread.of(report.outages[name]).text('.0f')} ms")
            report.cpu_while_gone = bench.squat(seconds=2)
            common.say(f"CPU while the device cannot come back: {report.cpu_while_gone:.1%}")
            name = "SIGKILL, from the restart on"
            report.outages[name] = [bench.kill() for _ in range(max(times // 4, 1))]
            common.say(f"{name}: {Spread.of(report.outages[name]).text('.0f')} ms")
            bench.bridge_down(report)
            report.leaked = len(leak.frames) + leak.lost()
    return report


def table(report: Report) -> str:
    """Render the report as Markdown."""
    lines = ["| fault, under traffic | times | outage, ms (bar 500) |", "|---|---|---|"]
    lines += [
        f"| {name} | {len(values)} | {Spread.of(values).text('.0f')} |"
        for name, values in report.outages.items()
    ]
    lines += [
        "",
        f"Daemon's CPU while its device cannot come back: {report.cpu_while_gone:.1%} (bar 5 %).",
        f"Packets of the Network that left an eth0 in clear: {report.leaked} (bar 0).",
        f"docker0 down: {report.bounced} packets bounced, {report.redirects} redirects (bar 0).",
        "Outage: longest time without an arrival, median (lowest-highest), fault included.",
        common.machine_line() + ".",
        "PASSED" if report.passed else "FAILED",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench repair",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--times", type=int, default=20, help="deletions; a quarter of the others")
    parser.add_argument("--dataplane", default="auto", help="rung of the daemons")
    parser.add_argument("--json", metavar="FILE", help="write all figures there too")
    args = parser.parse_args(arguments)
    if args.times < 1:
        parser.error("--times must be at least 1")
    common.warn_if_busy()
    report = measure(args.times, args.dataplane)
    print(table(report))
    document: dict[str, Any] = {
        "machine": common.machine(),
        "outages_ms": report.outages,
        "cpu_while_gone": report.cpu_while_gone,
        "leaked": report.leaked,
        "bounced": report.bounced,
        "redirects": report.redirects,
    }
    common.write_json(args.json, document)
    return 0 if report.passed else 1
