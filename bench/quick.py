"""The headline in under 90 seconds: tunneld against kernel VXLAN, for somebody who is new here.

Two hosts in network namespaces, joined by one cable; a container on each talks to the other, once
through tunneld's userspace UDP tunnel and once through the kernel's VXLAN, by turns.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from bench import run, show, stats
from bench.contenders import YARDSTICK
from bench.machine import machine_line
from bench.results import Document
from bench.runner import Plan
from bench.workloads import HEADLINES

EXAMPLE = """
example:
  ./run bench --quick
"""
CONTENDERS = ("udp", YARDSTICK)
WORKLOADS = ("tcp1", "udp64", "pingpong")
ROUNDS = 3
SECONDS = 2
WITHIN_S = 80.0
"""When the last round must be over; the rest of 90 s is for starting, compiling and printing."""

LINES = (
    ("TCP, one stream", "tcp1", "gbps", "{:.2f} Gb/s"),
    ("CPU time per GB of it", "tcp1", "cpu_s_per_gb", "{:.2f} s"),
    ("64-byte packets that arrive", "udp64", "kpps", "{:.0f},000/s"),
    ("round trip, typical (median)", "pingpong", "rtt_us_p50", "{:.0f} us"),
    ("round trip, best", "pingpong", "rtt_us_min", "{:.0f} us"),
)


def table(document: Document) -> str:
    """Return the comparison as a small table."""
    rows = [["", "tunneld (udp)", "kernel VXLAN", "ratio", "so tunneld is"]]
    runs = document["runs"]
    for title, workload, metric, form in LINES:
        own = stats.spread(runs, "udp", workload, metric)
        other = stats.spread(runs, YARDSTICK, workload, metric)
        ratio = stats.ratio(runs, "udp", YARDSTICK, workload, metric)
        if own is None or other is None or ratio is None:
            continue
        verdict = stats.verdict(ratio, metric).replace("tie", "about equal")
        rows.append(
            [
                title,
                form.format(own.median),
                form.format(other.median),
                f"{ratio.median:.2f}",
                verdict,
            ]
        )
    return show.grid(rows)


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table; exit code 1 when a run failed."""
    began = time.monotonic()
    parser = run.parser("python -m bench --quick", __doc__, EXAMPLE)
    parser.set_defaults(rounds=ROUNDS, seconds=SECONDS, wait=1.0)
    args = parser.parse_args(arguments)
    path = Path(args.json) if args.json else run.default_path("quick")
    plan = Plan("sgro", CONTENDERS, WORKLOADS, args.rounds, args.seconds)
    document = run.measure(plan, path, wait_s=args.wait, trace=False, within_s=WITHIN_S)
    rounds = len({each["round"] for each in document["runs"]})
    print(f"\n{table(document)}\n")
    print(
        f"Medians of {rounds} rounds by turns, {time.monotonic() - began:.0f} s in all. Differences"
        f" below {stats.NOISE:.0%} are noise.\nBoth hosts and both programs share this machine's"
        " CPUs; underlay like a plain network card (sgro)."
    )
    for doubt in stats.doubts(document["runs"], HEADLINES):
        print(f"- {doubt}")
    print(f"{machine_line(document['machine'])}. All figures: {path}")
    return 1 if document["failures"] else 0
