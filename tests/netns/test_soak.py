"""Mixed load for minutes while peers come and go: order, counters, memory and descriptors hold.

TUNNELD_SOAK_SECONDS sets how long; 600 by default. Daemons whose C core is built with ASan and
UBSan run a fifth of that: a sanitizer reports what it sees the first time.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.netns.load import CHANGES_PER_S, MixedLoad
from tests.netns.sanitized import Sanitized
from tests.netns.waiting import until
from tests.netns.wire import at_rest
from tunneld.lab import Cluster, Daemon, wait_for_ping

SECONDS = int(os.environ.get("TUNNELD_SOAK_SECONDS", "600"))
SANITIZED_SECONDS = max(20, SECONDS // 5)
WINDOWS = 10
WARM_UP_WINDOWS = 2
RSS_GROWTH = 1.05
COMPLAINTS = re.compile(r"level=(?!info|debug)|Traceback|Error")


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 120)
def test_mixed_load_while_peers_come_and_go(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled(), Cluster(shape="cable") as cluster:
        load = soak(cluster, SECONDS)
        for vitals in load.vitals:
            memory = vitals.windows(SECONDS / WINDOWS)[:WINDOWS]
            print(f"RSS in kB, medians over {SECONDS / WINDOWS:g} s each: {memory}")
            assert memory[-1] < RSS_GROWTH * memory[WARM_UP_WINDOWS]


@pytest.mark.soak
@pytest.mark.timeout(SANITIZED_SECONDS + 240)
def test_mixed_load_under_sanitizers(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """As above; only memory is not compared, because ASan keeps what was freed for a while."""
    build = Sanitized(tmp_path)
    with capsys.disabled(), Cluster(shape="cable") as cluster:
        for host in cluster.nodes:
            build.use_for(host.daemon)
        try:
            soak(cluster, SANITIZED_SECONDS, build)
            assert cluster.stop_daemons() == [0, 0]
        finally:
            reports = build.reports()
            assert not reports, reports


def soak(cluster: Cluster, seconds: int, build: Sanitized | None = None) -> MixedLoad:
    """Run the load and check all that holds for any build."""
    cluster.start_daemons(["--dataplane", "offload"])
    daemons = [host.daemon for host in cluster.nodes]
    if build:
        for daemon in daemons:
            build.assert_in_use(daemon)
    one, two = cluster.containers
    wait_for_ping(one, two.address, timeout=20)
    load = MixedLoad(cluster, seconds)
    descriptors = [vitals.descriptors() for vitals in load.vitals]
    load.run()

    assert all(stream.bytes for stream in load.streams)
    assert all(result.received for result in load.datagrams)
    assert [r for r in load.datagrams if r.reordered or r.duplicates or r.malformed] == []
    assert not any(pings.duplicates for pings in load.pings)
    assert sum(p.received for p in load.pings) > 0.8 * sum(p.sent for p in load.pings)
    for daemon, vitals, before in zip(daemons, load.vitals, descriptors, strict=True):
        until(lambda daemon=daemon: len(daemon.status()["peers"]) == 1, "the last peer to go")  # type: ignore[misc]
        counters = at_rest(daemon)
        until(lambda v=vitals, n=before: v.descriptors() == n, f"{before} descriptors")  # type: ignore[misc]
        check_churn(daemon, load, seconds)
        assert counters["outbound"]["drop_no_route"] > 0
        complaints = [line for line in log_lines(daemon) if COMPLAINTS.search(line)]
        assert complaints == []
    return load


def check_churn(daemon: Daemon, load: MixedLoad, seconds: int) -> None:
    """The changes of the store were made, seen, and in force in the packet path."""
    lines = log_lines(daemon)
    added = sum('msg="peer added"' in line for line in lines)
    removed = sum('msg="peer removed"' in line for line in lines)
    reached = sum(name == daemon.node.name for name, _ in load.reached)
    print(f"{daemon.node.name}: {added} peers added, {removed} removed, {reached} reached")
    assert load.churn.added > 0.7 * CHANGES_PER_S * seconds
    assert added > 0.8 * load.churn.added
    assert removed > 0.8 * load.churn.removed
    assert reached > 0


def log_lines(daemon: Daemon) -> list[str]:
    return daemon.log.read_text().splitlines()
