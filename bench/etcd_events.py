"""How fast a lease in etcd becomes a route, and what 10,000 leases cost the daemon.

A real `tunneld run` and a real etcd in namespaces. An event lasts from before the put is sent until
the first packet to the new subnet has arrived, encapsulated, at the new peer's address. For the
listings etcd is stopped, changed where the daemon cannot see it, and started again: everything is
read anew while /healthz is asked each millisecond; the longest wait for its answer is the stall.

    python -m bench etcd --json etcd.json
    python -m bench etcd --events 50 --leases 2000
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from bench import common
from bench.etcd_bed import FIRST_EVENT, STRANGER, EtcdBed, crowd, lease
from tunneld.errors import TunneldError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunneld.lab.etcd_http import EtcdGateway

EVENT_BARS_MS = {10: 100.0, 1000: 500.0}
"""Other peers -> bar of the 99th percentile."""

BAR_STALL_MS = 50.0
BAR_MEMORY_MB = 150.0
_MAX_LEASES = 10_000
_IDLE_S = 2.0


@dataclass(slots=True)
class Report:
    """What was measured.

    Attributes:
        leases: of the listings.
        events_ms: other peers -> milliseconds of each event.
        stalls_ms: what was listed -> the longest wait for an answer.
        idle_ms: the longest wait while nothing happened: what asking itself costs here.
        relisted_ms: what was listed -> from etcd's start until the last lease was a route.
        memory_mb: peak of the daemon's resident memory.
    """

    leases: int
    events_ms: dict[int, list[float]] = field(default_factory=dict)
    stalls_ms: dict[str, list[float]] = field(default_factory=dict)
    idle_ms: float = 0.0
    relisted_ms: dict[str, list[float]] = field(default_factory=dict)
    memory_mb: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every bar is met."""
        quick = all(p99(self.events_ms[peers]) <= bar for peers, bar in EVENT_BARS_MS.items())
        worst = max(value for values in self.stalls_ms.values() for value in values)
        return quick and worst <= BAR_STALL_MS and self.memory_mb <= BAR_MEMORY_MB


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile; of fewer than a hundred values the largest."""
    return sorted(values)[max(-(-len(values) * 99 // 100) - 1, 0)]


def events(peers: int, count: int) -> list[float]:
    """Return the milliseconds of each event beside so many other peers."""
    # The pauses must not beat with any period of the daemon.
    rng = random.Random(peers)
    found: list[float] = []
    with EtcdBed() as bed:
        bed.gateway.put_all(crowd(peers))
        bed.start()
        told = time.monotonic()
        for number in range(FIRST_EVENT, FIRST_EVENT + count):
            found.append(bed.event(number) * 1e3)
            bed.forget(number)
            time.sleep(rng.uniform(0.05, 0.15))
            if time.monotonic() - told > 5 or len(found) == count:
                told = time.monotonic()
                common.say(f"{peers} peers, event {len(found)}/{count}: {found[-1]:.1f} ms")
    return found


def listings(report: Report, rounds: int) -> None:
    """List all leases again and again, with nothing new but one and with every value changed."""
    with EtcdBed() as bed:
        bed.gateway.put_all(crowd(report.leases))
        common.say(f"{report.leases} leases are in etcd; the daemon starts")
        bed.start()
        # Firewall sets and cache are written after it has said that it is ready.
        time.sleep(_IDLE_S)
        with bed.answers() as answers:
            time.sleep(_IDLE_S)
            report.idle_ms = answers.longest()
        for number in range(1, rounds + 1):
            for offset, name in enumerate(("one lease is new", "every value has changed")):
                marker = FIRST_EVENT + 2 * number + offset
                changed = crowd(report.leases, shift=number) if offset else {}
                stall, took = _listing(bed, changed, marker)
                report.stalls_ms.setdefault(name, []).append(stall)
                report.relisted_ms.setdefault(name, []).append(took)
                common.say(f"round {number}/{rounds}, {name}: {stall:.1f} ms, {took:.0f} ms in all")
        report.memory_mb = bed.memory()
        known = len(bed.host.daemon.status()["peers"])
        if known != report.leases + 2 * rounds:
            raise TunneldError(f"the daemon knows {known} peers, not all: {bed.host.daemon.tail()}")


def _listing(bed: EtcdBed, changed: dict[str, str], marker: int) -> tuple[float, float]:
    """Have everything listed once; returns the longest wait and the whole time, milliseconds."""

    def change(gateway: EtcdGateway) -> None:
        gateway.put_all(changed)
        gateway.put(*lease(marker, STRANGER))

    with bed.answers() as answers:
        began = bed.change_unseen(change)
        took = bed.wait_for_route(marker) - began
        # What follows a listing belongs to it: firewall sets and the cache are written later.
        time.sleep(_IDLE_S)
        return answers.longest(since=began), took * 1e3


def table(report: Report) -> str:
    """Render the report as Markdown."""
    lines = [
        "| event to route, ms | events | p50 | p99 | max | bar of p99 |",
        "|---|---|---|---|---|---|",
    ]
    for peers, values in report.events_ms.items():
        figures = (statistics.median(values), p99(values), max(values))
        cells = " | ".join(f"{figure:.1f}" for figure in figures)
        bar = EVENT_BARS_MS[peers]
        lines.append(f"| {peers:,} peers | {len(values)} | {cells} | {bar:.0f} |")
    listed = f"{report.leases:,} leases listed again"
    lines += [
        "",
        f"| {listed} | times | stall, ms (bar 50) | until the last is a route, ms |",
        "|---" * 4 + "|",
    ]
    for name, values in report.stalls_ms.items():
        took = common.Spread.of(report.relisted_ms[name]).text(".0f")
        stall = common.Spread.of(values).text(".1f")
        lines.append(f"| {name} | {len(values)} | {stall} | {took} |")
    lines += [
        "",
        f"Longest wait for an answer of the idle daemon: {report.idle_ms:.1f} ms.",
        f"Peak of the daemon's resident memory: {report.memory_mb:.0f} MB (bar 150).",
        common.machine_line() + ".",
        "PASSED" if report.passed else "FAILED",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench etcd",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--events", type=int, default=200, help="puts per figure (default 200)")
    parser.add_argument("--leases", type=int, default=_MAX_LEASES, help="1 to 10000 (default)")
    parser.add_argument("--rounds", type=int, default=3, help="listings of each kind (default 3)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there too")
    args = parser.parse_args(arguments)
    if not (1 <= args.leases <= _MAX_LEASES and 1 <= args.events <= 4000 and args.rounds >= 1):
        parser.error("--leases must be 1 to 10000, --events 1 to 4000, --rounds at least 1")
    common.warn_if_busy()
    report = Report(args.leases)
    for peers in EVENT_BARS_MS:
        report.events_ms[peers] = events(peers, args.events)
    listings(report, args.rounds)
    print(table(report))
    common.write_json(args.json, {"machine": common.machine(), **asdict(report)})
    return 0 if report.passed else 1
