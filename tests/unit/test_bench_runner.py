"""The benchmark's plan, its order, and going on after an interruption; with a fake bed."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from bench import runner
from bench.results import Document, Run, key_of, validate
from bench.runner import Plan, Runner, Step, continued, new_document, pending
from tunneld.errors import ConfigError, TunneldError

MACHINE = {"cpu": "X", "cpus": 2, "kernel": "6.18", "mitigations": {}, "commit": "a", "date": "d"}
PLAN = Plan("sgro", ("a", "b", "c"), ("w1", "w2"), rounds=2, seconds=1)


class FakeBed:
    """Remembers what was asked of it; fails or is interrupted on demand."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.absent: dict[str, str] = {}
        self.broken: set[Step] = set()
        self.dead: set[str] = set()
        self.interrupt_at: Step | None = None

    def missing(self, contender: str) -> str | None:
        return self.absent.get(contender)

    @contextlib.contextmanager
    def up(self, contender: str) -> Iterator[Mapping[str, Any]]:
        if contender in self.dead:
            raise TimeoutError("no echo reply")
        self.events.append(f"up {contender}")
        try:
            yield {"command_lines": [f"run {contender}"]}
        finally:
            self.events.append(f"down {contender}")

    def measure(self, step: Step, seconds: int) -> Run:
        assert seconds == 1
        if step == self.interrupt_at:
            raise KeyboardInterrupt
        if step in self.broken:
            raise TunneldError("it broke")
        self.events.append(f"{step[1]} {step[2]}")
        return {"metrics": {"gbps": 1.0}, "quiet": True}


class Bench:
    """A runner on a fake bed that keeps every document it has saved."""

    def __init__(self, plan: Plan = PLAN) -> None:
        self.plan = plan
        self.bed = FakeBed()
        self.document: Document = new_document(plan, MACHINE)
        self.saved: list[Document] = []
        self.told: list[str] = []

    def execute(self, within_s: float | None = None) -> None:
        Runner(
            self.plan,
            self.document,
            self.bed,
            save=lambda document: self.saved.append(copy.deepcopy(document)),
            tell=self.told.append,
        ).execute(within_s=within_s)


def test_rounds_are_interleaved_and_begin_with_another_each_time() -> None:
    bench = Bench(Plan("sgro", ("a", "b", "c"), ("w",), rounds=3, seconds=1))
    bench.execute()
    order = [event.split()[1] for event in bench.bed.events if event.startswith("up")]
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]


def test_every_workload_while_a_contender_is_up() -> None:
    bench = Bench()
    bench.execute()
    assert bench.bed.events[:4] == ["up a", "a w1", "a w2", "down a"]
    assert len(bench.document["runs"]) == 12
    validate(json.loads(json.dumps(bench.document)), "memory")


def test_workloads_that_a_contender_is_not_needed_for_are_left_out() -> None:
    bench = Bench(Plan("sgro", ("a", "b"), ("w1", "w2"), 1, 1, {"b": ("w2",)}))
    bench.execute()
    assert [key_of(run) for run in bench.document["runs"]] == [
        (1, "a", "w1"),
        (1, "a", "w2"),
        (1, "b", "w2"),
    ]


def test_document_is_on_disk_after_each_run() -> None:
    bench = Bench()
    bench.execute()
    assert [len(document["runs"]) for document in bench.saved] == [*range(1, 13), 12]


def test_interrupted_run_is_lost_and_the_rest_is_done_later() -> None:
    bench = Bench()
    bench.bed.interrupt_at = (1, "b", "w2")
    with pytest.raises(KeyboardInterrupt):
        bench.execute()
    assert bench.bed.events[-1] == "down b", "the contender was taken down"
    partial = bench.saved[-1]
    assert [key_of(run) for run in partial["runs"]] == [
        (1, "a", "w1"),
        (1, "a", "w2"),
        (1, "b", "w1"),
    ]

    again = Bench()
    again.document = continued(json.loads(json.dumps(partial)), PLAN, MACHINE, "r.json")
    again.execute()
    assert again.bed.events[:3] == ["up b", "b w2", "down b"], "it goes on where it was"
    assert sorted(key_of(run) for run in again.document["runs"]) == sorted(PLAN.steps())


def test_finished_file_has_nothing_to_do() -> None:
    bench = Bench()
    bench.execute()
    assert pending(PLAN, bench.document) == []
    bench.bed.events.clear()
    bench.execute()
    assert bench.bed.events == []


def test_more_rounds_are_added_to_a_finished_file() -> None:
    bench = Bench()
    bench.execute()
    more = Plan("sgro", ("a", "b", "c"), ("w1", "w2"), rounds=3, seconds=1)
    document = continued(bench.document, more, MACHINE, "r.json")
    assert {step[0] for step in pending(more, document)} == {3}
    assert document["plan"]["rounds"] == 3


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (Plan("plain", ("a", "b", "c"), ("w1", "w2"), 2, 1), "setting"),
        (Plan("sgro", ("a", "b"), ("w1", "w2"), 2, 1), "contenders"),
        (Plan("sgro", ("a", "b", "c"), ("w1",), 2, 1), "workloads"),
        (Plan("sgro", ("a", "b", "c"), ("w1", "w2"), 2, 5), "seconds"),
        (Plan("sgro", ("a", "b", "c"), ("w1", "w2"), 1, 1), "rounds"),
    ],
)
def test_another_plan_does_not_go_on_in_this_file(plan: Plan, field: str) -> None:
    with pytest.raises(ConfigError, match=rf"r\.json, {field}: .*another file with --json"):
        continued(new_document(PLAN, MACHINE), plan, MACHINE, "r.json")


def test_another_machine_does_not_go_on_in_this_file() -> None:
    with pytest.raises(ConfigError, match="kernel: was begun on another machine"):
        continued(new_document(PLAN, MACHINE), PLAN, MACHINE | {"kernel": "6.1"}, "r.json")


def test_file_without_a_plan_does_not_go_on() -> None:
    document = new_document(PLAN, MACHINE)
    del document["plan"]
    with pytest.raises(ConfigError, match="holds no plan"):
        continued(document, PLAN, MACHINE, "r.json")


def test_another_version_of_us_is_noted() -> None:
    document = continued(new_document(PLAN, MACHINE), PLAN, MACHINE | {"commit": "b"}, "r.json")
    assert [entry["commit"] for entry in document["continued_by"]] == ["b"]


def test_missing_contender_is_skipped_with_its_reason() -> None:
    bench = Bench()
    bench.bed.absent["b"] = "not installed: apt-get install b"
    bench.execute()
    assert bench.document["skipped"] == {"b": "not installed: apt-get install b"}
    assert {run["contender"] for run in bench.document["runs"]} == {"a", "c"}
    assert any("apt-get install b" in line for line in bench.told)


def test_contender_that_was_installed_meanwhile_is_measured() -> None:
    bench = Bench()
    bench.bed.absent["b"] = "not installed"
    bench.execute()
    bench.bed.absent.clear()
    bench.execute()
    assert bench.document["skipped"] == {}
    assert pending(PLAN, bench.document) == []


def test_failed_run_costs_only_itself_and_is_tried_again() -> None:
    bench = Bench()
    bench.bed.broken = {(1, "a", "w1")}
    bench.execute()
    (failure,) = bench.document["failures"]
    assert failure == {"round": 1, "contender": "a", "workload": "w1", "error": "it broke"}
    assert len(bench.document["runs"]) == 11
    bench.bed.broken.clear()
    bench.execute()
    assert bench.document["failures"] == []
    assert len(bench.document["runs"]) == 12


def test_contender_that_does_not_come_up_costs_its_runs() -> None:
    bench = Bench()
    bench.bed.dead = {"b"}
    bench.execute()
    failed = {(each["round"], each["contender"]) for each in bench.document["failures"]}
    assert failed == {(1, "b"), (2, "b")}
    assert len(bench.document["failures"]) == 4
    assert len(bench.document["runs"]) == 8


def test_no_round_begins_that_would_end_too_late() -> None:
    bench = Bench(Plan("sgro", ("a",), ("w",), rounds=3, seconds=1))
    bench.execute(within_s=0.0)
    assert len(bench.document["runs"]) == 1, "the first round is always done"
    assert any("no time for round 2" in line for line in bench.told)


def test_progress_counts_down() -> None:
    told: list[str] = []
    progress = runner.Progress(10, 2.0, told.append)
    before = progress.left_s()
    progress.step("x")
    assert told[0].startswith("1/10 x, ")
    assert told[0].endswith(" left")
    assert progress.left_s() < before


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (200, "3 min 20 s"), (3900, "1 h 05 min")],
)
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert runner.duration(seconds) == text
