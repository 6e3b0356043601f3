"""Run a plan: which run comes when, what is done already, and how long the rest will take.

Rounds are interleaved: A B C, B C A, C A B ... In each a contender is brought up once, warmed up,
and meets every workload. The document on disk grows by one run at a time, so that Ctrl-C costs the
run under way and nothing else: the same plan with the same file goes on where it was.

What a contender or a load does is behind the `Bed` protocol; this module only decides.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench import machine as machines
from bench.results import SCHEMA, Document, Run, key_of
from tunneld.errors import ConfigError, TunneldError

Step = tuple[int, str, str]
"""Round, contender, workload: what tells one run from another."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured.

    Attributes:
        setting: of the underlay.
        contenders: names, in the order of the first round.
        workloads: names, in the order of every round.
        rounds: how many.
        seconds: length of each load.
        only: contender -> the workloads that it is needed for; others meet all.
    """

    setting: str
    contenders: tuple[str, ...]
    workloads: tuple[str, ...]
    rounds: int
    seconds: int
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def steps(self) -> list[Step]:
        """Return every run in order."""
        return [
            (number + 1, contender, workload)
            for number in range(self.rounds)
            for contender in rotated(self.contenders, number)
            for workload in self.workloads
            if workload in self.only.get(contender, self.workloads)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return it as a result file holds it."""
        return {
            "setting": self.setting,
            "contenders": list(self.contenders),
            "workloads": list(self.workloads),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "only": {name: list(workloads) for name, workloads in self.only.items()},
        }


def rotated(items: Sequence[str], by: int) -> list[str]:
    """Return the items beginning at another one each round, so that none is always the first."""
    shift = by % len(items)
    return [*items[shift:], *items[:shift]]


class Bed(Protocol):
    """Where contenders run: the lab, or a fake one in tests."""

    def missing(self, contender: str) -> str | None:
        """Return why a contender cannot run here."""

    def up(self, contender: str) -> AbstractContextManager[Mapping[str, Any]]:
        """Bring a contender up and warm it; yields what is told about it (command lines)."""

    def measure(self, step: Step, seconds: int) -> Run:
        """Do one run through the contender that is up.

        Returns:
            All keys of a run but the three of the step.
        """


def new_document(plan: Plan, machine: Mapping[str, Any]) -> Document:
    """Return a document without runs."""
    return {
        "schema": SCHEMA,
        "machine": dict(machine),
        "setting": plan.setting,
        "plan": plan.as_dict(),
        "contenders": {},
        "skipped": {},
        "failures": [],
        "runs": [],
    }


def continued(document: Document, plan: Plan, machine: Mapping[str, Any], source: str) -> Document:
    """Return an earlier document of the same plan, ready to go on; more rounds are the same plan.

    Args:
        document: a valid one, from disk.
        plan: what is wanted now.
        machine: where we are.
        source: the file, for messages.

    Raises:
        ConfigError: it belongs to another plan or another machine.
    """
    remedy = "name another file with --json, or move this one away"
    before, now = document.get("plan"), plan.as_dict()
    if not isinstance(before, dict):
        raise ConfigError("holds no plan, so it cannot go on", source=source, remedy=remedy)
    for key, value in now.items():
        same = before.get(key) == value
        if not same and not (key == "rounds" and value > int(before.get("rounds", 0))):
            was = before.get(key)
            raise ConfigError(
                f"was begun with {was!r}, not {value!r}", source=source, field=key, remedy=remedy
            )
    for key in machines.SAME:
        if document["machine"].get(key) != machine.get(key):
            raise ConfigError(
                "was begun on another machine", source=source, field=key, remedy=remedy
            )
    document["plan"] = now
    for key, empty in (("contenders", {}), ("skipped", {}), ("failures", [])):
        document.setdefault(key, empty)
    if machine.get("commit") != document["machine"].get("commit"):
        document.setdefault("continued_by", []).append(
            {key: machine.get(key) for key in ("date", "tunneld", "commit")}
        )
    return document


def pending(plan: Plan, document: Document) -> list[Step]:
    """Return the runs that are not in the document yet; what failed is tried again."""
    done = {key_of(run) for run in document["runs"]}
    return [
        step for step in plan.steps() if step not in done and step[1] not in document["skipped"]
    ]


class Progress:
    """Counts runs and says how long the rest will take.

    Args:
        total: runs to do.
        seconds: length of a load: the first guess.
        tell: takes a line for a person.
    """

    def __init__(self, total: int, seconds: float, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self._total = total
        self._guess = seconds + 1.5
        self._done = 0
        self._began = time.monotonic()

    def left_s(self) -> float:
        """Return the seconds that the rest will take."""
        spent = time.monotonic() - self._began
        # The guess counts as two runs: one odd run at the start does not rule the forecast.
        each = (spent + 2 * self._guess) / (self._done + 2)
        return each * (self._total - self._done)

    def step(self, what: str) -> None:
        """Tell that one more run is over."""
        self._done += 1
        self.tell(f"{self._done}/{self._total} {what}, {duration(self.left_s())} left")


def duration(seconds: float) -> str:
    """Return "42 s", "3 min 20 s" or "1 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


class Runner:
    """Does what is pending of a plan.

    Args:
        plan: what is wanted.
        document: grows by a run at a time.
        bed: does the work.
        save: writes the document.
        tell: takes lines for a person.
    """

    def __init__(
        self,
        plan: Plan,
        document: Document,
        bed: Bed,
        *,
        save: Callable[[Document], None],
        tell: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._document = document
        self._bed = bed
        self._save = save
        self._tell = tell
        self._progress = Progress(0, plan.seconds, tell)

    def execute(self, *, within_s: float | None = None) -> None:
        """Do it, and save the document after each run.

        Args:
            within_s: begin no round that would end later than this many seconds from now.
        """
        began = time.monotonic()
        for name in self._plan.contenders:
            self._document["skipped"].pop(name, None)
            if (reason := self._bed.missing(name)) is not None:
                self._document["skipped"][name] = reason
                self._tell(f"skipped: {name}: {reason}")
        todo = pending(self._plan, self._document)
        self._progress = Progress(len(todo), self._plan.seconds, self._tell)
        longest = 0.0
        for number, steps in itertools.groupby(todo, key=lambda step: step[0]):
            started = time.monotonic()
            if within_s is not None and longest and started - began + longest > within_s:
                self._tell(f"no time for round {number}: each takes {duration(longest)}")
                break
            for contender, group in itertools.groupby(steps, key=lambda step: step[1]):
                self._contender(contender, list(group))
            longest = max(longest, time.monotonic() - started)
        self._save(self._document)

    def _contender(self, contender: str, left: list[Step]) -> None:
        """Bring one up and do its runs of one round."""
        with self._failing(left), self._bed.up(contender) as told:
            self._document["contenders"][contender] = dict(told)
            while left:
                with self._failing(left[:1]):
                    self._run(left[0])
                left.pop(0)
                self._save(self._document)

    def _run(self, step: Step) -> None:
        run = self._bed.measure(step, self._plan.seconds)
        number, contender, workload = step
        key = {"round": number, "contender": contender, "workload": workload}
        self._document["runs"].append(key | run)
        self._forget_failure(step)
        self._progress.step(_line(step, self._plan, run))

    @contextlib.contextmanager
    def _failing(self, steps: list[Step]) -> Iterator[None]:
        """Enter an error of the block as a failure of the steps that it cost, and go on."""
        try:
            yield
        except (TunneldError, OSError) as error:
            if not steps:
                self._tell(f"taking it down: {error}")
            for step in steps:
                self._forget_failure(step)
                number, contender, workload = step
                key = {"round": number, "contender": contender, "workload": workload}
                self._document["failures"].append(key | {"error": str(error)})
                self._progress.step(f"round {number} {contender} {workload}: FAILED: {error}")

    def _forget_failure(self, step: Step) -> None:
        kept = [entry for entry in self._document["failures"] if key_of(entry) != step]
        self._document["failures"] = kept


def _line(step: Step, plan: Plan, run: Run) -> str:
    number, contender, workload = step
    noisy = "" if run["quiet"] else " (disturbed)"
    said = f" {run['said']}" if run.get("said") else ""
    return f"round {number}/{plan.rounds} {contender} {workload}{said}{noisy}"
