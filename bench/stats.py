"""Statistics over the rounds: median and range, ratios within a round, and doubt about them.

All pure. A ratio compares only runs of one round: the machine's mood changes from round to round by
10-15 %, and it does so for all contenders alike.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.metrics import METRICS
from bench.results import Run, figures

NOISE = 0.15
"""Differences below this share are ties; a deviation above it is worth a warning."""

APART_S = 600.0
"""Runs of one round that begin further apart than this do not share the machine's mood."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of one figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str = ".2f") -> str:
        """Return "median (low-high)"."""
        return f"{self.median:{form}} ({self.low:{form}}-{self.high:{form}})"


def spread(runs: Sequence[Run], contender: str, workload: str, metric: str) -> Spread | None:
    """Return a figure over all rounds that have it, or None."""
    found = figures(runs, contender, workload, metric)
    return Spread.of(list(found.values())) if found else None


def ratios(
    runs: Sequence[Run], contender: str, against: str, workload: str, metric: str
) -> dict[int, float]:
    """Return round -> the contender's figure divided by another's of the same round.

    Rounds in which one of them is missing, or the divisor is 0, are absent.
    """
    own = figures(runs, contender, workload, metric)
    under = figures(runs, against, workload, metric)
    return {number: own[number] / under[number] for number in own if under.get(number)}


def ratio(
    runs: Sequence[Run], contender: str, against: str, workload: str, metric: str
) -> Spread | None:
    """Return the spread of `ratios`, or None when no round has both."""
    found = ratios(runs, contender, against, workload, metric)
    return Spread.of(list(found.values())) if found else None


def verdict(found: Spread, metric: str) -> str:
    """Say what a ratio means: "better", "worse", or "tie" within the noise.

    Args:
        found: ratio to the yardstick.
        metric: says whether more is better.
    """
    if 1 - NOISE < found.median < 1 + NOISE:
        return "tie"
    return "better" if (found.median > 1) == METRICS[metric].higher_is_better else "worse"


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation as a share of the mean; 0 for fewer than two values."""
    mean = statistics.fmean(values) if values else 0.0
    if len(values) < 2 or mean == 0:
        return 0.0
    return statistics.stdev(values) / abs(mean)


def doubts(runs: Sequence[Run], headlines: Mapping[str, str]) -> list[str]:
    """Return what a reader should know before believing the figures, one sentence each.

    Args:
        runs: of one file.
        headlines: workload -> the metric that is judged.
    """
    said = []
    noisy = sum(not run["quiet"] for run in runs)
    if noisy:
        said.append(
            f"{noisy} of {len(runs)} runs were disturbed: something else used this machine."
        )
    rounds = {run["round"] for run in runs}
    if len(rounds) == 1:
        said.append("There is one round only: nobody knows how far the figures would spread.")
    said += _in_parts(runs)
    for contender, workload in dict.fromkeys((run["contender"], run["workload"]) for run in runs):
        metric = headlines.get(workload)
        if metric is None:
            continue
        values = list(figures(runs, contender, workload, metric).values())
        if (share := deviation(values)) > NOISE:
            said.append(
                f"{contender}, {workload}: the deviation of {metric} is {share:.0%} of its mean"
                f" over {len(values)} rounds; take more rounds, or a quieter machine."
            )
    return said


def _in_parts(runs: Sequence[Run]) -> list[str]:
    """Name the rounds that were interrupted and went on much later."""
    moments: dict[int, list[float]] = {}
    for run in runs:
        if "began" in run:
            moments.setdefault(run["round"], []).append(run["began"])
    said = []
    for number, found in sorted(moments.items()):
        found.sort()
        gap = max((b - a for a, b in itertools.pairwise(found)), default=0.0)
        if gap > APART_S:
            said.append(
                f"Round {number} was interrupted for {gap / 60:.0f} minutes: its ratios may compare"
                " two moods of the machine."
            )
    return said
