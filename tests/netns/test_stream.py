"""Two TCP streams, one each way, over a wire that loses, doubles and reorders: intact by sha256."""

from __future__ import annotations

import time

import pytest

from tests.netns.streams import exchange
from tunneld.lab import Cluster, wait_for_ping
from tunneld.lab.relay_faults import Faults

FAULTS = Faults(loss=0.01, duplicate=0.01, reorder=0.01, seed=42)


def stream_both_ways(size: int, patience: float) -> None:
    with Cluster(shape="relay", faults=FAULTS) as cluster:
        cluster.start_daemons(["--dataplane", "offload"])
        one, two = cluster.containers
        wait_for_ping(one, two.address, timeout=30)
        began = time.monotonic()
        exchange(one, two, size, patience)
        print(f"{size} bytes each way in {time.monotonic() - began:.1f} s")
        assert cluster.underlay.relay is not None
        # The faults were there, or this showed nothing.
        for counts in cluster.underlay.relay.stop().values():
            assert counts.lost
            assert counts.duplicated
            assert counts.reordered


def test_ten_megabytes_each_way_arrive_intact() -> None:
    stream_both_ways(10_000_000, patience=30)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_gigabyte_each_way_arrives_intact() -> None:
    stream_both_ways(1_000_000_000, patience=300)
