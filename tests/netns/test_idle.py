"""A daemon without work sleeps: packet threads altogether, the control loop up to its timers."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from bench.common import say
from tunneld.backend.path_mtu import PERIOD_S
from tunneld.lab import Cluster, Daemon
from tunneld.lab.iperf import tcp

WINDOW_S = 30.0
WINDOWS = 3
TIMERS_PER_S = 1 / PERIOD_S + 1 / 5 + 1 / 5 + 1 / 30
"""Path MTU, the file store's look at its directories, firewall rules, the kernel's state."""

SLACK = 1.2
CPU_SHARE = 0.002


def wakeups(daemon: Daemon) -> dict[int, int]:
    """Return how often each thread went to sleep by itself, hence was woken, by thread id."""
    found = {}
    for task in Path(f"/proc/{daemon.pid}/task").iterdir():
        lines = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines())
        found[int(task.name)] = int(lines["voluntary_ctxt_switches"])
    return found


class Window:
    """Wake-ups of each thread of a daemon and its CPU time, while nothing happens."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._before = wakeups(daemon), daemon.cpu_seconds(), time.monotonic()

    def close(self) -> Window:
        before, cpu, began = self._before
        after = wakeups(self._daemon)
        self.seconds = time.monotonic() - began
        self.cpu_share = (self._daemon.cpu_seconds() - cpu) / self.seconds
        changes = {tid: count - before.get(tid, 0) for tid, count in after.items()}
        self.control = changes.pop(self._daemon.pid)
        self.others = sorted(changes.values())
        return self

    @property
    def idle(self) -> bool:
        timers = TIMERS_PER_S * self.seconds * SLACK
        return self.control <= timers and not any(self.others) and self.cpu_share < CPU_SHARE

    def __repr__(self) -> str:
        return (
            f"{self._daemon.node.name}: in {self.seconds:.0f} s the control loop woke"
            f" {self.control} times, the other threads {self.others},"
            f" {self.cpu_share:.2%} of a CPU"
        )


@pytest.mark.soak
@pytest.mark.timeout(60 + WINDOWS * WINDOW_S)
def test_an_idle_daemon_wakes_for_its_timers_only(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.start_daemons(["--dataplane", "offload"])
    daemons = [host.daemon for host in cluster.nodes]
    one, two = cluster.containers
    # It must come back to rest: under load both threads work and the path MTUs are asked for.
    tcp(one, two, two.address, seconds=1)
    seen: list[Window] = []
    # Right after the load a window can hold more: one quiet one of each daemon decides.
    for _ in range(WINDOWS):
        windows = [Window(daemon) for daemon in daemons]
        time.sleep(WINDOW_S)  # what is measured is a time in which nothing happens
        seen += [window.close() for window in windows]
        with capsys.disabled():
            for window in seen[-2:]:
                say(repr(window))
        if all(window.idle for window in seen[-2:]):
            return
    raise AssertionError(f"never idle: {seen}")
