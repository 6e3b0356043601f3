"""A daemon without work sleeps: packet threads altogether, the control loop up to its timers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tunneld.lab import Cluster, Daemon

WINDOW_S = 3.0
PATIENCE_S = 30.0
# The path MTU check comes once a second; as much again for what the kernel tells a daemon.
WAKEUPS_PER_S = 3
CPU_SHARE = 0.002


def wakeups(daemon: Daemon) -> dict[str, int]:
    found = {}
    for task in Path(f"/proc/{daemon.pid}/task").iterdir():
        lines = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        found[task.name] = int(lines["voluntary_ctxt_switches"])
    return found


def window(daemon: Daemon) -> tuple[list[int], float]:
    """Wake-ups of each thread, the busiest first, and the CPU share over one window."""
    before, cpu = wakeups(daemon), daemon.cpu_seconds()
    time.sleep(WINDOW_S)  # what is measured is a time in which nothing happens
    after = wakeups(daemon)
    changes = sorted((after[name] - before.get(name, 0) for name in after), reverse=True)
    return changes, (daemon.cpu_seconds() - cpu) / WINDOW_S


@pytest.mark.soak
def test_an_idle_daemon_wakes_for_its_timers_only(cluster: Cluster) -> None:
    cluster.start_daemons(["--dataplane", "offload"])
    daemon = cluster.nodes[0].daemon
    # Right after the start, and on a busy machine, a window can hold more: one quiet one decides.
    deadline = time.monotonic() + PATIENCE_S
    seen = []
    while time.monotonic() < deadline:
        (control, *packet_threads), share = window(daemon)
        seen.append((control, packet_threads, share))
        if control <= WAKEUPS_PER_S * WINDOW_S and not any(packet_threads) and share < CPU_SHARE:
            return
    raise AssertionError(f"never idle: {seen}")
