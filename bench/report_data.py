"""What a report shows, worked out from result files: pure, and the same for the same files.

Rounds are interleaved (A B C, B C A, ...), so a ratio divides by the yardstick's figure of its own
round: the machine's mood changes from round to round by more than most differences between two
contenders.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench import report_names as names
from bench import stats
from bench.contenders import YARDSTICK
from bench.report_names import Metric
from bench.results import Document, figures
from bench.stats import Spread

Cdf = tuple[tuple[float, float], ...]
"""(microseconds, share of the round trips that took no longer), rising."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric of one contender under one workload.

    Attributes:
        contender: whose it is.
        workload: under what.
        metric: what it says.
        values: round -> value, in the file's unit.
        ratios: round -> value divided by the yardstick's of that round; without it, empty.
        noisy: rounds in which others used the machine.
    """

    contender: str
    workload: str
    metric: Metric
    values: Mapping[int, float]
    ratios: Mapping[int, float]
    noisy: frozenset[int]

    @property
    def spread(self) -> Spread:
        """Median and range over the rounds."""
        return Spread.of(list(self.values.values()))

    @property
    def ratio(self) -> Spread | None:
        """The same for the ratio to the yardstick."""
        return Spread.of(list(self.ratios.values())) if self.ratios else None

    @property
    def deviation(self) -> float:
        """Standard deviation over the rounds, as a share of the mean."""
        return stats.deviation(list(self.values.values()))

    @property
    def shaky(self) -> bool:
        """Whether the rounds differ by more than noise may: the figure is not to be trusted."""
        return self.deviation > stats.NOISE


@dataclass(frozen=True)
class Dataset:
    """One result file.

    Attributes:
        title: its setting, and the day where several files share the setting.
        ident: the same as an id in the page; unique in a report.
        source: name of the file.
    """

    title: str
    ident: str
    source: str
    document: Document

    @property
    def setting(self) -> str:
        """The underlay's setting."""
        return str(self.document["setting"])

    @property
    def machine(self) -> Mapping[str, Any]:
        """What the file says of the machine."""
        machine: Mapping[str, Any] = self.document["machine"]
        return machine

    @property
    def date(self) -> str:
        """The day of the runs, or an empty string."""
        return str(self.machine.get("date", ""))

    @property
    def runs(self) -> Sequence[Mapping[str, Any]]:
        """All runs."""
        runs: Sequence[Mapping[str, Any]] = self.document["runs"]
        return runs

    @property
    def rounds(self) -> int:
        """How many rounds there are."""
        return len({run["round"] for run in self.runs})

    @property
    def seconds(self) -> float | None:
        """How long each run lasted, where the file tells."""
        seconds = self.document.get("plan", {}).get("seconds")
        return float(seconds) if isinstance(seconds, int | float) else None

    @property
    def contenders(self) -> list[str]:
        """Contenders in the order of a chart."""
        return sorted({run["contender"] for run in self.runs}, key=names.plain_order)

    @property
    def workloads(self) -> list[str]:
        """Workloads in the order of a report."""
        return sorted({run["workload"] for run in self.runs}, key=names.workload_order)

    @cached_property
    def _noisy(self) -> dict[tuple[str, str], frozenset[int]]:
        found: dict[tuple[str, str], set[int]] = {}
        for run in self.runs:
            if not run["quiet"]:
                found.setdefault((run["contender"], run["workload"]), set()).add(run["round"])
        return {key: frozenset(rounds) for key, rounds in found.items()}

    def metrics(self, workload: str) -> list[str]:
        """Return the metrics of a workload that a report shows, its headline first."""
        found = {key for run in self.runs if run["workload"] == workload for key in run["metrics"]}
        return names.columns(workload, found)

    def principal(self, workload: str) -> str | None:
        """Return the metric that stands for a workload; None when no run has any."""
        return next(iter(self.metrics(workload)), None)

    def figure(self, contender: str, workload: str, key: str) -> Figure | None:
        """Return one figure; None where no round has it."""
        values = figures(self.document["runs"], contender, workload, key)
        if not values:
            return None
        ratios = stats.ratios(self.document["runs"], contender, YARDSTICK, workload, key)
        noisy = self._noisy.get((contender, workload), frozenset())
        return Figure(contender, workload, names.metric(key), values, ratios, noisy)

    def row(self, workload: str, key: str) -> list[Figure]:
        """Return one metric of all contenders that have it, in the order of a chart."""
        found = (self.figure(name, workload, key) for name in self.contenders)
        return [figure for figure in found if figure]

    def ladder(self, workload: str, key: str) -> list[Figure]:
        """Return one metric of the rungs, from the lowest to the kernel's."""
        found = [each for each in self.row(workload, key) if names.contender(each.contender).rung]
        return sorted(found, key=lambda figure: names.ladder_order(figure.contender))

    def latency(self, contender: str, workload: str = "pingpong") -> Cdf:
        """Return the distribution of the round-trip time over all rounds; empty: not recorded.

        A round is a histogram of [upper bound in microseconds, count]; rounds are added up, so a
        longer one weighs more.
        """
        counts: dict[float, float] = {}
        for run in self.runs:
            if run["contender"] == contender and run["workload"] == workload:
                for bound, count in run.get("histograms", {}).get("rtt_us", []):
                    counts[float(bound)] = counts.get(float(bound), 0.0) + float(count)
        total = sum(counts.values())
        if not total:
            return ()
        points, so_far = [], 0.0
        for bound in sorted(counts):
            so_far += counts[bound]
            points.append((bound, so_far / total))
        return tuple(points)

    def noise(self) -> list[str]:
        """Return, one line for each workload, the runs during which the machine was not quiet."""
        found: dict[str, list[str]] = {}
        for run in sorted(self.runs, key=lambda run: (names.plain_order(run["contender"]),
                                                      run["round"])):  # fmt: skip
            if not run["quiet"]:
                noise = run.get("noise", {})
                shares = [noise[key] for key in ("before", "foreign", "stolen") if key in noise]
                much = f", {min(max(shares), 1) * 100:.0f} %" if shares else ""
                words = f"{run['contender']} (round {run['round']}{much})"
                found.setdefault(run["workload"], []).append(words)
        return [
            f"{workload}: {', '.join(found[workload])}"
            for workload in sorted(found, key=names.workload_order)
        ]

    def counted_by(self, key: str) -> list[str]:
        """Return where the figures of a metric come from, as far as the file tells."""
        return sorted({run["sources"][key] for run in self.runs if key in run.get("sources", {})})

    @property
    def beware(self) -> str:
        """What weakens every figure of the file, in a sentence; empty: nothing does."""
        noisy = sum(not run["quiet"] for run in self.runs)
        if noisy > len(self.runs) / 10:
            return f"{noisy} of {len(self.runs)} runs were disturbed: do not rely on these figures."
        if self.rounds < 3:
            return "Fewer than three rounds: nobody knows how far the figures would spread."
        return ""


def datasets(documents: Iterable[tuple[str, Document]]) -> list[Dataset]:
    """Give each file a title and put them in order: headline setting first, later days first.

    Args:
        documents: name of the file and what it holds.
    """
    found = list(documents)
    days = {source: str(document["machine"].get("date", "")) for source, document in found}
    # Later days first within a setting: two stable sorts, since dates sort as text.
    found.sort(key=lambda item: (days[item[0]], item[0]), reverse=True)
    found.sort(key=lambda item: names.setting_order(item[1]["setting"]))
    settings = [document["setting"] for _, document in found]
    titles = [
        f"{setting}, {days[source] or source}" if settings.count(setting) > 1 else setting
        for (source, _), setting in zip(found, settings, strict=True)
    ]
    return [
        Dataset(
            title if titles.count(title) == 1 else f"{title} ({source})",
            f"data{number}",
            source,
            document,
        )
        for number, (title, (source, document)) in enumerate(
            zip(titles, found, strict=True), start=1
        )
    ]
