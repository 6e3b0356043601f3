"""Mixed load for minutes while peers come and go: order, counters and memory stay right.

TUNNELD_SOAK_SECONDS sets how long; 600 by default.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from bench.common import UdpResult, udp
from tests.netns.wire import at_rest
from tunneld.lab import Cluster, Daemon, ping, wait_for_ping
from tunneld.lab.iperf import tcp

SECONDS = int(os.environ.get("TUNNELD_SOAK_SECONDS", "600"))
ROUND_S = 10
UDP_PPS = 5000
RSS_SLACK_KB = 4096


def rss_kb(daemon: Daemon) -> int:
    text = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0])


class Load:
    """Runs each kind of traffic over and over until the time is up; keeps the first failure."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self.errors: list[Exception] = []
        self._threads: list[threading.Thread] = []

    def start(self, work: Callable[[], object]) -> None:
        def loop() -> None:
            try:
                while time.monotonic() < self.deadline and not self.errors:
                    work()
            except Exception as error:  # noqa: BLE001 - raised by join
                self.errors.append(error)

        self._threads.append(threading.Thread(target=loop))
        self._threads[-1].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


class Churn:
    """About ten times a second a peer is added to the store and removed again."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.changes = 0

    def __call__(self) -> None:
        number = 10 + self.changes // 2 % 200
        subnet = IPv4Network(f"100.96.{number}.0/24")
        path = self._cluster.reserve(subnet, f"10.168.0.{number}")
        time.sleep(0.05)
        path.unlink()
        time.sleep(0.05)
        self.changes += 2


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 120)
def test_mixed_load_while_peers_come_and_go() -> None:
    with Cluster(shape="cable") as cluster:
        cluster.start_daemons(["--dataplane", "offload"])
        daemons = [host.daemon for host in cluster.nodes]
        one, two = cluster.containers
        wait_for_ping(one, two.address, timeout=20)
        seconds = min(ROUND_S, SECONDS)
        datagrams: list[UdpResult] = []
        answers: list[bool] = []
        streams: list[int] = []
        churn = Churn(cluster)

        def work(load: Load) -> None:
            load.start(
                lambda: datagrams.append(
                    udp(one, two, size="16-1400", seconds=seconds, pps=UDP_PPS)
                )
            )
            load.start(lambda: streams.append(tcp(two, one, one.address, seconds=seconds).bytes))
            load.start(lambda: answers.append(ping(one, two.address, timeout=2) is not None))
            load.start(churn)
            load.join()

        # A first part fills every pool and cache; from then on memory must not grow.
        work(Load(SECONDS / 4))
        before = [rss_kb(daemon) for daemon in daemons]
        work(Load(SECONDS * 3 / 4))
        after = [rss_kb(daemon) for daemon in daemons]
        print(f"RSS kB {before} -> {after}; {churn.changes} changes; {datagrams[-1]}")

        assert all(result.received for result in datagrams)
        assert all(streams)
        assert sum(answers) > 0.9 * len(answers)
        assert [(result.reordered, result.duplicates) for result in datagrams] == [
            (0, 0) for _ in datagrams
        ]
        for daemon in daemons:
            at_rest(daemon)
        for old, new in zip(before, after, strict=True):
            assert new <= old + RSS_SLACK_KB
