"""/metrics: what the status document holds, by Prometheus' conventions for names and units.

`rows` is pure and needs no library; `render` gives the text format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunneld.observe import batches
from tunneld.observe.health import STATES
from tunneld.observe.metric_names import METRICS

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

STORE_STATES = ("connecting", "connected", "disconnected")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Sample:
    """Everything that is shown, as of one moment.

    Attributes:
        document: the status document.
        serving: whether /readyz says 200.
        quarantined: keys of the store that admission skips.
        put_again: how often our key was gone from the store.
        conflicts: other live hosts with our public IP.
        taken_at: `time.time()`.
    """

    document: Mapping[str, Any]
    serving: bool = False
    quarantined: int = 0
    put_again: int = 0
    conflicts: int = 0
    taken_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Distribution:
    """The value of a histogram.

    Attributes:
        buckets: (upper bound, how many up to it); the last bound is +Inf.
        sum: of all that were counted.
    """

    buckets: Sequence[tuple[str, int]]
    sum: int


Row = tuple[str, Sequence[str], float]
"""Name of a metric, label values, value."""

HistogramRow = tuple[str, Sequence[str], Distribution]
"""The same of a histogram."""

_FROM_COUNTERS = {
    "packets_": "tunneld_packets",
    "bytes_": "tunneld_bytes",
    "superpackets_": "tunneld_superpackets",
    "syscalls_": "tunneld_syscalls",
    "drop_": "tunneld_dropped_packets",
    "icmp_sent_": "tunneld_icmp_sent",
}
"""Prefix of a counter's name -> metric; what follows the prefix is the label."""


def rows(sample: Sample) -> Iterator[Row]:
    """Yield every value."""
    document = sample.document
    backend = document["backend"]
    yield "tunneld_build_info", (document["version"],), 1
    yield from _one_of("tunneld_state", STATES, document["state"])
    yield "tunneld_ready", (), sample.serving
    if backend["type"]:
        names = tuple(str(backend[key] or "") for key in ("type", "device", "dataplane"))
        yield "tunneld_backend_info", names, 1
    yield "tunneld_mtu_bytes", (), backend["mtu"]
    yield "tunneld_packet_threads", (), backend["threads"]
    yield from _lease(sample)
    yield from _store(sample)
    yield from _peers(sample)
    for direction in ("outbound", "inbound"):
        yield from _counters(direction, document["counters"][direction])
    for name, value in document["counters"]["kernel"].items():
        yield "tunneld_kernel_dropped_packets", (name.removesuffix("_dropped"),), value
    for number, queue in enumerate(backend["queues"]):
        for direction, value in queue.items():
            yield "tunneld_queue_packets", (str(number), direction), value
    for kind, value in backend["repairs"].items():
        yield "tunneld_repairs", (kind,), value
    yield from _offload(backend["offload"])
    yield from _rules(document["rules"])


def histogram_rows(sample: Sample) -> Iterator[HistogramRow]:
    """Yield every value of the histograms."""
    counters = sample.document["counters"]
    for direction, operations in sample.document["batches"].items():
        for operation, buckets in operations.items():
            # What all calls moved is counted anyway.
            moved = counters[direction][f"packets_{operation}"]
            labels = (direction, _operation(operation))
            made = Distribution(batches.cumulative(buckets), moved)
            yield "tunneld_batch_packets", labels, made


def _operation(name: str) -> str:
    # A label names an operation, not what came of it.
    return name.replace("written", "write")


def _one_of(name: str, words: Iterable[str], now: str) -> Iterator[Row]:
    for word in words:
        yield name, (word,), word == now


def _lease(sample: Sample) -> Iterator[Row]:
    lease = sample.document["lease"]
    if lease["subnet"]:
        yield "tunneld_lease_info", (lease["subnet"], lease["public_ip"]), 1
        left = lease["expires_in_s"]
        ends_at = float("inf") if left is None else sample.taken_at + left
        yield "tunneld_lease_expiry_timestamp_seconds", (), ends_at
    yield "tunneld_lease_restored", (), sample.put_again
    yield "tunneld_public_ip_conflicts", (), sample.conflicts


def _store(sample: Sample) -> Iterator[Row]:
    store = sample.document["store"]
    yield from _one_of("tunneld_store_state", STORE_STATES, store["state"])
    if store["last_sync_s"] is not None:
        at = sample.taken_at - store["last_sync_s"]
        yield "tunneld_store_last_sync_timestamp_seconds", (), at


def _peers(sample: Sample) -> Iterator[Row]:
    peers = sample.document["peers"]
    yield "tunneld_peers", (), len(peers)
    yield "tunneld_peers_skipped", (), len(sample.document["backend"]["skipped"])
    yield "tunneld_leases_quarantined", (), sample.quarantined
    for peer in peers:
        for direction, short in (("outbound", "tx"), ("inbound", "rx")):
            labels = (peer["subnet"], peer["public_ip"], direction)
            yield "tunneld_peer_packets", labels, peer[f"{short}_packets"]
            yield "tunneld_peer_bytes", labels, peer[f"{short}_bytes"]


def _counters(direction: str, counters: Mapping[str, int]) -> Iterator[Row]:
    for name, value in counters.items():
        if name == "icmp_suppressed":
            yield "tunneld_icmp_suppressed", (direction,), value
            continue
        for prefix, metric in _FROM_COUNTERS.items():
            if name.startswith(prefix):
                yield metric, (direction, _operation(name.removeprefix(prefix))), value


def _rules(rules: Mapping[str, Any]) -> Iterator[Row]:
    if not rules:
        return
    yield "tunneld_rules_failed", (), bool(rules["error"])
    # None where there is no such rule.
    if rules["drop_forged_outer"] is not None:
        yield "tunneld_forged_dropped_packets", (), rules["drop_forged_outer"]


def _offload(gauges: Mapping[str, object]) -> Iterator[Row]:
    for name, value in gauges.items():
        if not isinstance(value, int | float):
            continue
        if name.startswith("downgrades_"):
            yield "tunneld_offload_downgrades", (name.removeprefix("downgrades_"),), value
        else:
            yield "tunneld_offload", (name,), value


def families(sample: Sample) -> list[Family]:
    """Return the rows as metric families of prometheus_client, in the order of `METRICS`."""
    from prometheus_client.core import (  # noqa: PLC0415 - 50 ms that only /metrics needs
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    single: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    histograms: dict[str, HistogramMetricFamily] = {}
    made: list[Family] = []
    for metric in METRICS:
        if metric.kind == "histogram":
            many = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            histograms[metric.name] = many
            made.append(many)
            continue
        kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
        single[metric.name] = kind(metric.name, metric.help, labels=metric.labels)
        made.append(single[metric.name])
    for name, labels, value in rows(sample):
        single[name].add_metric(labels, value)
    for name, labels, distribution in histogram_rows(sample):
        histograms[name].add_metric(labels, list(distribution.buckets), distribution.sum)
    return [family for family in made if family.samples]


class _Collector:
    """What prometheus_client asks for."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample

    def collect(self) -> Iterable[Family]:
        """Yield the families of this sample."""
        left = families(self._sample)[::-1]
        # To free the series of thousands of peers at once would hold everybody up for milliseconds.
        while left:
            yield left.pop()


def render(sample: Sample) -> bytes:
    """Return the text format, our process' memory and CPU time included (process_*)."""
    from prometheus_client import (  # noqa: PLC0415
        CollectorRegistry,
        ProcessCollector,
        generate_latest,
    )

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(sample))
    ProcessCollector(registry=registry)
    return generate_latest(registry)
