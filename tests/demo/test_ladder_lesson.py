"""Lesson "ladder": measured in the run it is told in, whatever comes out."""

from __future__ import annotations

from typing import Any

import pytest

from tests.demo.running import check_story, demo, document
from tunneld.demo.lessons import _rungs
from tunneld.demo.lessons._rungs import RUNGS, Result

NAMES = [*(rung.name for rung in RUNGS), "VXLAN", "no tunnel"]


def result(name: str, gbps: float, calls: float | None = None, cpu: float = 2.0) -> Result:
    return Result(name, gbps, cpu, calls)


def by_name(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in told["rungs"]}


def test_words_follow_the_figures() -> None:
    steep = [
        result("python", 0.5, 4.0),
        result("syscall", 0.52, 3.9),
        result("offload", 5.0, 0.1),
        result("VXLAN", 5.2),
    ]
    text = " ".join(_rungs.conclusions(_rungs.with_ratios(steep), None))
    assert "from syscall to offload: 9.6 times" in text
    assert "From the bottom to the top it is 10.0 times" in text
    assert "level with VXLAN (0.96" in text
    assert "no order can be seen between python and syscall" in text

    flat = [
        result("python", 0.19, 4.0, cpu=30),
        result("offload", 0.19, 0.3, cpu=3),
        result("VXLAN", 0.19),
    ]
    text = " ".join(_rungs.conclusions(_rungs.with_ratios(flat), "200mbit"))
    assert "All rungs carry the same here: the wire is throttled to 200mbit" in text
    assert "30.0 s for a gigabyte on rung python, 3.0 on rung offload" in text

    odd = [result("mmsg", 2.0, 2.0), result("gso", 1.0, 1.0), result("VXLAN", 0.5)]
    text = " ".join(_rungs.conclusions(_rungs.with_ratios(odd), None))
    assert "gso carries less than mmsg in this run" in text
    assert "mmsg, is faster than VXLAN (4.00" in text


def test_bars_grow_row_by_row() -> None:
    rows = [result("python", 0.5, 4.0), result("syscall", 1.0, 3.9), result("VXLAN", 5.2)]
    for count in (1, 2, 3):
        text = _rungs.bars(rows[:count]).text()
        assert len(text.splitlines()) == 1 + count
    assert "3.90 calls per packet" in text
    assert text.splitlines()[3].endswith("no daemon")


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_nothing_is_canned() -> None:
    first, again = (by_name(document("ladder", "--seconds", "1")) for _ in range(2))
    assert list(first) == list(again) == NAMES
    for name in NAMES:
        for figure in ("gbps", "cpu_s_per_gb"):
            assert first[name][figure] > 0
        assert first[name] != again[name], "two runs never agree in every digit"
    for told in (first, again):
        assert told["VXLAN"]["ratio"] == 1
        assert told["VXLAN"]["calls_per_packet"] is None
        # Counted, so it holds on a crowded machine too: a read and a write on each node at least
        # where each packet is alone, and much less where 64 KiB cross at a time.
        assert told["syscall"]["calls_per_packet"] >= 4
        assert told["mmsg"]["calls_per_packet"] < told["syscall"]["calls_per_packet"]
        assert told["offload"]["calls_per_packet"] < told["syscall"]["calls_per_packet"] / 2


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_figures_fall_with_the_wire() -> None:
    told = document("ladder", "--seconds", "1", "--throttle", "200mbit")
    assert told["throttle"] == "200mbit"
    assert list(by_name(told)) == NAMES
    # The bucket (128 KiB) and what TCP had in its buffers count in so short a run.
    assert [each for each in told["rungs"] if not 0 < each["gbps"] < 0.25] == []


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_ladder_is_a_text() -> None:
    done = demo("ladder", "--seconds", "1", "--solution")
    check_story(done)
    for name in NAMES:
        assert f"   {name}" in done.out
