"""What has become worse, or better, from one result file to another, beyond noise.

Figures are compared as ratios to kernel VXLAN of the same round, so that a slower day is no
regression. A difference counts when the medians differ by more than 15 % and the ranges over the
rounds are 5 % apart (both of the old median): with 5 rounds and noise of 5 % one figure in 10,000
then differs by chance, with 3 rounds one in 200. Loss is compared by difference (5 points), and
counts of the processes of a tunnel, of which VXLAN has none, as they are.

    python -m bench compare before.json after.json || echo "worse, or not comparable"

Exit codes: 0 nothing has become worse, 1 something has, 2 the files cannot be compared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench import report_names as names
from bench import results, show, stats
from bench.contenders import YARDSTICK
from bench.machine import SAME
from bench.metrics import METRICS
from bench.results import Document, figures
from bench.stats import NOISE, Spread
from tunneld.errors import ConfigError

LOSS_POINTS = 0.05
"""Loss must differ by more than this share of all datagrams."""

ENOUGH_ROUNDS = 5

GAP = 0.05
"""The ranges must lie this share of the old median apart: files hold hundreds of figures, and with
ranges that must only not overlap, some of them would differ by chance in every comparison."""

ONLY_TOLD = frozenset({"retransmits", "reordered", "duplicates", "offered_kpps"})
"""Metrics that vary too freely, or say too little, to be a regression."""


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of one contender under one workload, in both files.

    Attributes:
        contender: whose it is.
        workload: under what.
        metric: key in the result files.
        basis: what is compared: "ratio" (to VXLAN), "value" or "difference".
        before: median and range.
        after: the same in the second file.
        change: share of `before` (of a difference: share of all datagrams); None: before was 0.
        verdict: "regression", "improvement" or "same".
    """

    contender: str
    workload: str
    metric: str
    basis: str
    before: Spread
    after: Spread
    change: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that two files have in common.

    Attributes:
        changes: every figure, in the order of a report.
        failed: what the first file has and the second one failed to run.
        notes: what a reader should know.
    """

    changes: Sequence[Change]
    failed: Sequence[str]
    notes: Sequence[str]

    def of(self, verdict: str) -> list[Change]:
        """Return the figures with a verdict."""
        return [each for each in self.changes if each.verdict == verdict]

    @property
    def exit_code(self) -> int:
        """1 when something has become worse, else 0."""
        return 1 if self.of("regression") or self.failed else 0


def compare(before: Document, after: Document) -> Comparison:
    """Compare two result files of one setting; pure."""
    old, new = _pairs(before), _pairs(after)
    # A file may lack the yardstick; then days are compared, not contenders.
    ratios = all(any(who == YARDSTICK for who, _ in pairs) for pairs in (old, new))
    changes = []
    for contender, workload in _ordered(old & new):
        if contender == YARDSTICK and ratios:
            continue
        keys = {
            key
            for document in (before, after)
            for run in document["runs"]
            if (run["contender"], run["workload"]) == (contender, workload)
            for key in run["metrics"]
        }
        for key in names.columns(workload, keys - ONLY_TOLD):
            change = _change(before, after, (contender, workload, key), ratios=ratios)
            if change:
                changes.append(change)
    broken = {
        (each.get("contender"), each.get("workload")) for each in after.get("failures", [])
    } - new
    failed = [f"{who}, {what}" for who, what in _ordered(old & broken)]
    notes = [
        *([] if ratios else [_WITHOUT]),
        *_notes(before, after),
        *(f"only before: {who}, {what}" for who, what in _ordered(old - new - broken)),
        *(f"only after: {who}, {what}" for who, what in _ordered(new - old)),
    ]
    return Comparison(changes, failed, notes)


_WITHOUT = (
    f"{YARDSTICK} is not in both files: absolute figures are compared, and they tell as much of "
    "the day and the machine as of the contender"
)


def _pairs(document: Document) -> set[tuple[str, str]]:
    return {(run["contender"], run["workload"]) for run in document["runs"]}


def _ordered(pairs: set[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(pairs, key=lambda p: (names.workload_order(p[1]), names.plain_order(p[0])))


def _change(
    before: Document, after: Document, which: tuple[str, str, str], *, ratios: bool
) -> Change | None:
    """Judge one figure; None where a file lacks it."""
    contender, workload, key = which
    absolute = [
        Spread.of(list(values.values()))
        for document in (before, after)
        if (values := figures(document["runs"], contender, workload, key))
    ]
    if len(absolute) < 2:
        return None
    old, new = absolute
    if key == "loss":
        found = judge(old, new, higher_is_better=False, least=LOSS_POINTS, share=False)
        return Change(*which, "difference", old, new, new.median - old.median, found)
    basis = "value"
    if ratios:
        relative = [
            stats.ratio(document["runs"], contender, YARDSTICK, workload, key)
            for document in (before, after)
        ]
        if relative[0] and relative[1]:
            basis, (old, new) = "ratio", (relative[0], relative[1])
    found = judge(old, new, higher_is_better=METRICS[key].higher_is_better)
    share = new.median / old.median - 1 if old.median else None
    return Change(*which, basis, old, new, share, found)


def judge(
    old: Spread, new: Spread, *, higher_is_better: bool, least: float = NOISE, share: bool = True
) -> str:
    """Return "regression", "improvement" or "same".

    Args:
        old: median and range before.
        new: and after.
        higher_is_better: else lower is.
        least: the medians must differ by more than this.
        share: `least` is a share of the old median, else it is in the figure's unit.
    """
    apart = abs(new.median - old.median)
    gap = max(new.low - old.high, old.low - new.high)
    if share:
        apart, gap = (each / (abs(old.median) or 1e-9) for each in (apart, gap))
    if apart <= least or gap <= (GAP if share else 0):
        return "same"
    return "improvement" if (new.median > old.median) == higher_is_better else "regression"


def _notes(before: Document, after: Document) -> list[str]:
    notes = []
    for key in SAME:
        old, new = before["machine"].get(key), after["machine"].get(key)
        if old != new:
            notes.append(f"another machine: {key} was {old}, is {new}")
    seconds = [document.get("plan", {}).get("seconds") for document in (before, after)]
    if seconds[0] != seconds[1]:
        notes.append(f"length of a run: was {seconds[0]} s, is {seconds[1]} s")
    for name, document in (("before", before), ("after", after)):
        rounds = len({run["round"] for run in document["runs"]})
        if rounds < ENOUGH_ROUNDS:
            notes.append(f"{name}: {rounds} round(s) only; some figures will differ by chance")
        failed = len(document.get("failures", []))
        if failed:
            notes.append(f"{name}: {failed} run(s) failed; a contender that fails is not measured")
        noisy = sum(not run["quiet"] for run in document["runs"])
        if noisy:
            notes.append(f"{name}: {noisy} of {len(document['runs'])} runs were disturbed")
    return notes


def check(before: Document, after: Document, sources: Sequence[str]) -> None:
    """Refuse files that have nothing to compare.

    Raises:
        ConfigError: different settings, or no contender and workload in both.
    """
    if before["setting"] != after["setting"]:
        raise ConfigError(
            f"is {after['setting']!r}, but {sources[0]} has {before['setting']!r}: figures of two "
            "settings say nothing about each other",
            source=sources[1],
            field="setting",
        )
    if not _pairs(before) & _pairs(after):
        raise ConfigError(
            f"has no contender under a workload that {sources[0]} has too",
            source=sources[1],
            field="runs",
        )


def text(found: Comparison, *, everything: bool = False) -> str:
    """Return a comparison for a terminal.

    Args:
        found: the comparison.
        everything: show what is within noise, too.
    """
    shown = found.changes if everything else [e for e in found.changes if e.verdict != "same"]
    blocks = []
    if shown:
        rows = [["", "before", "after", "change", ""], *map(_row, shown)]
        blocks.append(show.grid(rows))
    blocks += [f"failed after, ran before: {each}" for each in found.failed]
    counts = [len(found.of(each)) for each in ("regression", "improvement", "same")]
    blocks.append(
        f"{counts[0]} worse, {counts[1]} better, {counts[2]} within noise (medians less than"
        f" {NOISE * 100:.0f} % apart, or ranges less than {GAP * 100:.0f} %)."
    )
    blocks += [f"- {note}" for note in found.notes]
    return "\n".join(blocks)


def _row(change: Change) -> list[str]:
    metric = names.metric(change.metric)
    if change.basis == "ratio":
        title = f"{change.metric} / {YARDSTICK}"
        cells = [each.text() for each in (change.before, change.after)]
    else:
        title = f"{change.metric}, {metric.unit}" if metric.unit else change.metric
        cells = [
            f"{metric.text(each.median)} ({metric.text(each.low)}-{metric.text(each.high)})"
            for each in (change.before, change.after)
        ]
    unit = "points" if change.basis == "difference" else "%"
    moved = "from 0" if change.change is None else f"{change.change * 100:+.0f} {unit}"
    words = {"regression": "WORSE", "improvement": "better", "same": ""}
    name = f"{change.contender}, {change.workload}: {title}"
    return [name, *cells, moved, words[change.verdict]]


def main(arguments: Sequence[str]) -> int:
    """Compare two files; returns the exit code.

    Raises:
        ConfigError: a file is no result file, or the two cannot be compared.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", metavar="A.json")
    parser.add_argument("after", metavar="B.json")
    parser.add_argument("--all", action="store_true", help="show what is within noise, too")
    parser.add_argument("--json", action="store_true", help="for scripts; every figure")
    args = parser.parse_args(arguments)
    before, after = results.load(args.before), results.load(args.after)
    check(before, after, (args.before, args.after))
    found = compare(before, after)
    if args.json:
        document = {
            "worse": bool(found.exit_code),
            "changes": [asdict(each) for each in found.changes],
            "failed": list(found.failed),
            "notes": list(found.notes),
        }
        print(json.dumps(document, indent=2))
    else:
        print(text(found, everything=args.all))
    return found.exit_code
