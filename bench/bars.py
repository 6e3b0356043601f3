"""The bars that the daemon must clear, in the three settings of the underlay.

The daemon as it comes (`udp`) against kernel VXLAN, and its rung `syscall` (flannel's class) for
the distance from where it began. Every figure is a ratio to the yardstick of the same round; the
table shows median and range over the rounds. It is computed from result files: those of this
command, or any others with these contenders and workloads (--from).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import results, run, stats
from bench.contenders import YARDSTICK, Options
from bench.machine import machine_line
from bench.results import SETTINGS, Document
from bench.runner import Plan
from bench.stats import Spread

EXAMPLE = """
examples:
  python -m bench bars --rounds 5 --json bars.json    (writes bars-sgro.json, bars-on.json, ...)
  python -m bench bars --from bars-sgro.json bars-on.json bars-plain.json
"""
FLANNEL_CLASS = "udp-syscall"
CONTENDERS = (YARDSTICK, "udp", FLANNEL_CLASS)
WORKLOADS = ("tcp1", "tcp4", "udp64", "udp-mixed", "pingpong")
ONLY: Mapping[str, tuple[str, ...]] = {FLANNEL_CLASS: ("tcp1",)}


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of the table.

    Attributes:
        name: as a reader knows it.
        workload: under which it is measured.
        metric: key of a run's metrics.
        limits: setting -> limit.
        at_least: the figure must not be below (else: not above) the limit.
        against: the contender that it is divided by.
    """

    name: str
    workload: str
    metric: str
    limits: Mapping[str, float]
    at_least: bool = True
    against: str = YARDSTICK

    def clears(self, figure: float, setting: str) -> bool:
        """Whether a median clears the bar of a setting."""
        limit = self.limits[setting]
        return figure >= limit if self.at_least else figure <= limit

    def figure(self, document: Document) -> Spread | None:
        """Return the daemon's ratio; None when the file does not hold what it takes."""
        return stats.ratio(document["runs"], "udp", self.against, self.workload, self.metric)


def _limits(sgro: float, on: float, plain: float) -> dict[str, float]:
    return {"sgro": sgro, "on": on, "plain": plain}


BARS = (
    Bar("TCP 1 stream", "tcp1", "gbps", _limits(1.05, 0.85, 0.9)),
    Bar("TCP 4 streams", "tcp4", "gbps", _limits(0.8, 0.5, 0.8)),
    Bar("CPU s/GB, 1 stream", "tcp1", "cpu_s_per_gb", _limits(1.3, 1.5, 1.7), at_least=False),
    Bar("UDP 64 B delivered", "udp64", "kpps", _limits(2.0, 2.0, 1.9)),
    Bar("UDP mixed 64-127 B delivered", "udp-mixed", "kpps", _limits(1.2, 1.2, 1.2)),
    Bar("ping-pong, minimum", "pingpong", "rtt_us_min", _limits(2.2, 2.2, 2.2), at_least=False),
    Bar("ping-pong, median", "pingpong", "rtt_us_p50", _limits(1.4, 1.5, 1.5), at_least=False),
    Bar(
        "TCP against rung syscall",
        "tcp1",
        "gbps",
        _limits(9.0, 11.0, 5.5),
        against=FLANNEL_CLASS,
    ),
)


def table(documents: Sequence[Document]) -> str:
    """Render bars and figures as a Markdown table; a missed bar is bold, "-": not measured."""
    ordered = sorted(documents, key=lambda document: SETTINGS.index(document["setting"]))
    head = [f"{each['setting']}: bar | {each['setting']}: measured" for each in ordered]
    lines = ["| | " + " | ".join(head) + " |", "|---" * (1 + 2 * len(ordered)) + "|"]
    for bar in BARS:
        cells = [bar.name]
        for document in ordered:
            setting, figure = document["setting"], bar.figure(document)
            cells.append(f"{'>=' if bar.at_least else '<='} {bar.limits[setting]:g}")
            text = figure.text() if figure else "-"
            cleared = figure is None or bar.clears(figure.median, setting)
            cells.append(text if cleared else f"**{text}**")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def missed(documents: Sequence[Document]) -> list[tuple[str, str]]:
    """Return (setting, bar) for every bar that is missed or was not measured."""
    return [
        (document["setting"], bar.name)
        for document in documents
        for bar in BARS
        if (figure := bar.figure(document)) is None
        or not bar.clears(figure.median, document["setting"])
    ]


def path_for(path: str | None, setting: str, *, several: bool) -> Path:
    """Return the file of one setting: several settings are several files."""
    if path is None:
        return run.default_path(f"bars-{setting}")
    whole = Path(path)
    return whole.with_name(f"{whole.stem}-{setting}{whole.suffix}") if several else whole


def footer(documents: Sequence[Document]) -> str:
    """Say how the figures came about, on which machine, and what was noisy."""
    rounds = {len({each["round"] for each in document["runs"]}) for document in documents}
    noisy = sum(not each["quiet"] for document in documents for each in document["runs"])
    said = f" {noisy} runs were disturbed by others." if noisy else ""
    return (
        f"Ratio to kernel VXLAN of the same round; median (lowest-highest) of"
        f" {' or '.join(map(str, sorted(rounds)))} interleaved rounds; bold: bar missed.{said}"
        f" {machine_line(documents[0]['machine'])}."
    )


def main(arguments: Sequence[str]) -> int:
    """Measure, or read, and print the table; exit code 1 when a bar is missed."""
    parser = run.parser("python -m bench bars", __doc__, EXAMPLE)
    parser.set_defaults(rounds=5)
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--from", dest="sources", nargs="+", metavar="FILE", help="measure nothing")
    args = parser.parse_args(arguments)
    documents = [results.load(path) for path in args.sources or ()]
    for setting in () if args.sources else dict.fromkeys(args.setting):
        plan = Plan(setting, CONTENDERS, WORKLOADS, args.rounds, args.seconds, ONLY)
        path = path_for(args.json, setting, several=len(args.setting) > 1)
        document = run.measure(
            plan,
            path,
            options=Options(flanneld=args.flanneld),
            wait_s=args.wait,
            trace=not args.no_trace,
        )
        documents.append(document)
    print(table(documents))
    print(f"\n{footer(documents)}")
    return 1 if missed(documents) else 0
