"""Is this machine ours alone? Looked at before and during each run; noise is marked, not hidden.

Before a run nothing of ours works, so any CPU time is somebody else's: wait a while for quiet.
During a run, what processes that are not ours have used, and what the hypervisor took (steal), is
noise. Kernel threads count as ours: they work for the traffic.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tunneld.lab.machine import cpu_seconds

LIMIT = 0.05
"""Share of the whole machine that others may use in a quiet run."""

WINDOW_S = 0.25
KTHREADD = 2
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Noise:
    """What was not ours, as shares of the whole machine (all CPUs), 0..1.

    Attributes:
        before: at work just before the run, while we did nothing.
        foreign: used by others' processes during the run.
        stolen: taken by the hypervisor during the run.
        waited_s: seconds spent waiting for quiet.
    """

    before: float
    foreign: float
    stolen: float
    waited_s: float

    @property
    def quiet(self) -> bool:
        """Whether all of it is below the limit."""
        return max(self.before, self.foreign, self.stolen) <= LIMIT

    def as_dict(self) -> dict[str, float]:
        """Return it as plain numbers, for the result file."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def wait_for_quiet(
    limit_s: float,
    *,
    busy: Callable[[], float] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[float, float]:
    """Wait until others are quiet, at most `limit_s` seconds (one look at least).

    Args:
        limit_s: how long to wait.
        busy: looks for a moment and returns the busy share; default `busy_share`.
        clock: seconds.

    Returns:
        The last busy share, and how many seconds were spent in waiting.
    """
    look = busy or busy_share
    began = clock()
    share = look()
    first = clock() - began
    while share > LIMIT and clock() - began < limit_s:
        share = look()
    return share, max(clock() - began - first, 0.0)


def busy_share(seconds: float = WINDOW_S) -> float:
    """Return which share of the machine is at work while we do nothing, 0..1."""
    before, began = cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds() - before) / ((time.monotonic() - began) * (os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class Foreign:
    """CPU time that was not ours so far; the difference of two is what counts.

    Attributes:
        at: when it was read, `time.monotonic()`.
        processes_s: of others' processes, seconds.
        stolen_s: by the hypervisor, seconds.
    """

    at: float
    processes_s: float
    stolen_s: float

    @classmethod
    def now(cls, also_ours: Collection[int] = ()) -> Foreign:
        """Read it from /proc.

        Args:
            also_ours: processes that are ours though they do not descend from us.
        """
        table = read_processes(Path("/proc"))
        used = foreign_seconds(table, {os.getpid(), *also_ours})
        return cls(time.monotonic(), used, stolen_seconds(Path("/proc/stat").read_text()))

    def shares(self, later: Foreign) -> tuple[float, float]:
        """Return the shares of the machine that processes and the hypervisor took since."""
        whole = max(later.at - self.at, 1e-9) * (os.cpu_count() or 1)
        # Below zero: a process ended whose parent does not collect its time.
        used = max(later.processes_s - self.processes_s, 0.0)
        return used / whole, max(later.stolen_s - self.stolen_s, 0.0) / whole


def read_processes(proc: Path) -> dict[int, tuple[int, float]]:
    """Return pid -> (parent, CPU seconds with those of its collected children)."""
    table = {}
    for path in proc.glob("[0-9]*/stat"):
        try:
            table[int(path.parent.name)] = parse_stat(path.read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return table


def parse_stat(text: str) -> tuple[int, float]:
    """Return parent and CPU seconds out of /proc/PID/stat (proc(5): fields 4 and 14 to 17)."""
    words = text.rsplit(")", 1)[1].split()  # the name may hold blanks and brackets
    return int(words[1]), sum(int(word) for word in words[11:15]) / _TICKS


def foreign_seconds(table: Mapping[int, tuple[int, float]], ours: Collection[int]) -> float:
    """Return the CPU seconds of all processes that do not descend from `ours`.

    A process's time moves to its parent when it ends, so the sum stays right.
    """

    def foreign(pid: int) -> bool:
        while pid in table:
            if pid in ours or pid == KTHREADD:
                return False
            pid = table[pid][0]
        return True

    return sum(used for pid, (_, used) in table.items() if foreign(pid))


def stolen_seconds(stat: str) -> float:
    """Return the time that the hypervisor gave to others so far, out of /proc/stat."""
    words = stat.split("\n", 1)[0].split()
    return int(words[8]) / _TICKS if len(words) > 8 else 0.0
