"""Result files with invented figures, in the shape that `python -m bench run` writes.

Believable, so that a report can be looked at, and the same on every call; nothing here was
measured.

    python -m tests.bench.made_up DIRECTORY
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# TCP Gb/s, CPU s/GB, UDP 64 B kpps, ping-pong minimum and median us, us and calls per packet.
CLASS = Mapping[str, tuple[float, float, float, float, float, float, float]]
SGRO: CLASS = {
    "direct": (9.2, 1.2, 146, 19, 65, 7.9, 0),
    "vxlan": (6.7, 1.5, 100, 26, 80, 11.4, 0),
    "udp": (7.0, 2.1, 219, 62, 109, 8.1, 0.06),
    "udp-python": (0.48, 29, 41, 140, 232, 49, 2.9),
    "udp-syscall": (0.7, 19.4, 58, 53, 125, 30, 2.6),
    "udp-mmsg": (1.0, 13, 84, 55, 126, 21, 1.1),
    "udp-gso": (1.53, 9.2, 122, 56, 127, 14, 0.9),
    "udp-offload-1": (5.6, 2.4, 188, 58, 118, 8.4, 0.05),
    "udp-offload-2": (6.9, 2.1, 221, 83, 129, 8.2, 0.06),
    "flannel": (0.33, 39, 38, 64, 150, 44, 4.4),
    "wireguard-go": (1.62, 8.4, 38, 94, 229, 33, 1.9),
}
ON: CLASS = {
    "direct": (14.6, 0.75, 150, 19, 64, 7.7, 0),
    "vxlan": (11.0, 1.0, 103, 26, 79, 11.2, 0),
    "udp": (9.0, 1.52, 236, 62, 108, 8.0, 0.06),
}


def document(
    setting: str = "sgro",
    contenders: CLASS = SGRO,
    *,
    date: str = "2026-11-21",
    rounds: int = 5,
    noise: float = 0.03,
    seed: int = 1,
) -> dict[str, Any]:
    """Invent a result file.

    Args:
        setting: of the underlay.
        contenders: name -> its class.
        date: of the runs.
        rounds: how many.
        noise: standard deviation of every figure, as a share of it.
        seed: another one gives other noise around the same medians.
    """
    dice = random.Random(seed)
    runs = [run for number in range(1, rounds + 1)
            for run in _round(number, contenders, dice, noise)]  # fmt: skip
    return {
        "schema": 1,
        "machine": {
            "date": date,
            "cpu": "Made-up CPU of a test",
            "cpus": 2,
            "kernel": "6.18.0-made-up",
            "mitigations": {"spectre_v2": "Mitigation: Retpolines; STIBP: disabled"},
            "python": "3.11.2",
            "iperf3": "3.12",
            "underlay": {
                "shape": "cable",
                "mtu": 1500,
                "offload": {"node1": {"tx-checksumming": True, "generic-segmentation": False}},
            },
        },
        "setting": setting,
        "plan": {"setting": setting, "contenders": list(contenders), "rounds": rounds,
                 "seconds": 2},
        "contenders": {
            name: {
                "mtu": 1450 if name == "vxlan" else 1472,
                "command_lines": [f"node{n}: made-up --as {name} --iface eth0" for n in (1, 2)],
            }
            for name in contenders
        },
        "skipped": {"fastd": "not installed: apt-get install fastd"},
        "failures": [],
        "runs": runs,
    }  # fmt: skip


def _round(
    number: int, contenders: CLASS, dice: random.Random, noise: float
) -> Iterator[dict[str, Any]]:
    for name, figures in contenders.items():
        for workload, metrics in _metrics(name, figures, dice, noise).items():
            run: dict[str, Any] = {
                "round": number,
                "contender": name,
                "workload": workload,
                "metrics": metrics,
                "quiet": (number, name, workload) != (2, "udp-gso", "tcp1"),
            }
            if workload == "pingpong":
                run["histograms"] = {"rtt_us": _histogram(figures[3], figures[4], dice)}
            yield run


def _metrics(
    name: str, figures: tuple[float, ...], dice: random.Random, noise: float
) -> dict[str, dict[str, float]]:
    gbps, per_gb, kpps, least, median, per_packet, calls = figures

    def near(value: float) -> float:
        return round(value * max(dice.gauss(1, noise), 0.2), 4)

    def stream(factor: float) -> dict[str, float]:
        return {
            "gbps": near(gbps * factor),
            "cpu_s_per_gb": near(per_gb),
            "tunnel_cpu_s_per_gb": near(per_gb * 0.4) if calls else 0,
            "syscalls_per_packet": near(calls),
            "retransmits": dice.randrange(200),
        }

    def datagrams(factor: float) -> dict[str, float]:
        return {
            "kpps": near(kpps * factor),
            "cpu_us_per_packet": near(per_packet),
            "syscalls_per_packet": near(calls),
            "loss": round(max(0.0, min(0.7, (100 - kpps) / 130)), 3),
            "reordered": 0,
        }

    return {
        "tcp1": stream(1),
        "tcp4": stream(1.3 if name in ("vxlan", "direct") else 0.97),
        "tcp-bidir": stream(1.1),
        "udp64": datagrams(1),
        "udp-mixed": datagrams(0.72 if calls else 0.97),
        "udp1400": datagrams(0.9),
        "pingpong": {
            "rtt_us_min": near(least),
            "rtt_us_p50": near(median),
            "rtt_us_p99": near(median * 2.4),
            "context_switches_per_packet": near(2) if calls else 0,
        },
        "rate50k": datagrams(1) | {"kpps": 50.0, "loss": 0.0},
    }


def _histogram(least: float, median: float, dice: random.Random) -> list[list[float]]:
    """Draw a skewed distribution with a tail, in buckets that grow by 3 %."""
    counts: dict[int, int] = {}
    for _ in range(1000):
        above = math.exp(dice.gauss(0, 0.45)) * (median - least)
        if dice.random() < 0.02:
            above *= 4 * dice.random() + 1
        bucket = math.ceil(math.log(least + above) / math.log(1.03))
        counts[bucket] = counts.get(bucket, 0) + 1
    return [[round(1.03**bucket, 2), counts[bucket]] for bucket in sorted(counts)]


def write(directory: Path) -> list[Path]:
    """Write the files that a report of three sections needs, and return their paths."""
    made = {
        "made-up-sgro.json": document(),
        "made-up-on.json": document("on", ON, seed=2),
        "made-up-sgro-earlier.json": document(date="2026-11-20", seed=3, noise=0.1, rounds=3),
    }
    for name, what in made.items():
        (directory / name).write_text(json.dumps(what, indent=1))
    return [directory / name for name in made]


if __name__ == "__main__":
    print(*write(Path(sys.argv[1])), sep="\n")
