"""Statistics of the benchmark on figures that are known, and what it says about noise."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import noise, stats
from bench.metrics import Snapshot, derived
from bench.results import Run
from bench.stats import Spread


def run(number: int, contender: str, gbps: float, *, quiet: bool = True) -> Run:
    return {
        "round": number,
        "contender": contender,
        "workload": "tcp1",
        "metrics": {"gbps": gbps, "cpu_s_per_gb": 1 / gbps},
        "quiet": quiet,
    }


def both(own: list[float], yardstick: list[float]) -> list[Run]:
    return [
        *(run(number, "udp", value) for number, value in enumerate(own, 1)),
        *(run(number, "vxlan", value) for number, value in enumerate(yardstick, 1)),
    ]


def test_median_and_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([3.0, 1.0, 2.0]).text(".1f") == "2.0 (1.0-3.0)"


def test_ratio_compares_within_a_round() -> None:
    """The second round was twice as fast for both: the ratio does not see that."""
    runs = both([5.0, 10.0], [10.0, 20.0])
    assert stats.ratio(runs, "udp", "vxlan", "tcp1", "gbps") == Spread(0.5, 0.5, 0.5)


def test_ratio_leaves_out_rounds_that_one_of_them_has_not() -> None:
    runs = [*both([5.0], [10.0]), run(2, "udp", 99.0), run(3, "vxlan", 99.0)]
    assert stats.ratios(runs, "udp", "vxlan", "tcp1", "gbps") == {1: 0.5}
    assert stats.ratio(runs, "udp", "direct", "tcp1", "gbps") is None


def test_ratio_to_nothing_is_none() -> None:
    runs = both([5.0], [10.0])
    runs[1]["metrics"]["gbps"] = 0.0
    assert stats.ratio(runs, "udp", "vxlan", "tcp1", "gbps") is None


@pytest.mark.parametrize(
    ("median", "metric", "expected"),
    [
        (0.10, "gbps", "worse"),
        (0.84, "gbps", "worse"),
        (0.90, "gbps", "tie"),
        (1.14, "gbps", "tie"),
        (1.20, "gbps", "better"),
        (1.20, "cpu_s_per_gb", "worse"),
        (0.50, "rtt_us_p50", "better"),
    ],
)
def test_verdict_knows_which_way_is_good_and_what_is_noise(
    median: float, metric: str, expected: str
) -> None:
    assert stats.verdict(Spread(median, median, median), metric) == expected


def test_deviation_is_a_share_of_the_mean() -> None:
    assert stats.deviation([9.0, 10.0, 11.0]) == pytest.approx(0.1)
    assert stats.deviation([5.0]) == 0.0
    assert stats.deviation([0.0, 0.0]) == 0.0


def test_doubts_about_figures_that_spread() -> None:
    runs = both([5.0, 10.0, 5.0], [10.0, 10.1, 9.9])
    (said,) = stats.doubts(runs, {"tcp1": "gbps"})
    assert "udp, tcp1" in said
    assert "43%" in said


def test_doubts_about_noise_and_single_rounds() -> None:
    runs = [run(1, "udp", 5.0, quiet=False), run(1, "vxlan", 5.0)]
    noisy, single = stats.doubts(runs, {"tcp1": "gbps"})
    assert "1 of 2 runs" in noisy
    assert "one round" in single


def test_doubts_about_a_round_that_was_interrupted() -> None:
    runs = both([5.0, 5.1], [10.0, 10.1])
    for place, each in enumerate(runs):
        each["began"] = 1000.0 + 30 * place
    assert stats.doubts(runs, {"tcp1": "gbps"}) == []
    last = next(each for each in reversed(runs) if each["round"] == 2)
    last["began"] += 3600 * 24
    (said,) = stats.doubts(runs, {"tcp1": "gbps"})
    assert "Round 2 was interrupted for 14" in said


def test_no_doubt_about_good_figures() -> None:
    assert stats.doubts(both([5.0, 5.1, 4.9], [10.0, 10.1, 9.9]), {"tcp1": "gbps"}) == []


def test_figures_per_packet_and_per_gigabyte() -> None:
    before = Snapshot(100.0, 10.0, 1000, 50, 500)
    after = Snapshot(102.0, 11.0, 3000, 150, 700)
    found = derived(before, after, packets=1000, size=5e8)
    assert found["cpu_s_per_gb"] == pytest.approx(4.0)
    assert found["tunnel_cpu_s_per_gb"] == pytest.approx(2.0)
    assert found["cpu_us_per_packet"] == pytest.approx(2000)
    assert found["syscalls_per_packet"] == pytest.approx(0.2)
    assert found["context_switches_per_packet"] == pytest.approx(0.1)
    assert found["machine_context_switches_per_packet"] == pytest.approx(2.0)


def test_nothing_delivered_is_no_division() -> None:
    before = Snapshot(100.0, 0.0, 1000, 0, None)
    found = derived(before, Snapshot(101.0, 0.0, 1001, 0, None), packets=0, size=0)
    assert found == {"cpu_s": 1.0, "tunnel_cpu_s": 0.0, "packets": 0, "bytes": 0}


def test_system_calls_that_nobody_counted_are_absent() -> None:
    before = Snapshot(0.0, 0.0, 0, 0, None)
    found = derived(before, Snapshot(1.0, 1.0, 1, 1, None), packets=1, size=1)
    assert "syscalls_per_packet" not in found


class Clock:
    """Time that goes on by a quarter of a second at each look."""

    def __init__(self, shares: list[float]) -> None:
        self.now = 0.0
        self.shares = shares
        self.looks = 0

    def look(self) -> float:
        self.now += 0.25
        self.looks += 1
        return self.shares.pop(0) if self.shares else 1.0


def test_quiet_machine_is_looked_at_once() -> None:
    clock = Clock([0.01])
    assert noise.wait_for_quiet(10, busy=clock.look, clock=lambda: clock.now) == (0.01, 0.0)


def test_waits_until_it_is_quiet() -> None:
    clock = Clock([0.9, 0.5, 0.02])
    assert noise.wait_for_quiet(10, busy=clock.look, clock=lambda: clock.now) == (0.02, 0.5)


def test_waits_a_bounded_time_only() -> None:
    clock = Clock([])
    share, waited = noise.wait_for_quiet(2, busy=clock.look, clock=lambda: clock.now)
    assert share == 1.0
    assert waited <= 2
    assert clock.looks == 8


def test_noise_during_a_run_is_noise_too() -> None:
    assert noise.Noise(0.01, 0.02, 0.0, 0.0).quiet
    assert not noise.Noise(0.01, 0.5, 0.0, 0.0).quiet
    assert not noise.Noise(0.01, 0.0, 0.1, 3.0).quiet
    assert not noise.Noise(0.3, 0.0, 0.0, 10.0).quiet


def test_foreign_time_is_that_of_others() -> None:
    table = {
        1: (0, 5.0),  # init
        2: (0, 7.0),  # kthreadd: works for the traffic
        20: (2, 7.0),
        100: (1, 1.0),  # a shell
        200: (100, 2.0),  # we
        201: (200, 4.0),  # our load
        300: (100, 8.0),  # a neighbour
        301: (300, 16.0),
        400: (1, 32.0),  # ours, though it made itself independent
    }
    assert noise.foreign_seconds(table, {200, 400}) == 5 + 1 + 8 + 16


@given(st.floats(0, 10), st.floats(0, 10))
def test_shares_are_of_the_whole_machine(used: float, stolen: float) -> None:
    earlier = noise.Foreign(0.0, 100.0, 50.0)
    later = noise.Foreign(10.0, 100.0 + used, 50.0 + stolen)
    whole = 10.0 * (os.cpu_count() or 1)
    assert earlier.shares(later) == pytest.approx((used / whole, stolen / whole))
