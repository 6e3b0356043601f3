"""What the whole machine spends: a tunnel's cost is spread over processes and interrupts."""

from __future__ import annotations

import os
from pathlib import Path


def cpu_seconds() -> float:
    """Return the CPU time that this machine has spent on work since boot, seconds.

    From /proc/stat: user, nice, system, irq and softirq of all CPUs (proc(5)).
    """
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = (int(word) for word in words[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
