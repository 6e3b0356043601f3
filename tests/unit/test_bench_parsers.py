"""What the benchmark reads from other programs and from /proc, on outputs that were recorded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import machine, metrics, noise
from bench.common import PingResult, UdpResult
from bench.workloads import parse_iperf, udp_outcome
from tunneld.lab import tracing
from tunneld.lab.machine import parse_io, softirq_raised, status_switches
from tunneld.lab.process import CommandError

DATA = Path(__file__).parent.parent / "data" / "bench"
TICKS = os.sysconf("SC_CLK_TCK")


def text(name: str) -> str:
    return (DATA / name).read_text()


def test_iperf_one_stream_counts_what_arrived() -> None:
    outcome = parse_iperf(text("iperf3-tcp1.json"))
    assert outcome.metrics["gbps"] == pytest.approx(9.20834737)
    assert outcome.metrics["retransmits"] == 14
    assert outcome.size == 1155006464
    assert outcome.packets == pytest.approx(1155006464 / 32768)


def test_iperf_four_streams_are_one_sum() -> None:
    outcome = parse_iperf(text("iperf3-tcp4.json"))
    assert outcome.metrics["gbps"] == pytest.approx(14.6003494)
    assert outcome.size == 1850736640


def test_iperf_both_directions_are_added_up() -> None:
    outcome = parse_iperf(text("iperf3-bidir.json"))
    assert outcome.size == 445644800 + 128581632
    assert outcome.metrics["gbps"] == pytest.approx(3.55925004 + 1.02694832)
    assert outcome.metrics["retransmits"] == 4


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (text("iperf3-refused.json"), "Connection refused"),
        ("iperf3: error - something", "something"),
        ("", "no output"),
        ('{"start": {}, "end": {}}', "without a result"),
        (text("iperf3-tcp1.json").replace('"end":', '"error": "lost it", "end":'), "lost it"),
    ],
)
def test_iperf_that_failed_says_why(said: str, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        parse_iperf(said)


def test_round_trips_come_with_their_distribution() -> None:
    result = PingResult.parse(text("udpgen-ping.json"))
    assert result.figures["rtt_us_min"] == 10.1
    assert result.figures["rtt_us_p50"] == 10.6
    assert "histogram" not in result.figures
    bounds = [bound for bound, _ in result.histogram]
    assert bounds == sorted(bounds)
    assert sum(count for _, count in result.histogram) == result.figures["count"] == 3995


def test_datagrams_of_mixed_sizes_count_by_their_mean() -> None:
    result = UdpResult(
        kpps=10.0,
        offered_kpps=20.0,
        loss=0.5,
        sent=20_000,
        received=10_000,
        duplicates=1,
        reordered=2,
        malformed=0,
    )
    outcome = udp_outcome(result, "64-127", 1.0)
    assert outcome.packets == 10_000
    assert outcome.size == 955_000
    assert outcome.metrics["gbps"] == pytest.approx(0.00764)
    assert outcome.metrics["loss"] == 0.5


def test_perf_counts_both_events() -> None:
    found = tracing.parse_perf("some warning\n" + text("perf-stat.txt"))
    assert found == {"raw_syscalls:sys_enter": 145, "context-switches": 1}


def test_perf_that_saw_nothing_counts_nothing() -> None:
    assert tracing.parse_perf(text("perf-stat-idle.txt")) == {}


def test_io_counts_reads_and_writes() -> None:
    assert parse_io("rchar: 6976\nwchar: 7\nsyscr: 10\nsyscw: 3\nread_bytes: 0\n") == (10, 3)


def test_raised_softirqs_are_those_of_all_cpus() -> None:
    table = "   CPU0  CPU1\n  NET_TX:   5   1\n  NET_RX:  20  22\n  SCHED: 1 1\n"
    assert softirq_raised(table, "NET_RX") == 42


@pytest.mark.parametrize(
    "found",
    [
        {"syscalls:sys_enter_read": 9, "syscalls:sys_exit_read": 4, "sched:sched_switch": 2},
        {"made_read": 9, "moved_read": 4, "switches": 2},
    ],
)
def test_calls_of_either_tool_by_kind(found: dict[str, int]) -> None:
    counts = tracing.Counts("a tool")
    counts.take(found, ["read", "write"])
    assert counts.calls == {"read": tracing.Calls(made=9, moved=4)}, "no write was made"
    assert counts.switches == 2


def test_bpftrace_prints_its_maps() -> None:
    assert tracing.parse_bpftrace(text("bpftrace.txt")) == {"switches": 391, "syscalls": 1284}


def test_ethtool_lists_what_can_be_on() -> None:
    found = machine.parse_features(text("ethtool-k-veth.txt"))
    assert found["tx-udp-segmentation"] is False
    assert found["tx-tcp-segmentation"] is True
    assert found["generic-receive-offload"] is True
    assert "large-receive-offload" not in found, "it can never be on"


def test_machine_out_of_cpuinfo() -> None:
    cpuinfo = "".join(
        f"processor: {cpu}\nmodel name\t: Some CPU 7\nphysical id\t: 0\ncore id\t\t: {cpu // 2}\n\n"
        for cpu in range(4)
    )
    assert machine.parse_cpu(cpuinfo) == "Some CPU 7"
    assert machine.parse_cores(cpuinfo) == 2
    assert machine.parse_cpu("processor: 0\n") == ""
    assert machine.parse_memory("MemTotal:       1000 kB\nMemFree: 1 kB\n") == 1_024_000
    assert machine.first_number("iperf 3.12 (cJSON 1.7.15)") == "3.12"


def test_mitigations_name_the_flaws_of_this_cpu_only(tmp_path: Path) -> None:
    (tmp_path / "meltdown").write_text("Not affected\n")
    (tmp_path / "spectre_v2").write_text("Mitigation: Retpolines\n")
    assert machine.mitigations(tmp_path) == {"spectre_v2": "Mitigation: Retpolines"}


def test_machine_is_told_in_one_line() -> None:
    line = machine.machine_line(
        {"date": "2026-11-21", "cpus": 2, "cpu": "X", "kernel": "6.18", "python": "3.11"}
    )
    assert line == "2026-11-21, 2 x X, Linux 6.18, Python 3.11"


def test_context_switches_of_task_and_machine() -> None:
    status = "Name:\tx\nvoluntary_ctxt_switches:\t10\nnonvoluntary_ctxt_switches:\t3\n"
    assert status_switches(status) == 13
    assert status_switches(text("task-status.txt")) > 0
    assert metrics.machine_switches(text("proc-stat.txt")) == 85864091


def test_stolen_time_is_the_eighth_figure() -> None:
    assert noise.stolen_seconds(text("proc-stat.txt")) == 1485 / TICKS


def test_process_times_with_those_of_its_children() -> None:
    fields = "4242 (x (y) z) S 7 4242 4242 0 -1 4194304 133 0 0 0 100 20 3 4 20 0 1 0 1256402"
    assert noise.parse_stat(fields) == (7, 127 / TICKS)
