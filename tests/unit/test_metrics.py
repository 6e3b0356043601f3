"""The metrics: names, labels, values; and that no counter is forgotten."""

from __future__ import annotations

import asyncio
import math
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from ipaddress import IPv4Address
from itertools import pairwise
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.test_status import document
from tunneld.dataplane import engine
from tunneld.observe import batches, metrics
from tunneld.observe.endpoints import Endpoints
from tunneld.observe.health import Health
from tunneld.observe.metric_names import METRICS
from tunneld.observe.metrics import Sample, histogram_rows, render, rows

LOOPBACK = IPv4Address("127.0.0.1")
BY_NAME = {metric.name: metric for metric in METRICS}


def full() -> dict[str, Any]:
    """A status document in which everything that can be there is."""
    made = document()
    for direction, names, value in (
        ("outbound", engine.OUTBOUND_COUNTERS, 7),
        ("inbound", engine.INBOUND_COUNTERS, 8),
    ):
        counters, buckets = batches.split(dict.fromkeys(names, value))
        made["counters"][direction], made["batches"][direction] = counters, buckets
    made["backend"]["queues"] = [{"outbound": 1, "inbound": 2}, {"outbound": 3, "inbound": 4}]
    made["backend"]["offload"] = {"batch": 64, "coalesce_tcp": True, "downgrades_udp": 5, "s": "x"}
    return made


def values(sample: Sample) -> dict[str, float]:
    """Exported name with labels -> value, as Prometheus would read it."""
    return {
        found.name + "".join(f",{key}={value}" for key, value in sorted(found.labels.items())): (
            found.value
        )
        for family in text_string_to_metric_families(render(sample).decode())
        for found in family.samples
    }


def test_every_row_has_its_metric_and_labels() -> None:
    seen = set()
    for name, labels, _ in (*rows(Sample(full())), *histogram_rows(Sample(full()))):
        assert len(labels) == len(BY_NAME[name].labels), name
        assert all(isinstance(label, str) for label in labels)
        seen.add(name)
    assert seen == set(BY_NAME)


def test_no_series_comes_twice() -> None:
    found = (*rows(Sample(full())), *histogram_rows(Sample(full())))
    keys = [(name, tuple(labels)) for name, labels, _ in found]
    assert len(keys) == len(set(keys))


def test_no_counter_of_the_packet_path_is_forgotten() -> None:
    for direction, names in (
        ("outbound", engine.OUTBOUND_COUNTERS),
        ("inbound", engine.INBOUND_COUNTERS),
    ):
        made = full()
        numbered = {name: 1000 + i for i, name in enumerate(names)}
        made["counters"][direction], made["batches"][direction] = batches.split(numbered)
        found = {value for _, _, value in rows(Sample(made))}
        for _, labels, distribution in histogram_rows(Sample(made)):
            if labels[0] == direction:
                upto = [0, *(value for _, value in distribution.buckets)]
                found |= {after - before for before, after in pairwise(upto)}
        assert found >= set(numbered.values())


def test_the_batches_are_a_histogram() -> None:
    made = full()
    made["counters"]["inbound"] |= {"packets_read": 105, "syscalls_read": 13}
    buckets = made["batches"]["inbound"]["read"]
    buckets |= dict.fromkeys(buckets, 0) | {"0": 4, "1": 5, "16": 3, "more": 1}
    found = values(Sample(made))
    series = "tunneld_batch_packets_{},direction=inbound{},operation=read"
    bounds = ["0", "1", "2", "4", "8", "16", "4096", "+Inf"]
    read = [found[series.format("bucket", f",le={bound}")] for bound in bounds]
    assert read == [4, 9, 9, 9, 9, 12, 12, 13]
    assert found[series.format("count", "")] == 13
    assert found[series.format("sum", "")] == 105


def test_without_a_packet_path_of_ours_there_is_no_histogram() -> None:
    found = values(Sample(document(started=False)))
    assert not any(name.startswith("tunneld_batch_packets") for name in found)


def test_names_follow_the_conventions() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"tunneld_[a-z_]+", metric.name)
        assert not metric.name.endswith("_total"), "added on export, for counters only"
        assert metric.kind in {"counter", "gauge", "histogram"}
        assert metric.help.endswith(".")
        assert set(metric.labels).isdisjoint({"le", "quantile", "job", "instance"})


def test_values() -> None:
    found = values(
        Sample(full(), serving=True, quarantined=3, put_again=4, conflicts=1, taken_at=1e9)
    )
    peer = "direction=outbound,public_ip=10.168.0.3,subnet=100.96.2.0/24"
    assert found["tunneld_build_info,version=0.1.0"] == 1
    assert found["tunneld_state,state=ready"] == 1
    assert found["tunneld_state,state=degraded"] == 0
    assert found["tunneld_ready"] == 1
    assert found["tunneld_lease_expiry_timestamp_seconds"] == pytest.approx(1e9 + 86400)
    assert found["tunneld_store_last_sync_timestamp_seconds"] == pytest.approx(1e9 - 2, abs=1)
    assert found["tunneld_leases_quarantined"] == 3
    assert found["tunneld_lease_restored_total"] == 4
    assert found["tunneld_public_ip_conflicts"] == 1
    assert found[f"tunneld_peer_packets_total,{peer}"] == 1
    assert found[f"tunneld_peer_bytes_total,{peer}"] == 100
    assert found["tunneld_syscalls_total,direction=inbound,operation=write"] == 8
    assert found["tunneld_dropped_packets_total,direction=outbound,reason=no_route"] == 7
    assert found["tunneld_kernel_dropped_packets_total,queue=tun_queue"] == 5
    assert found["tunneld_queue_packets_total,direction=inbound,queue=1"] == 4
    assert found["tunneld_repairs_total,kind=device"] == 2
    assert found["tunneld_offload,feature=coalesce_tcp"] == 1
    assert found["tunneld_offload_downgrades_total,side=udp"] == 5
    assert found["process_resident_memory_bytes"] > 1e6
    assert found["process_cpu_seconds_total"] > 0


def test_a_permanent_lease_never_ends() -> None:
    made = full()
    made["lease"]["expires_in_s"] = None
    assert values(Sample(made))["tunneld_lease_expiry_timestamp_seconds"] == math.inf


def test_before_the_start() -> None:
    found = values(Sample(document(started=False)))
    assert found["tunneld_state,state=starting"] == 1
    assert found["tunneld_store_state,state=connecting"] == 1
    assert found["tunneld_ready"] == 0
    assert "tunneld_lease_expiry_timestamp_seconds" not in found


def test_the_daemon_imports_the_library_only_for_metrics() -> None:
    script = (
        "import sys; import tunneld.daemon, tunneld.cli.status;"
        "print('prometheus_client' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


class Rendered:
    """Counts how often samples are taken."""

    def __init__(self) -> None:
        self.count = 0
        self.threads: set[int] = set()

    def __call__(self) -> Callable[[], Sample]:
        self.count += 1

        def make() -> Sample:
            self.threads.add(threading.get_ident())
            return Sample(full())

        return make


def ends(sample: Rendered, *, public: bool = False, serving: bool = True) -> Endpoints:
    health = Health("ready" if serving else "starting", serving=serving, reasons=("why",))
    return Endpoints(lambda: health, sample, public=public)


async def test_metrics_are_for_loopback_unless_public() -> None:
    other = IPv4Address("10.0.0.1")
    refused = await ends(Rendered()).handlers["/metrics"](other)
    assert refused.status == HTTPStatus.FORBIDDEN
    assert b"--metrics-public" in refused.body
    assert b"tunneld_" not in refused.body
    for public, client in ((False, LOOPBACK), (True, other)):
        answer = await ends(Rendered(), public=public).handlers["/metrics"](client)
        assert (answer.status, answer.content_type) == (HTTPStatus.OK, metrics.CONTENT_TYPE)
        assert b"\ntunneld_ready 0.0\n" in answer.body


async def test_a_flood_of_scrapes_is_one_rendering() -> None:
    sample = Rendered()
    handler = ends(sample).handlers["/metrics"]
    answers = await asyncio.gather(*(handler(LOOPBACK) for _ in range(50)))
    assert len({answer.body for answer in answers}) == 1
    assert sample.count == 1
    assert threading.get_ident() not in sample.threads, "the loop would stall"
    assert len(sample.threads) == 1


async def test_health_and_readiness() -> None:
    for serving, status in ((True, HTTPStatus.OK), (False, HTTPStatus.SERVICE_UNAVAILABLE)):
        handlers = ends(Rendered(), serving=serving).handlers
        assert (await handlers["/healthz"](LOOPBACK)).status == HTTPStatus.OK
        ready = await handlers["/readyz"](LOOPBACK)
        assert (ready.status, ready.body.endswith(b": why\n")) == (status, True)
