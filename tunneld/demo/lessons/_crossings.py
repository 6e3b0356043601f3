"""Tables, drawings and words of the lesson "three-crossings", out of what was counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunneld.demo import needs
from tunneld.demo.drawing.crossings import Crossing, Crossings
from tunneld.demo.lessons._counting import RECEIVER, SENDER, Counted, Place, Spent, figures
from tunneld.lab.tracing import Calls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLAIMED = (0.2, 0.3)
"""The share of throughput that UDP mode is said to lose."""

LIMIT = 0.05
"""By how much the two methods of counting may differ."""

DAEMONS = ("node1", "node2")

SEEN = 0.005
"""Calls for a packet that a drawing shows; two decimals are printed."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way for packets, and all that was measured of it.

    Attributes:
        name: in tables.
        gbps: of one TCP stream, untraced.
        counted: the counted datagrams; None: this way was not counted.
        spent: the timed ones.
        calls: system calls of both daemons for a packet of that stream; None: no daemon.
    """

    name: str
    gbps: float
    counted: Counted | None = None
    spent: Spent | None = None
    calls: float | None = None


def where(place: str) -> str:
    """Return what a reader calls a process."""
    named = {SENDER: "container-1, sends", RECEIVER: "container-2, receives"}
    return named.get(place, f"tunneld on {place}")


def rows(way: Way) -> list[list[str]]:
    """Return the rows of the big table for one way, its sum last."""
    counted, spent = way.counted, way.spent
    if counted is None or spent is None:
        return []
    found = []
    for name, place in counted.places.items():
        columns = _columns(place)
        cells = [f"{each / counted.packets:.2f}" for each in columns]
        found.append([way.name, where(name), *cells, f"{spent.processes[name]:.1f}"])
    sums = [sum(each) for each in zip(*map(_columns, counted.places.values()), strict=True)]
    cells = [f"{each / counted.packets:.2f}" for each in sums]
    found.append([way.name, "together", *cells, f"{sum(spent.processes.values()):.1f}"])
    blank = [""] * len(cells)
    found.append([way.name, "softirq, all CPUs", *blank, f"{spent.softirq:.1f}"])
    found.append([way.name, "all CPUs, all work", *blank, f"{spent.machine:.1f}"])
    return [["" if at else cells[0], *cells[1:]] for at, cells in enumerate(found)]


HEAD = ("way", "where", "calls", "copies", "empty", "others", "switches", "CPU us")


def _columns(place: Place) -> tuple[int, ...]:
    return (place.total, place.copies, place.empty, place.other, place.switches)


def total(way: Way, column: str) -> float:
    """Return one column's sum over the processes, for a packet."""
    if way.counted is None:
        return 0.0
    index = HEAD.index(column) - 2
    places = way.counted.places.values()
    return sum(_columns(place)[index] for place in places) / way.counted.packets


def drawing(way: Way) -> Crossings:
    """Draw the way of a packet over the border, measured figures on the arrows."""
    counted, spent = way.counted, way.spent
    if counted is None or spent is None:
        raise ValueError("nothing was counted")

    def label(place: str, kinds: Sequence[str]) -> str:
        calls = counted.places[place].calls
        parts = []
        for kind in kinds:
            each = calls.get(kind, Calls())
            # The daemon's own loop makes a few such calls too: not on the packets' way.
            if each.made / counted.packets >= SEEN:
                parts.append(f"{kind} {each.made / counted.packets:.2f}")
            if (each.made - each.moved) / counted.packets >= SEEN:
                parts.append(f"{(each.made - each.moved) / counted.packets:.2f} empty")
        if place in {SENDER, RECEIVER}:
            parts.append(f"{spent.processes[place]:.1f} us")
        return ", ".join(parts)

    def rest(place: str) -> str:
        asleep = counted.places[place].switches / counted.packets
        other = counted.places[place].other / counted.packets
        return f"others {other:.2f}, switches {asleep:.2f}, {spent.processes[place]:.1f} us"

    found = [Crossing("container-1", "its veth, docker0", True, label(SENDER, SENDING), "node1")]
    if "node1" in counted.places:
        found += [
            Crossing("tunneld", "flannel0", False, label("node1", READING), "node1"),
            Crossing("tunneld", "socket, eth0", True, label("node1", SENDING), "node1"),
            Crossing("tunneld", "waits; CPU in all", True, rest("node1"), "node1"),
            Crossing("tunneld", "eth0, socket", False, label("node2", RECEIVING), "node2"),
            Crossing("tunneld", "flannel0", True, label("node2", WRITING), "node2"),
            Crossing("tunneld", "waits; CPU in all", True, rest("node2"), "node2"),
        ]
    found.append(
        Crossing("container-2", "docker0, its veth", False, label(RECEIVER, RECEIVING), "node2")
    )
    return Crossings(tuple(found), f"{way.name}: system calls for one packet, as counted")


READING = ("read", "readv")
WRITING = ("write", "writev")
SENDING = ("sendto", "sendmsg", "sendmmsg")
RECEIVING = ("recvfrom", "recvmsg", "recvmmsg")


def agreement(counted: Counted, tool: str | None) -> dict[str, Any]:
    """Return how well the two methods agree on each daemon: "tracepoints", "proc", "difference"."""
    if tool is None:
        lack = needs.missing(["tracer"])[0]
        return {"available": False, "why": lack.what, "remedy": lack.remedy}
    found: dict[str, Any] = {"available": True, "tracer": tool}
    for name in DAEMONS:
        place = counted.places[name]
        found[name] = {
            "reads_and_writes": _compared(place.reads_writes, place.proc.reads_writes),
            "context_switches": _compared(place.switches, place.proc.switches),
        }
    return found


def _compared(traced: int, proc: int) -> dict[str, float]:
    return {
        "tracepoints": traced,
        "proc": proc,
        "difference": abs(traced - proc) / max(traced, proc, 1),
    }


def agreement_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return them as a table."""
    made = []
    for name in DAEMONS:
        for key, text in (
            ("reads_and_writes", "reads and writes (syscr + syscw)"),
            ("context_switches", "context switches"),
        ):
            each = found[name][key]
            made.append(
                [
                    f"tunneld on {name}",
                    text,
                    f"{each['tracepoints']:,}",
                    f"{each['proc']:,}",
                    f"{each['difference']:.1%}".replace("%", " %"),
                ]
            )
    return made


def loss(way: Way, against: Way) -> float:
    """Return the share of throughput that one way loses against another."""
    return 1 - way.gbps / against.gbps if against.gbps else 0.0


def busy(ways: Sequence[Way]) -> bool:
    """Tell whether the machine did more of something else than of this."""
    spents = [way.spent for way in ways if way.spent]
    return any(each.machine > 2 * (sum(each.processes.values()) + each.softirq) for each in spents)


def results(ways: Mapping[str, Way]) -> dict[str, Any]:
    """Return all figures of the ways."""
    found: dict[str, Any] = {}
    for key, way in ways.items():
        entry: dict[str, Any] = {"name": way.name, "gbps": way.gbps}
        if way.counted is not None and way.spent is not None:
            entry["per_packet"] = figures(way.counted, way.spent)
        if way.calls is not None:
            entry["daemon_calls_per_packet_of_the_stream"] = way.calls
        found[key] = entry
    return found
