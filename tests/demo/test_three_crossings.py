"""Lesson "three-crossings": two methods that count the same, and words that follow the figures."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.demo.running import DEMO, check_story, demo, document
from tunneld.demo.lessons import _crossings, _crossings_verdict
from tunneld.demo.lessons._counting import Counted, Place, Proc, Spent
from tunneld.demo.lessons._crossings import Way
from tunneld.lab import tracing
from tunneld.lab.tracing import Calls

FILES = {"read": Calls(made=200, moved=100), "writev": Calls(made=2, moved=2)}
SOCKETS = {"sendmmsg": Calls(made=100, moved=100)}
DATA = {**FILES, **SOCKETS, "poll": Calls(made=90, moved=90)}


def place(calls: dict[str, Calls], switches: int = 90, reads_writes: int = 202) -> Place:
    total = sum(each.made for each in calls.values())
    return Place(calls, total, switches, Proc(reads_writes, 90))


def way(name: str, gbps: float, *, daemons: bool = False, calls: float | None = None) -> Way:
    send = place({"sendto": Calls(100, 100), "clock_nanosleep": Calls(100, 0)})
    receive = place({"recvfrom": Calls(100, 100)})
    places = {"container-1": send, "container-2": receive}
    if daemons:
        places = {"container-1": send, "node1": place(DATA), "node2": place(DATA)} | places
    spent = Spent(100, dict.fromkeys(places, 10.0), 5.0, 60.0, 3.0)
    return Way(name, gbps, Counted(100, places), spent, calls)


def ways(direct: float, vxlan: float, udp: float, best: float) -> dict[str, Way]:
    return {
        "direct": way("no tunnel", direct),
        "vxlan": way("VXLAN", vxlan),
        "udp": way("UDP mode", udp, daemons=True, calls=4.0),
        "best": Way("UDP mode, rung offload", best, calls=0.1),
    }


def verdict(*gbps: float, throttle: str | None = None) -> str:
    return " ".join(_crossings_verdict.paragraphs(ways(*gbps), throttle))


def test_a_call_is_a_copy_if_it_moved_something() -> None:
    found = place(DATA)
    assert found.copies == 202
    assert found.empty == 100
    assert found.other == 90
    assert found.reads_writes == 202, "sendmmsg is none of the kernel's syscr and syscw"


def test_agreement_says_how_far_the_methods_lie_apart() -> None:
    counted = Counted(100, {"node1": place(DATA), "node2": place(DATA, 99, 101)})
    found = _crossings.agreement(counted, "perf")
    assert found["node1"]["reads_and_writes"]["difference"] == 0
    assert found["node2"]["reads_and_writes"]["difference"] == 0.5
    assert found["node2"]["context_switches"]["difference"] == pytest.approx(9 / 99)


def test_words_follow_the_figures() -> None:
    far = verdict(9.0, 6.0, 0.9, 6.5)
    assert "90 % less than no tunnel" in far
    assert "85 % less than VXLAN" in far
    assert "far too kind" in far
    assert "0.10 calls for a packet in place of 4.00" in far
    assert "each packet makes them alone" in far
    assert "about what the claim says" in verdict(9.0, 6.0, 6.6, 6.5)
    slow = verdict(0.19, 0.19, 0.19, 0.19, throttle="200mbit")
    assert "throttled to 200mbit" in slow
    assert "about as much as VXLAN" in slow
    assert "In this run it makes no difference" in slow
    assert "less than the claim says" in verdict(9.0, 9.0, 8.5, 8.5)


def test_drawing_has_the_measured_figures_on_its_arrows() -> None:
    drawn = _crossings.drawing(way("UDP mode", 1.0, daemons=True)).text()
    assert max(map(len, drawn.splitlines())) <= 94
    assert "read 2.00, 1.00 empty" in drawn
    assert "sendmmsg 1.00" in drawn
    assert "switches 0.90, 10.0 us" in drawn
    assert len(_crossings.drawing(way("VXLAN", 1.0)).rows) == 2


def check_counts(told: dict[str, Any]) -> None:
    """See what must hold on any machine: each packet is one call on each side of each program."""
    per = {key: entry.get("per_packet") for key, entry in told["ways"].items()}
    for key in ("direct", "vxlan", "udp"):
        # All of them, unless somebody else holds both CPUs for a quarter of a second.
        assert per[key]["packets_counted"] > 7500
        for name, kind in (("container-1", "sendto"), ("container-2", "recvfrom")):
            counted = per[key]["places"][name]["by_kind"][kind]["moved"]
            assert counted == pytest.approx(1, abs=0.1)
    assert list(per["direct"]["places"]) == ["container-1", "container-2"]
    udp = per["udp"]["places"]
    assert list(udp) == ["container-1", "node1", "node2", "container-2"]
    for name, kinds in (("node1", ("read", "sendmmsg")), ("node2", ("recvmmsg", "writev"))):
        for kind in kinds:
            assert udp[name]["by_kind"][kind]["moved"] == pytest.approx(1, abs=0.1)
        assert udp[name]["copies"] == pytest.approx(2, abs=0.2)
        assert udp[name]["calls"] >= 2
        assert udp[name]["cpu_us"] > 0
    assert "per_packet" not in told["ways"]["best"]
    calls = {
        key: told["ways"][key]["daemon_calls_per_packet_of_the_stream"] for key in ("udp", "best")
    }
    assert calls["best"] < calls["udp"] / 2


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_counts_of_two_methods_agree() -> None:
    assert tracing.tool() is not None, "./run installs perf or bpftrace"
    told = document("three-crossings", "--seconds", "1")
    check_counts(told)
    agreement = told["agreement"]
    assert agreement["available"]
    for name in ("node1", "node2"):
        for what in ("reads_and_writes", "context_switches"):
            each = agreement[name][what]
            assert each["tracepoints"] > 1000
            assert each["proc"] > 1000
            assert each["difference"] <= 0.05, (name, what, each)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_figures_fall_with_the_wire() -> None:
    done = demo("three-crossings", "--seconds", "1", "--throttle", "200mbit", "--solution")
    check_story(done)
    lines = [line for line in done.out.splitlines() if " Gb/s, " in line]
    assert len(lines) == 4
    assert [line for line in lines if not 0 < float(line.split()[0]) < 0.25] == []


def tools_without(directory: Path, *names: str) -> None:
    """Make a directory with all programs of this machine but some."""
    for folder in os.environ["PATH"].split(":"):
        for program in Path(folder).glob("*"):
            link = directory / program.name
            if program.name not in names and not link.is_symlink():
                link.symlink_to(program)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_without_a_tracer_the_programs_own_counts_stand_in(tmp_path: Path) -> None:
    tools_without(tmp_path, "perf", "bpftrace")
    done = subprocess.run(
        [*DEMO, "three-crossings", "--seconds", "1", "--json"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    check_counts(told)
    assert told["tracer"] is None
    assert not told["agreement"]["available"]
    assert "neither perf nor bpftrace" in told["agreement"]["why"]
    assert "apt-get install -y linux-perf" in told["agreement"]["remedy"]
