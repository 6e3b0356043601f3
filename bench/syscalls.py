"""System calls and context switches per packet at TCP saturation, counted by tracepoints.

One TCP stream from container-1 to container-2. Outbound is the sender's daemon, inbound the
receiver's. The figure that counts is all system calls (raw_syscalls:sys_enter) of the whole
process, its control loop included, divided by the packets that it carried, data one way and
acknowledgements the other. Beside it stand the daemon's own counters over the same transfer: of the
whole packet path, and of the data's direction alone. Tracing slows the tunnel down: this tells
nothing about speed.

    python -m bench syscalls --rounds 5 --seconds 3 --json syscalls.json
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bench import common
from bench.common import Spread
from tunneld.errors import StartError
from tunneld.lab import Cluster, iperf, tracing, wait_for_ping
from tunneld.lab.machine import task_switches
from tunneld.lab.netns import require_tool
from tunneld.lab.underlay import SETTINGS

if TYPE_CHECKING:
    from tunneld.lab import Daemon

BAR = 0.1
"""System calls per packet, at most, in each direction."""

DIRECTIONS = ("outbound", "inbound")
COLUMNS = (
    "packets",
    "system calls per packet, tracepoint",
    "bar",
    "by the daemon's counters",
    "the data's direction alone",
    "context switches per packet",
)


@dataclass(frozen=True, slots=True)
class Side:
    """One daemon over one transfer.

    Attributes:
        direction: in which it carried the data.
        traced: system calls of the process.
        switches: context switches of all its threads, voluntary or not.
        counters: direction -> what its packet path counted, without the zeros.
    """

    direction: str
    traced: int
    switches: int
    counters: Mapping[str, Mapping[str, int]]

    @property
    def packets(self) -> int:
        """How many it carried, both ways."""
        return sum(self.counters[way].get("packets_written", 0) for way in DIRECTIONS)

    def per_packet(self) -> dict[str, float]:
        """Return what a packet cost: "traced", "counted", "alone" and "switches"."""
        own = self.counters[self.direction]
        return {
            "traced": self.traced / max(self.packets, 1),
            "counted": own_calls(self.counters) / max(self.packets, 1),
            "alone": own_calls({self.direction: own}) / max(own.get("packets_written", 0), 1),
            "switches": self.switches / max(self.packets, 1),
        }


@dataclass(frozen=True, slots=True)
class Before:
    """A daemon's sums before the transfer."""

    counters: Mapping[str, Mapping[str, int]]
    switches: int

    @classmethod
    def of(cls, daemon: Daemon) -> Before:
        """Read them now."""
        return cls(daemon.status()["counters"], task_switches(daemon.pid))

    def side(self, daemon: Daemon, direction: str, traced: int) -> Side:
        """Return what has happened since."""
        now = Before.of(daemon)
        changes = {
            way: {
                name: value - self.counters[way][name]
                for name, value in now.counters[way].items()
                if value != self.counters[way][name]
            }
            for way in DIRECTIONS
        }
        return Side(direction, traced, now.switches - self.switches, changes)


def own_calls(counters: Mapping[str, Mapping[str, int]]) -> int:
    """Return all system calls that a packet path has counted in the given directions."""
    return sum(
        count
        for words in counters.values()
        for name, count in words.items()
        if name.startswith("syscalls_")
    )


def measure(cluster: Cluster, tool: str, seconds: int) -> list[Side]:
    """Run one transfer and count on both nodes."""
    one, two = cluster.containers
    daemons = [host.daemon for host in cluster.nodes]
    # Read outside of the traced time: asking costs the daemon system calls too.
    before = [Before.of(daemon) for daemon in daemons]
    with contextlib.ExitStack() as stack:
        counts = [stack.enter_context(tracing.counting([daemon.pid], tool)) for daemon in daemons]
        iperf.tcp(one, two, two.address, seconds=seconds)
    return [
        start.side(daemon, direction, count.syscalls)
        for start, daemon, direction, count in zip(before, daemons, DIRECTIONS, counts, strict=True)
    ]


def run_rounds(tool: str, args: argparse.Namespace) -> list[list[Side]]:
    """Measure with fresh daemons in each round."""
    rounds = []
    with Cluster(nodes=2, setting=args.setting, shape="cable") as cluster:
        for number in range(args.rounds):
            cluster.start_daemons(["--threads", args.threads])
            one, two = cluster.containers
            wait_for_ping(one, two.address)
            sides = measure(cluster, tool, args.seconds)
            cluster.stop_daemons()
            rounds.append(sides)
            figures = ", ".join(f"{s.direction} {s.per_packet()['traced']:.4f}" for s in sides)
            common.say(f"round {number + 1}/{args.rounds}: system calls per packet: {figures}")
    return rounds


def table(rounds: Sequence[Sequence[Side]]) -> str:
    """Render the medians as a Markdown table; a missed bar is bold."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for index, direction in enumerate(DIRECTIONS):
        sides = [sides[index] for sides in rounds]
        traced, counted, alone, switches = (
            Spread.of([side.per_packet()[name] for side in sides])
            for name in ("traced", "counted", "alone", "switches")
        )
        text = traced.text(".4f")
        cells = [
            direction,
            Spread.of([side.packets for side in sides]).text(",.0f"),
            text if traced.median <= BAR else f"**{text}**",
            f"<= {BAR:g}",
            counted.text(".4f"),
            alone.text(".4f"),
            switches.text(".4f"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def missed(rounds: Sequence[Sequence[Side]]) -> list[str]:
    """Return the directions whose median is above the bar."""
    return [
        direction
        for index, direction in enumerate(DIRECTIONS)
        if Spread.of([sides[index].per_packet()["traced"] for sides in rounds]).median > BAR
    ]


def require_tracer() -> str:
    """Return the tool that counts here.

    Raises:
        StartError: there is none; with the packages that have one.
    """
    tool = tracing.tool()
    if tool is None:
        raise StartError(
            "neither perf nor bpftrace counts system calls here",
            remedy="apt-get install -y linux-perf (or bpftrace), and run this as root",
        )
    return tool


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table; exit code 1 when a bar is missed or nothing can count."""
    parser = argparse.ArgumentParser(
        prog="python -m bench syscalls",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--setting", choices=sorted(SETTINGS), default="sgro")
    parser.add_argument("--threads", choices=("auto", "1", "2"), default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of the transfer (default 3)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there too")
    args = parser.parse_args(arguments)
    if args.rounds < 1 or args.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    require_tool("iperf3", "iperf3")
    tool = require_tracer()
    rounds = run_rounds(tool, args)
    print(table(rounds))
    print(
        f"\nOne TCP stream, setting {args.setting}, --threads {args.threads}; median"
        f" (lowest-highest) of {args.rounds} rounds of {args.seconds} s, counted with {tool}."
        f" {common.machine_line()}."
    )
    document: dict[str, Any] = {
        "schema": 1,
        "machine": common.machine(),
        "setting": args.setting,
        "threads": args.threads,
        "tool": tool,
        "bar": BAR,
        "rounds": [[asdict(side) for side in sides] for sides in rounds],
    }
    common.write_json(args.json, document)
    return 1 if missed(rounds) else 0
