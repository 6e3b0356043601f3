"""The ladder: TCP and small UDP packets through each rung and through kernel VXLAN.

Container to container over one cable between two nodes. In each round every contender runs once,
in an order that rotates; a ratio compares only runs of one round, because the machine's mood
changes from round to round by 10-15 %. Differences below 15 % are ties.

    python -m bench ladder --rounds 3 --seconds 3 --json ladder.json
"""

from __future__ import annotations

import argparse
import contextlib
from typing import TYPE_CHECKING, Any

from bench import common
from bench.common import Spread
from tunneld.lab import Cluster, iperf, wait_for_ping
from tunneld.lab.netns import require_tool
from tunneld.lab.underlay import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

YARDSTICK = "vxlan"
ARGUMENTS = {
    "udp-python": ("--dataplane=python",),
    "udp-syscall": ("--dataplane=syscall",),
    "udp-mmsg": ("--dataplane=mmsg",),
    "udp-gso": ("--dataplane=gso", "--threads=1"),
    "udp-offload-1": ("--dataplane=offload", "--threads=1"),
    "udp-offload-2": ("--dataplane=offload", "--threads=2"),
    "udp": (),
}
"""Contender -> options of the daemon; `udp` is the daemon as it comes."""

CONTENDERS = (*ARGUMENTS, YARDSTICK)

COLUMNS = (
    "",
    "TCP, 1 stream, Gb/s",
    "/ vxlan",
    "CPU s/GB",
    "UDP 64 B, kpps arrived",
    "/ vxlan",
    "lost",
    "reordered",
    "duplicated",
    "packets per send call",
)

Run = dict[str, Any]


@contextlib.contextmanager
def contender(cluster: Cluster, name: str) -> Iterator[None]:
    """Bring one way between the containers up, and down again."""
    if name == YARDSTICK:
        cluster.setup_vxlan()
    else:
        cluster.start_daemons(ARGUMENTS[name])
    try:
        one, other = cluster.containers
        wait_for_ping(one, other.address)
        yield
    finally:
        if name == YARDSTICK:
            cluster.teardown_vxlan()
        else:
            cluster.stop_daemons()


def packets_per_call(cluster: Cluster) -> dict[str, float]:
    """Return what proves the rung: packets per writing system call, as counted by the daemons."""
    out = cluster.nodes[0].daemon.status()["counters"]["outbound"]
    inn = cluster.nodes[1].daemon.status()["counters"]["inbound"]
    return {
        "sends": out["packets_written"] / max(out["syscalls_written"], 1),
        "receives": inn["packets_read"] / max(inn["syscalls_read"], 1),
    }


def measure(cluster: Cluster, name: str, seconds: int) -> Run:
    """Run both workloads through what is up now."""
    one, other = cluster.containers
    before = common.cpu_seconds()
    stream = iperf.tcp(one, other, other.address, seconds=seconds)
    cpu = common.cpu_seconds() - before
    small = common.udp(one, other, size=64, seconds=seconds)
    return {
        "contender": name,
        "gbps": stream.gbps,
        "retransmits": stream.retransmits,
        "cpu_s_per_gb": cpu / max(stream.bytes / 1e9, 1e-9),
        "udp64": common.as_dict(small),
        "packets_per_call": {} if name == YARDSTICK else packets_per_call(cluster),
    }


def run_rounds(names: Sequence[str], *, setting: str, rounds: int, seconds: int) -> list[Run]:
    """Measure every contender once per round."""
    runs = []
    with Cluster(nodes=2, setting=setting, shape="cable") as cluster:
        for number in range(rounds):
            shift = number % len(names)
            for name in [*names[shift:], *names[:shift]]:
                with contender(cluster, name):
                    result = {"round": number + 1, **measure(cluster, name, seconds)}
                runs.append(result)
                common.say(
                    f"round {number + 1}/{rounds} {name:12} {result['gbps']:6.2f} Gb/s"
                    f" {result['cpu_s_per_gb']:6.2f} CPU s/GB"
                    f" {result['udp64']['kpps']:7.1f} kpps"
                )
    return runs


def ratios(runs: Sequence[Run], name: str, figure: str) -> Spread | None:
    """Return a contender's figure divided by the yardstick's of the same round."""
    yardstick = {run["round"]: value(run, figure) for run in runs if run["contender"] == YARDSTICK}
    own = [run for run in runs if run["contender"] == name and run["round"] in yardstick]
    if not own:
        return None
    return Spread.of([value(run, figure) / yardstick[run["round"]] for run in own])


def value(run: Run, figure: str) -> float:
    """Return one figure of a run; "kpps" and "loss" are of the UDP workload."""
    return float(run["udp64"][figure] if figure in run["udp64"] else run[figure])


def table(runs: Sequence[Run], setting: str, seconds: int) -> str:
    """Render the runs as a Markdown table."""
    rounds = max(run["round"] for run in runs)
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for name in dict.fromkeys(run["contender"] for run in sorted(runs, key=order)):
        own = [run for run in runs if run["contender"] == name]
        of = {
            figure: Spread.of([value(run, figure) for run in own])
            for figure in ("gbps", "cpu_s_per_gb", "kpps", "loss", "reordered", "duplicates")
        }
        ratio = {figure: ratios(runs, name, figure) for figure in ("gbps", "kpps")}
        calls = [run["packets_per_call"].get("sends", 0) for run in own]
        cells = [
            name,
            of["gbps"].text(),
            shown(ratio["gbps"]),
            of["cpu_s_per_gb"].text(".1f"),
            of["kpps"].text(".0f"),
            shown(ratio["kpps"]),
            f"{of['loss'].median:.0%}",
            f"{of['reordered'].median:.0f}",
            f"{of['duplicates'].median:.0f}",
            f"{Spread.of(calls).median:.1f}" if any(calls) else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    how = (
        f"Setting {setting}; median (lowest-highest) of {rounds} interleaved rounds of {seconds} s;"
        " / vxlan: ratio to kernel VXLAN in the same round; CPU of the whole machine during the TCP"
        " run; UDP: 64 bytes of payload, one sender as fast as it can."
    )
    lines += ["", how, common.machine_line() + "."]
    return "\n".join(lines)


def shown(ratio: Spread | None) -> str:
    """Return the text of a ratio that may not exist."""
    return ratio.text() if ratio else "-"


def order(run: Run) -> int:
    """Sort contenders as the ladder is climbed."""
    return CONTENDERS.index(run["contender"])


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench ladder",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--contender", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--setting", choices=sorted(SETTINGS), default="sgro")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each workload (default 3)")
    parser.add_argument("--json", metavar="FILE", help="write all runs there too")
    args = parser.parse_args(arguments)
    if args.rounds < 1 or args.seconds < 1:
        parser.error("--rounds and --seconds must be at least 1")
    require_tool("iperf3", "iperf3")
    common.require_udp_tools()
    common.warn_if_busy()
    runs = run_rounds(
        args.contender, setting=args.setting, rounds=args.rounds, seconds=args.seconds
    )
    print(table(runs, args.setting, args.seconds))
    document = {"schema": 1, "machine": common.machine(), "setting": args.setting, "runs": runs}
    common.write_json(args.json, document)
    return 0
