"""The bars that the offload rung must clear, in the three settings of the underlay.

The daemon as it comes (`udp`) against kernel VXLAN in interleaved rounds, and its rung `syscall`
(flannel's class) for the distance from where it began. Every figure is a ratio to VXLAN of the
same round; the table shows median and range over the rounds.

    python -m bench bars --rounds 5 --seconds 2 --json bars.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import common
from bench.common import Spread
from bench.ladder import contender
from tunneld.lab import Cluster, iperf
from tunneld.lab.netns import require_tool

if TYPE_CHECKING:
    from collections.abc import Sequence

SETTINGS = ("sgro", "on", "plain")
CONTENDERS = ("vxlan", "udp", "udp-syscall")

Run = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of the table.

    Attributes:
        name: as a reader knows it.
        metric: key of a run's metrics.
        limits: for sgro, on and plain.
        at_least: the figure must not be below (else: not above) the limit.
        against: the contender that it is divided by.
    """

    name: str
    metric: str
    limits: tuple[float, float, float]
    at_least: bool = True
    against: str = "vxlan"

    def clears(self, figure: float, setting: str) -> bool:
        """Whether a median clears the bar of a setting."""
        limit = self.limits[SETTINGS.index(setting)]
        return figure >= limit if self.at_least else figure <= limit


BARS = (
    Bar("TCP 1 stream", "tcp1_gbps", (1.05, 0.85, 0.9)),
    Bar("TCP 4 streams", "tcp4_gbps", (0.8, 0.5, 0.8)),
    Bar("CPU s/GB, 1 stream", "cpu_s_per_gb", (1.3, 1.5, 1.7), at_least=False),
    Bar("UDP 64 B delivered", "udp64_kpps", (2.0, 2.0, 1.9)),
    Bar("UDP mixed 64-127 B delivered", "udp_mixed_kpps", (1.2, 1.2, 1.2)),
    Bar("ping-pong, minimum", "rtt_us_min", (2.2, 2.2, 2.2), at_least=False),
    Bar("ping-pong, median", "rtt_us_p50", (1.4, 1.5, 1.5), at_least=False),
    Bar("TCP against rung syscall", "tcp1_gbps", (9.0, 11.0, 5.5), against="udp-syscall"),
)


def measure(cluster: Cluster, name: str, seconds: int) -> dict[str, float]:
    """Run every workload through what is up now; rung syscall only the one it is needed for."""
    one, other = cluster.containers
    before = common.cpu_seconds()
    stream = iperf.tcp(one, other, other.address, seconds=seconds)
    cpu = common.cpu_seconds() - before
    metrics = {
        "tcp1_gbps": stream.gbps,
        "cpu_s_per_gb": cpu / max(stream.bytes / 1e9, 1e-9),
    }
    if name == "udp-syscall":
        return metrics
    small = common.udp(one, other, size=64, seconds=seconds)
    mixed = common.udp(one, other, size="64-127", seconds=seconds)
    metrics |= {
        "tcp4_gbps": iperf.tcp(one, other, other.address, seconds=seconds, streams=4).gbps,
        "udp64_kpps": small.kpps,
        "udp64_reordered": small.reordered,
        "udp_mixed_kpps": mixed.kpps,
        "udp_mixed_reordered": mixed.reordered,
    }
    return metrics | common.ping_pong(one, other, seconds=seconds).figures


def run_setting(setting: str, *, rounds: int, seconds: int) -> list[Run]:
    """Measure all contenders in interleaved rounds."""
    runs: list[Run] = []
    with Cluster(nodes=2, setting=setting, shape="cable") as cluster:
        for number in range(rounds):
            shift = number % len(CONTENDERS)
            for name in (*CONTENDERS[shift:], *CONTENDERS[:shift]):
                with contender(cluster, name):
                    metrics = measure(cluster, name, seconds)
                runs.append(
                    {
                        "setting": setting,
                        "round": number + 1,
                        "contender": name,
                        "metrics": metrics,
                    }
                )
                common.say(
                    f"{setting} round {number + 1}/{rounds} {name:12}"
                    f" {metrics['tcp1_gbps']:6.2f} Gb/s {metrics.get('udp64_kpps', 0):6.0f} kpps"
                )
    return runs


def ratio(runs: Sequence[Run], bar: Bar, setting: str) -> Spread:
    """Return the daemon's figure divided by the yardstick's of the same round."""
    here = [run for run in runs if run["setting"] == setting]
    under = {
        run["round"]: run["metrics"][bar.metric] for run in here if run["contender"] == bar.against
    }
    return Spread.of(
        [
            run["metrics"][bar.metric] / under[run["round"]]
            for run in here
            if run["contender"] == "udp"
        ]
    )


def table(runs: Sequence[Run]) -> str:
    """Render bars and figures as a Markdown table; a missed bar is bold."""
    settings = [name for name in SETTINGS if any(run["setting"] == name for run in runs)]
    head = [f"{name}: bar | {name}: measured" for name in settings]
    lines = ["| | " + " | ".join(head) + " |", "|---" * (1 + 2 * len(settings)) + "|"]
    for bar in BARS:
        cells = [bar.name]
        for setting in settings:
            figure = ratio(runs, bar, setting)
            sign = ">=" if bar.at_least else "<="
            cells.append(f"{sign} {bar.limits[SETTINGS.index(setting)]:g}")
            text = figure.text()
            cells.append(text if bar.clears(figure.median, setting) else f"**{text}**")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m bench bars",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each workload (default 2)")
    parser.add_argument("--json", metavar="FILE", help="write all runs there too")
    parser.add_argument("--from", dest="source", metavar="FILE", help="print the table of a FILE")
    args = parser.parse_args(arguments)
    if args.rounds < 1 or args.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    if args.source:
        document = json.loads(Path(args.source).read_text())
    else:
        require_tool("iperf3", "iperf3")
        common.require_udp_tools()
        common.warn_if_busy()
        runs = []
        for setting in args.setting:
            runs += run_setting(setting, rounds=args.rounds, seconds=args.seconds)
        document = {
            "schema": 1,
            "machine": common.machine(),
            "line": common.machine_line(),
            "rounds": args.rounds,
            "seconds": args.seconds,
            "runs": runs,
        }
        common.write_json(args.json, document)
    print(table(document["runs"]))
    print(
        f"\nRatio to kernel VXLAN of the same round; median (lowest-highest) of"
        f" {document['rounds']} interleaved rounds of {document['seconds']} s; bold: bar missed."
        f" {document['line']}."
    )
    settings = {run["setting"] for run in document["runs"]}
    missed = [
        bar
        for bar in BARS
        for setting in settings
        if not bar.clears(ratio(document["runs"], bar, setting).median, setting)
    ]
    return 1 if missed else 0
