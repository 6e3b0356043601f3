"""What is counted besides the load generator's own figures, and what every metric means.

Always there, at no cost: /proc/stat (the whole machine), /proc/PID/task/* (the tunnel's
processes) and the counters of tunneld. Tracepoints count every system call of any process, but
slow the traced ones down: they are used in a pass of their own (`tunneld.lab.tracing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunneld.lab.machine import cpu_seconds, task_cpu_seconds, task_switches

COUNTERS = "counters of tunneld"
TASK_STATUS = "/proc/PID/task/*/status"
NO_PROCESS = "no process: the kernel does it"


@dataclass(frozen=True, slots=True)
class Metric:
    """What one key of a run's `metrics` means.

    Attributes:
        title: for people.
        unit: of the figure; "" for plain numbers.
        higher_is_better: else lower is.
        form: format of the figure.
    """

    title: str
    unit: str
    higher_is_better: bool = False
    form: str = ".2f"

    def text(self, value: float, *, unit: bool = False) -> str:
        """Return a figure as printed, with its unit on demand."""
        number = f"{value:,{self.form}}"
        return f"{number} {self.unit}".rstrip() if unit else number


METRICS: Mapping[str, Metric] = {
    "gbps": Metric("payload delivered", "Gb/s", higher_is_better=True),
    "kpps": Metric("datagrams delivered", "kpps", higher_is_better=True, form=".1f"),
    "offered_kpps": Metric("datagrams offered", "kpps", higher_is_better=True, form=".1f"),
    "loss": Metric("lost", "share", form=".3f"),
    "duplicates": Metric("arrived twice", "datagrams", form=".0f"),
    "reordered": Metric("overtaken", "datagrams", form=".0f"),
    "malformed": Metric("arrived damaged", "datagrams", form=".0f"),
    "count": Metric("round trips", "", higher_is_better=True, form=".0f"),
    "lost": Metric("round trips without an answer", "", form=".0f"),
    "retransmits": Metric("TCP segments sent again", "segments", form=".0f"),
    "rtt_us_min": Metric("round trip, minimum", "us", form=".1f"),
    "rtt_us_p50": Metric("round trip, median", "us", form=".1f"),
    "rtt_us_p90": Metric("round trip, 90 %", "us", form=".1f"),
    "rtt_us_p99": Metric("round trip, 99 %", "us", form=".1f"),
    "rtt_us_p999": Metric("round trip, 99.9 %", "us", form=".1f"),
    "rtt_us_max": Metric("round trip, longest", "us", form=".1f"),
    "rtt_us_mean": Metric("round trip, mean", "us", form=".1f"),
    "cpu_s": Metric("CPU, whole machine", "s"),
    "cpu_s_per_gb": Metric("CPU per GB, whole machine", "s/GB"),
    "cpu_us_per_packet": Metric("CPU per packet, whole machine", "us"),
    "tunnel_cpu_s": Metric("CPU of the tunnel's processes", "s"),
    "tunnel_cpu_s_per_gb": Metric("CPU per GB of the tunnel's processes", "s/GB"),
    "tunnel_cpu_us_per_packet": Metric("CPU per packet of the tunnel's processes", "us"),
    "syscalls_per_packet": Metric(
        "system calls of the tunnel per packet, both nodes", "", form=".3f"
    ),
    "context_switches_per_packet": Metric(
        "context switches of the tunnel per packet, both nodes", "", form=".3f"
    ),
    "machine_context_switches_per_packet": Metric(
        "context switches of the machine per packet", "", form=".3f"
    ),
    "packets": Metric("packets delivered", "packets", higher_is_better=True, form=".0f"),
    "bytes": Metric("payload delivered", "bytes", higher_is_better=True, form=".0f"),
    "seconds": Metric("length of the run", "s", higher_is_better=True),
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Sums since boot (machine) and since their start (processes).

    Attributes:
        cpu_s: of the whole machine.
        tunnel_cpu_s: of the tunnel's processes.
        switches: context switches of the machine.
        tunnel_switches: of the tunnel's processes, voluntary or not.
        tunnel_syscalls: made by the packet paths; None: not counted.
    """

    cpu_s: float
    tunnel_cpu_s: float
    switches: int
    tunnel_switches: int
    tunnel_syscalls: int | None

    @classmethod
    def take(cls, pids: Sequence[int], syscalls: int | None) -> Snapshot:
        """Read them now."""
        return cls(
            cpu_seconds(),
            sum(task_cpu_seconds(pid) for pid in pids),
            machine_switches(Path("/proc/stat").read_text()),
            sum(task_switches(pid) for pid in pids),
            syscalls,
        )


def machine_switches(text: str) -> int:
    """Return the context switches since boot out of the text of /proc/stat."""
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("ctxt "))


def derived(before: Snapshot, after: Snapshot, *, packets: float, size: float) -> dict[str, float]:
    """Return the figures per packet and per GB between two moments.

    Args:
        before: when the load began.
        after: when it ended.
        packets: that were delivered meanwhile.
        size: payload bytes that were delivered.
    """
    cpu = after.cpu_s - before.cpu_s
    tunnel = max(after.tunnel_cpu_s - before.tunnel_cpu_s, 0.0)
    metrics = {"cpu_s": cpu, "tunnel_cpu_s": tunnel, "packets": packets, "bytes": size}
    if size > 0:
        metrics["cpu_s_per_gb"] = cpu / (size / 1e9)
        metrics["tunnel_cpu_s_per_gb"] = tunnel / (size / 1e9)
    if packets > 0:
        switches = after.switches - before.switches
        of_tunnel = max(after.tunnel_switches - before.tunnel_switches, 0)
        metrics["cpu_us_per_packet"] = cpu / packets * 1e6
        metrics["tunnel_cpu_us_per_packet"] = tunnel / packets * 1e6
        metrics["context_switches_per_packet"] = of_tunnel / packets
        metrics["machine_context_switches_per_packet"] = switches / packets
        if before.tunnel_syscalls is not None and after.tunnel_syscalls is not None:
            calls = max(after.tunnel_syscalls - before.tunnel_syscalls, 0)
            metrics["syscalls_per_packet"] = calls / packets
    return metrics


def sources(*, processes: bool, counted: bool) -> dict[str, str]:
    """Name where the counts of the tunnel come from.

    Args:
        processes: the contender has processes of its own.
        counted: it counts its system calls itself.
    """
    if not processes:
        return dict.fromkeys(("syscalls_per_packet", "context_switches_per_packet"), NO_PROCESS)
    named = {"context_switches_per_packet": TASK_STATUS}
    if counted:
        named["syscalls_per_packet"] = COUNTERS
    return named
