"""Result files as plain text, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from bench import stats
from bench.contenders import YARDSTICK
from bench.machine import machine_line
from bench.metrics import METRICS
from bench.results import Document, Run
from bench.workloads import HEADLINES, WORKLOADS, Workload

WIDTH = 100
HOW_TO = """\
python -m bench run --contender udp vxlan --workload tcp1 udp64 --json r.json   measures
python -m bench report r.json -o report.html                                    draws"""


def tables(document: Document) -> str:
    """Return one table per workload, then what a reader should doubt, then the machine."""
    runs: list[Run] = document["runs"]
    used = dict.fromkeys(run["workload"] for run in runs)
    blocks = [_workload(runs, WORKLOADS[name]) for name in WORKLOADS if name in used]
    blocks.append("\n".join(_remarks(document)))
    return "\n\n".join(blocks)


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as aligned columns: names to the left, figures to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _workload(runs: Sequence[Run], workload: Workload) -> str:
    mine = [run for run in runs if run["workload"] == workload.name]
    names = list(dict.fromkeys(run["contender"] for run in sorted(mine, key=lambda r: r["round"])))
    kept = [name for name in workload.columns if any(name in run["metrics"] for run in mine)]
    against = YARDSTICK in names
    head = ["", METRICS[kept[0]].unit or METRICS[kept[0]].title]
    head += [f"/ {YARDSTICK}", ""] if against else []
    head += [_short(name) for name in kept[1:]]
    rows = [head]
    for name in names:
        row = [name, _cell(mine, name, kept[0])]
        row += _against(mine, name, workload) if against else []
        row += [_median(mine, name, metric) for metric in kept[1:]]
        rows.append(row)
    sense = "more" if METRICS[kept[0]].higher_is_better else "less"
    title = f"{workload.name}: {workload.title}: {METRICS[kept[0]].title}, {sense} is better"
    return f"{title}\n{grid(rows)}"


def _short(name: str) -> str:
    return {
        "cpu_s_per_gb": "CPU s/GB",
        "cpu_us_per_packet": "CPU us/packet",
        "tunnel_cpu_s_per_gb": "of the tunnel",
        "tunnel_cpu_us_per_packet": "of the tunnel",
        "syscalls_per_packet": "syscalls/packet",
        "context_switches_per_packet": "switches/packet",
        "rtt_us_min": "minimum",
        "rtt_us_p99": "99 %",
        "retransmits": "sent again",
    }.get(name, name)


def _cell(runs: Sequence[Run], name: str, metric: str) -> str:
    found = stats.spread(runs, name, runs[0]["workload"], metric)
    return found.text(METRICS[metric].form) if found else "-"


def _median(runs: Sequence[Run], name: str, metric: str) -> str:
    found = stats.spread(runs, name, runs[0]["workload"], metric)
    if found is None:
        return "-"
    return f"{found.median:.1%}" if metric == "loss" else METRICS[metric].text(found.median)


def _against(runs: Sequence[Run], name: str, workload: Workload) -> list[str]:
    if name == YARDSTICK:
        return ["1", ""]
    found = stats.ratio(runs, name, YARDSTICK, workload.name, workload.headline)
    return [found.text(), stats.verdict(found, workload.headline)] if found else ["-", ""]


def _remarks(document: Document) -> list[str]:
    runs = document["runs"]
    plan = document.get("plan", {})
    rounds = len({run["round"] for run in runs})
    length = f" of {plan['seconds']} s" if "seconds" in plan else ""
    how = (
        f"Setting {document['setting']}; median (lowest-highest) of {rounds} interleaved"
        f" rounds{length}; / {YARDSTICK}: ratio to kernel VXLAN in the same round; differences"
        f" below {stats.NOISE:.0%} are ties. CPU of the whole machine, generators included."
    )
    lines = [how]
    lines += [f"- {sentence}" for sentence in stats.doubts(runs, HEADLINES)]
    lines += [f"- skipped: {name}: {why}" for name, why in document.get("skipped", {}).items()]
    failures = document.get("failures", [])
    lines += [
        f"- failed: round {each['round']} {each['contender']} {each['workload']}: {each['error']}"
        for each in failures
    ]
    lines.append(machine_line(document["machine"]) + ".")
    return [part for line in lines for part in textwrap.wrap(line, WIDTH, subsequent_indent="  ")]
