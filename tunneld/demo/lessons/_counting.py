"""What a datagram costs every process that it meets: counted in one run, timed in another.

Counting slows down what is counted, so a load runs twice: once with tracepoints attached, for
system calls and context switches; once without, for CPU time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunneld.lab import machine, process, tracing, trickle
from tunneld.lab.process import CommandError
from tunneld.lab.tracing import Calls

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Mapping

    from tunneld.lab import Cluster, Daemon

DATA = (
    *("read", "readv", "pread64", "preadv", "preadv2"),
    *("write", "writev", "pwrite64", "pwritev", "pwritev2"),
    *("sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg"),
)
"""Calls that copy data between user and kernel space."""

FILES = DATA[:10]
"""Those of them that /proc/PID/io counts (syscr, syscw)."""

WAITS = ("poll", "ppoll", "select", "epoll_wait", "epoll_pwait", "clock_nanosleep", "sched_yield")

SENDER, RECEIVER = "container-1", "container-2"


@dataclass(frozen=True, slots=True)
class Proc:
    """What /proc says of a process over the same interval.

    Attributes:
        reads_writes: syscr and syscw together.
        switches: context switches of all its threads, voluntary or not.
    """

    reads_writes: int
    switches: int

    @classmethod
    def of(cls, pid: int) -> Proc:
        """Read it now."""
        return cls(sum(machine.io_calls(pid)), machine.task_switches(pid))

    def since(self, before: Proc) -> Proc:
        """Return what has been added."""
        return Proc(self.reads_writes - before.reads_writes, self.switches - before.switches)


@dataclass(frozen=True, slots=True)
class Place:
    """One process over the counted load.

    Attributes:
        calls: kind of system call -> how many.
        total: system calls of all kinds.
        switches: context switches.
        proc: the other method's figures.
    """

    calls: Mapping[str, Calls]
    total: int
    switches: int
    proc: Proc

    @property
    def copies(self) -> int:
        """Calls that moved data; each is one copy of one packet (the rung makes no batches)."""
        return sum(self.calls[kind].moved for kind in DATA if kind in self.calls)

    @property
    def empty(self) -> int:
        """Calls for data that found none."""
        return sum(
            self.calls[kind].made - self.calls[kind].moved for kind in DATA if kind in self.calls
        )

    @property
    def other(self) -> int:
        """All other calls: mostly waiting."""
        return self.total - self.copies - self.empty

    @property
    def reads_writes(self) -> int:
        """Calls that /proc/PID/io counts too."""
        return sum(self.calls[kind].made for kind in FILES if kind in self.calls)


@dataclass(frozen=True, slots=True)
class Counted:
    """The counted load.

    Attributes:
        packets: that arrived.
        places: process -> what it did.
    """

    packets: int
    places: Mapping[str, Place]


@dataclass(frozen=True, slots=True)
class Spent:
    """The timed load, CPU in microseconds for each packet that arrived.

    Attributes:
        packets: that arrived.
        processes: process -> CPU.
        softirq: of all CPUs.
        machine: all CPU time that was not idle.
        raised: how often the network's receiving softirq ran for a packet.
    """

    packets: int
    processes: Mapping[str, float]
    softirq: float
    machine: float
    raised: float


class Trickle:
    """Sender and receiver, ready, while the block runs.

    Args:
        cluster: the first two nodes' containers.
        count: datagrams.
    """

    def __init__(self, cluster: Cluster, count: int) -> None:
        self.cluster = cluster
        self.count = count
        self._children: dict[str, subprocess.Popen[str]] = {}

    @contextlib.contextmanager
    def ready(self) -> Iterator[dict[str, int]]:
        """Start both; gives the pid of every process that a packet meets, in that order."""
        one, two = self.cluster.containers[:2]
        for name, node, what in ((RECEIVER, two, "receive"), (SENDER, one, "send")):
            argv = [sys.executable, *command(what, str(two.address), self.count).split()[1:]]
            self._children[name] = node.popen([*argv, "--wait"])
            self._wait_for(name, trickle.READY)
        pids = {SENDER: self._children[SENDER].pid}
        for host in self.cluster.nodes:
            if host.daemon.running:
                pids[host.name] = host.daemon.pid
        try:
            yield {**pids, RECEIVER: self._children[RECEIVER].pid}
        finally:
            process.stop(self._children.values())
            self._children.clear()

    def go(self) -> int:
        """Let the load run and return how many datagrams arrived."""
        os.kill(self._children[SENDER].pid, signal.SIGUSR1)
        self._wait_for(SENDER, trickle.DONE)
        return self._wait_for(RECEIVER, trickle.DONE)

    def _wait_for(self, name: str, word: str) -> int:
        said = ""
        for line in self._children[name].stdout or ():
            said = line
            first, *rest = line.split()
            if first == word:
                return int(rest[0]) if rest else 0
        raise CommandError(f"the datagrams' program on {name} ended: {said.strip()}")


def command(what: str, address: str, count: int) -> str:
    """Return the load as a reader would type it."""
    return f"python -m tunneld.lab.trickle {what} {address} {count}"


def count(load: Trickle, tool: str | None) -> Counted:
    """Run the load once and count.

    Args:
        load: not started yet.
        tool: of `tracing.tool()`; None: the programs' own counters stand in.

    Raises:
        CommandError: nothing arrives, or the tracer fails.
    """
    hosts = {host.name: host.daemon for host in load.cluster.nodes if host.daemon.running}
    with load.ready() as pids:
        own = {name: _own(daemon) for name, daemon in hosts.items()}
        traced: dict[str, tracing.Counts] = {}
        with contextlib.ExitStack() as tracers:
            for name, pid in pids.items() if tool is not None else ():
                counter = tracing.counting([pid], tool or "", (*DATA, *WAITS))
                traced[name] = tracers.enter_context(counter)
            before = {name: Proc.of(pid) for name, pid in pids.items()}
            packets = load.go()
            proc = {name: Proc.of(pid).since(before[name]) for name, pid in pids.items()}
        if tool is None:
            made = {SENDER: {"sendto": Calls(load.count, load.count)}}
            made[RECEIVER] = {"recvfrom": Calls(packets, packets)}
            made |= {name: _since(own[name], _own(daemon)) for name, daemon in hosts.items()}
            traced = {name: _told(made[name], proc[name]) for name in pids}
    if not packets:
        raise CommandError("no datagram arrived", remedy="see `tunneld status` on both nodes")
    return Counted(
        packets,
        {
            name: Place(traced[name].calls, traced[name].syscalls, traced[name].switches, each)
            for name, each in proc.items()
        },
    )


_OWN = {
    "read": ("outbound", "read"),
    "sendmmsg": ("outbound", "written"),
    "recvmmsg": ("inbound", "read"),
    "writev": ("inbound", "written"),
}


def _own(daemon: Daemon) -> dict[str, Calls]:
    """Return what the packet path has counted itself, by the calls that it makes."""
    document = daemon.status()
    counters, batches = document["counters"], document["batches"]
    found = {}
    for kind, (direction, operation) in _OWN.items():
        made = counters[direction][f"syscalls_{operation}"]
        found[kind] = Calls(made, made - batches[direction][operation].get("0", 0))
    polls = sum(counters[direction]["syscalls_poll"] for direction in ("outbound", "inbound"))
    return {**found, "poll": Calls(polls, 0)}


def _since(before: Mapping[str, Calls], now: Mapping[str, Calls]) -> dict[str, Calls]:
    differences = {
        kind: Calls(each.made - before[kind].made, each.moved - before[kind].moved)
        for kind, each in now.items()
    }
    return {kind: each for kind, each in differences.items() if each.made}


def _told(calls: dict[str, Calls], proc: Proc) -> tracing.Counts:
    """Return what a program has counted itself in the form of a tracer's counts."""
    total = sum(each.made for each in calls.values())
    return tracing.Counts("counters of the programs", total, proc.switches, calls)


def spend(load: Trickle) -> Spent:
    """Run the load once, untraced, and time.

    Raises:
        CommandError: nothing arrives.
    """

    def now(pids: Mapping[str, int]) -> tuple[dict[str, float], float, float, int]:
        table = Path("/proc/softirqs").read_text()
        return (
            {name: machine.task_cpu_seconds(pid) for name, pid in pids.items()},
            machine.softirq_seconds(),
            machine.cpu_seconds(),
            machine.softirq_raised(table, "NET_RX"),
        )

    with load.ready() as pids:
        before = now(pids)
        packets = load.go()
        after = now(pids)
    if not packets:
        raise CommandError("no datagram arrived", remedy="see `tunneld status` on both nodes")
    per = 1e6 / packets
    return Spent(
        packets,
        {name: (after[0][name] - before[0][name]) * per for name in pids},
        (after[1] - before[1]) * per,
        (after[2] - before[2]) * per,
        (after[3] - before[3]) / packets,
    )


def figures(counted: Counted, spent: Spent) -> dict[str, Any]:
    """Return both as JSON-able figures, for each packet."""
    places = {}
    for name, place in counted.places.items():
        places[name] = {
            "calls": place.total / counted.packets,
            "copies": place.copies / counted.packets,
            "empty": place.empty / counted.packets,
            "waits_and_others": place.other / counted.packets,
            "switches": place.switches / counted.packets,
            "cpu_us": spent.processes[name],
            "by_kind": {
                kind: {"made": each.made / counted.packets, "moved": each.moved / counted.packets}
                for kind, each in place.calls.items()
            },
        }
    return {
        "packets_counted": counted.packets,
        "packets_timed": spent.packets,
        "places": places,
        "softirq_us": spent.softirq,
        "machine_us": spent.machine,
        "receiving_softirqs": spent.raised,
    }
