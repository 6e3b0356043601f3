"""What the machine and its processes spend: a tunnel's cost is spread over both and interrupts.

All from proc(5), read from outside: asking costs the process that is asked about nothing.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def cpu_seconds() -> float:
    """Return the CPU time that this machine has spent on work since boot, seconds.

    From /proc/stat: user, nice, system, irq and softirq of all CPUs (proc(5)).
    """
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = (int(word) for word in words[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def softirq_seconds() -> float:
    """Return the CPU time that all CPUs have spent in softirqs since boot, seconds.

    Most kernels sample it at the timer's tick. Where interrupts are not accounted apart
    (IRQ_TIME_ACCOUNTING), the same time is in that of the process that was interrupted, too.
    """
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    return int(words[7]) / os.sysconf("SC_CLK_TCK")


def softirq_raised(table: str, kind: str) -> int:
    """Return how often a softirq ran on all CPUs, out of the text of /proc/softirqs."""
    line = next(line for line in table.splitlines() if line.split()[0] == f"{kind}:")
    return sum(int(word) for word in line.split()[1:])


def io_calls(pid: int) -> tuple[int, int]:
    """Return how many read and write calls a process has made so far (syscr, syscw).

    The kernel counts read, readv, pread and their like, whether they gave data or not; never
    sendto, recvfrom and their like (fs/read_write.c).
    """
    return parse_io(Path(f"/proc/{pid}/io").read_text())


def parse_io(text: str) -> tuple[int, int]:
    """Return syscr and syscw out of the text of /proc/PID/io."""
    figures = dict(line.split(": ") for line in text.splitlines())
    return int(figures["syscr"]), int(figures["syscw"])


def task_cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process so far (schedstat, nanoseconds)."""
    return sum(int(text.split()[0]) for text in _of_tasks(pid, "schedstat")) / 1e9


def task_switches(pid: int) -> int:
    """Return the context switches of all threads of a process so far."""
    return sum(status_switches(text) for text in _of_tasks(pid, "status"))


def _of_tasks(pid: int, name: str) -> list[str]:
    texts = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        # A thread may end between the two reads.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            texts.append((task / name).read_text())
    return texts


def status_switches(text: str) -> int:
    """Return voluntary and involuntary switches out of the text of a task's status (proc(5))."""
    return sum(
        int(line.split()[1])
        for line in text.splitlines()
        if line.startswith(("voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"))
    )
