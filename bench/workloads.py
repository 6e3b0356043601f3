"""The workloads: what is sent from container to container, and which figures it gives.

TCP by iperf3, datagrams by udpgen.c; both end by themselves, and are killed when they do not. CPU
and counts are taken around the load alone, not around starting and stopping the programs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench import common
from tunneld.errors import ConfigError
from tunneld.lab import iperf, process

if TYPE_CHECKING:
    from tunneld.lab import Container

RATE_PPS = 50_000

Meter = AbstractContextManager[object]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the load generators say of one run.

    Attributes:
        metrics: figures by name.
        packets: inner packets that were delivered (TCP: payload divided by the segment size).
        size: payload bytes that were delivered.
        histograms: name -> (upper bound, count), pingpong only.
    """

    metrics: dict[str, float]
    packets: float
    size: float = 0.0
    histograms: dict[str, list[tuple[float, int]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of load.

    Attributes:
        name: on the command line and in results.
        title: for people.
        headline: the metric that it is about.
        columns: the metrics of its table, headline first.
        run: the load; (one, other, seconds, meter) -> outcome, the meter entered around it.
    """

    name: str
    title: str
    headline: str
    columns: tuple[str, ...]
    run: Callable[[Container, Container, int, Meter], Outcome]


def _tcp(*options: str) -> Callable[[Container, Container, int, Meter], Outcome]:
    def run(one: Container, other: Container, seconds: int, meter: Meter) -> Outcome:
        argv = [*iperf.client_command(other.address, seconds), "-J", "-i", "0", *options]
        argv += ["--connect-timeout", "5000"]
        with iperf.serving(other), meter:
            said = one.run(argv, check=False, timeout=seconds + common.GRACE_S)
        return parse_iperf(said.stdout or said.stderr)

    return run


def parse_iperf(text: str) -> Outcome:
    """Return what `iperf3 -J` says was received; both directions added up with --bidir.

    Raises:
        CommandError: it failed, with what it said.
    """
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError:
        raise process.CommandError(f"iperf3: {text.strip()[:200] or 'no output'}") from None
    end = document.get("end", {})
    if "error" in document or "sum_received" not in end:
        raise process.CommandError(f"iperf3: {document.get('error', 'ended without a result')}")
    received = [end[name] for name in ("sum_received", "sum_received_bidir_reverse") if name in end]
    sent = [end[name] for name in ("sum_sent", "sum_sent_bidir_reverse") if name in end]
    size = float(sum(entry["bytes"] for entry in received))
    return Outcome(
        {
            "gbps": sum(entry["bits_per_second"] for entry in received) / 1e9,
            "retransmits": sum(entry.get("retransmits", 0) for entry in sent),
            "seconds": received[0]["seconds"],
        },
        packets=size / document["start"]["tcp_mss_default"],
        size=size,
    )


def _udp(size: str, pps: int = 0) -> Callable[[Container, Container, int, Meter], Outcome]:
    def run(one: Container, other: Container, seconds: int, meter: Meter) -> Outcome:
        result = common.udp(one, other, size=size, seconds=seconds, pps=pps, meter=meter)
        return udp_outcome(result, size, seconds)

    return run


def udp_outcome(result: common.UdpResult, size: str, seconds: float) -> Outcome:
    """Return the figures of one run of datagrams.

    Args:
        result: of the generator.
        size: payload bytes or a range of them; of a range the middle counts.
        seconds: of sending.
    """
    ends = [int(word) for word in size.split("-")]
    delivered = result.received * (ends[0] + ends[-1]) / 2
    return Outcome(
        {
            "kpps": result.kpps,
            "gbps": delivered * 8 / seconds / 1e9,
            "offered_kpps": result.offered_kpps,
            "loss": result.loss,
            "duplicates": result.duplicates,
            "reordered": result.reordered,
            "malformed": result.malformed,
            "seconds": seconds,
        },
        packets=result.received,
        size=delivered,
    )


def _pingpong(one: Container, other: Container, seconds: int, meter: Meter) -> Outcome:
    result = common.ping_pong(one, other, seconds=seconds, meter=meter)
    if not result.figures["count"]:
        raise process.CommandError("pingpong: no answer came")
    return Outcome(
        {**result.figures, "seconds": seconds},
        packets=2 * result.figures["count"],
        histograms={"rtt_us": result.histogram},
    )


_STREAM = ("gbps", "cpu_s_per_gb", "tunnel_cpu_s_per_gb", "syscalls_per_packet", "retransmits")
_PACKETS = ("kpps", "cpu_us_per_packet", "syscalls_per_packet", "loss", "reordered")
_LATENCY = ("rtt_us_p50", "rtt_us_min", "rtt_us_p99", "context_switches_per_packet")
_RATE = ("cpu_us_per_packet", "tunnel_cpu_us_per_packet", "syscalls_per_packet", "kpps", "loss")

WORKLOADS: Mapping[str, Workload] = {
    item.name: item
    for item in (
        Workload("tcp1", "TCP, one stream", "gbps", _STREAM, _tcp()),
        Workload("tcp4", "TCP, four streams", "gbps", _STREAM, _tcp("-P", "4")),
        Workload("tcp-bidir", "TCP, both ways at once", "gbps", _STREAM, _tcp("--bidir")),
        Workload("udp64", "datagrams of 64 bytes", "kpps", _PACKETS, _udp("64")),
        Workload("udp-mixed", "datagrams of 64-127 bytes", "kpps", _PACKETS, _udp("64-127")),
        Workload("udp1400", "datagrams of 1400 bytes", "kpps", _PACKETS, _udp("1400")),
        Workload("pingpong", "one datagram there and back", "rtt_us_p50", _LATENCY, _pingpong),
        Workload("rate50k", "50,000 datagrams/s", "cpu_us_per_packet", _RATE, _udp("64", RATE_PPS)),
    )
}

HEADLINES: Mapping[str, str] = {item.name: item.headline for item in WORKLOADS.values()}
"""Workload -> the metric that it is about."""


def choose(names: Sequence[str]) -> list[Workload]:
    """Return the named workloads.

    Raises:
        ConfigError: no such workload.
    """
    for name in names:
        if name not in WORKLOADS:
            raise ConfigError(
                f"no workload {name!r}",
                field="--workload",
                remedy=f"one of {', '.join(WORKLOADS)}",
            )
    return [WORKLOADS[name] for name in dict.fromkeys(names)]
