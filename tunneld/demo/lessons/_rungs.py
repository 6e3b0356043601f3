"""The rungs of lesson "ladder", each with its idea, and what their figures say."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunneld.demo.drawing.bars import Bar, Bars

if TYPE_CHECKING:
    from collections.abc import Sequence

NOISE = 0.15
"""Two runs of a few seconds differ by as much (see the README on the benchmarks)."""


@dataclass(frozen=True, slots=True)
class Rung:
    """A rung, and what to say of it.

    Attributes:
        name: as `--dataplane` takes it.
        headline: of its step.
        idea: in two sentences.
    """

    name: str
    headline: str
    idea: str


RUNGS = (
    Rung(
        "python",
        "python: the path of a packet, in plain Python",
        "The event loop says that the device has a packet; os.read fetches it, sendto sends it on."
        " Each packet costs several calls, and a walk through the interpreter.",
    ),
    Rung(
        "syscall",
        "syscall: the same, in C",
        "A thread in C does the same, one packet per system call, as flannel's own proxy does."
        " What is left of the cost is the kernel's: the crossings, and its work for each packet.",
    ),
    Rung(
        "mmsg",
        "mmsg: 64 packets per call on the socket",
        "sendmmsg and recvmmsg take an array of packets, so the socket costs one crossing for as"
        " many as are there. The device is still read and written packet by packet.",
    ),
    Rung(
        "gso",
        "gso: a run of packets is one message",
        "Equal packets to one peer are handed over as one large message, which the kernel cuts as"
        " late as it can (UDP_SEGMENT), and arriving ones come joined (UDP_GRO). So the kernel's"
        " own way through its layers is gone once for many packets, not only the crossing.",
    ),
    Rung(
        "offload",
        "offload: superpackets of 64 KiB through the device as well",
        "The device tells the container's kernel that it can cut and check for itself, as a good"
        " network card does, so TCP hands over up to 64 KiB at once; the daemon builds the headers"
        " of the packets in it, and joins arriving packets into one again. Now neither the"
        " container's kernel nor the daemon handles single packets.",
    ),
)


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured of a rung.

    Attributes:
        name: of the rung, or the other way.
        gbps: of one TCP stream.
        cpu_s_per_gb: of the whole machine.
        calls_per_packet: of both daemons; None: there is none.
        ratio: to VXLAN's throughput in this run; 0.0 until that is known.
    """

    name: str
    gbps: float
    cpu_s_per_gb: float
    calls_per_packet: float | None
    ratio: float = 0.0


def bars(results: Sequence[Result]) -> Bars:
    """Draw what has been measured so far, throughput as bars, crossings beside them."""
    rows = [
        Bar(
            each.name,
            each.gbps,
            "no daemon"
            if each.calls_per_packet is None
            else f"{each.calls_per_packet:.2f} calls per packet",
            strong=each is results[-1],
        )
        for each in results
    ]
    return Bars(rows, "Gb/s", "One TCP stream, container to container")


def with_ratios(results: Sequence[Result]) -> list[Result]:
    """Return them with their ratios to VXLAN."""
    yardstick = next(each.gbps for each in results if each.name == "VXLAN")
    return [
        Result(
            each.name,
            each.gbps,
            each.cpu_s_per_gb,
            each.calls_per_packet,
            each.gbps / max(yardstick, 1e-9),
        )
        for each in results
    ]


def conclusions(results: Sequence[Result], throttle: str | None) -> list[str]:
    """Return what this run bears out, in words that follow its figures."""
    rungs = [each for each in results if each.calls_per_packet is not None]
    pairs = list(itertools.pairwise(rungs))
    low, high = min(rungs, key=lambda each: each.gbps), max(rungs, key=lambda each: each.gbps)
    texts = []
    if high.gbps < low.gbps * (1 + NOISE):
        why = f": the wire is throttled to {throttle}" if throttle else ""
        cheap = min(rungs, key=lambda each: each.cpu_s_per_gb)
        dear = max(rungs, key=lambda each: each.cpu_s_per_gb)
        texts.append(
            f"All rungs carry the same here{why}. What still tells them apart is the CPU: "
            f"{dear.cpu_s_per_gb:.1f} s for a gigabyte on rung {dear.name},"
            f" {cheap.cpu_s_per_gb:.1f} on rung {cheap.name}."
        )
    else:
        before, after = max(pairs, key=lambda pair: pair[1].gbps / pair[0].gbps)
        texts.append(
            f"The longest step of this run is from {before.name} to {after.name}:"
            f" {after.gbps / before.gbps:.1f} times the throughput, with"
            f" {after.calls_per_packet or 0:.2f} calls for a packet in place of"
            f" {before.calls_per_packet or 0:.2f}. From the bottom to the top it is"
            f" {high.gbps / low.gbps:.1f} times."
        )
        texts.append(_against_vxlan(high))
    texts += [
        f"{upper.name} carries less than {lower.name} in this run: its idea finds nothing to save"
        " here, or something else took the CPU."
        for lower, upper in pairs
        if upper.gbps < (1 - NOISE) * lower.gbps
    ]
    ties = [
        f"{lower.name} and {upper.name}"
        for lower, upper in pairs
        if abs(upper.gbps - lower.gbps) < NOISE * lower.gbps
    ]
    text = (
        "How much of that is noise? Two runs of a few seconds differ by 15 % on a quiet machine,"
        " more on a busy one, and each way ran once, one after the other. "
    )
    if ties:
        text += f"So in this run no order can be seen between {', nor between '.join(ties)}. "
    texts.append(
        text + "Calls per packet are counted, not timed, but follow the load: the more packets are"
        " there when the daemon looks, the fewer calls each costs. `./run bench ladder` measures in"
        " rounds, by turns, and says how far the rounds lie apart."
    )
    return texts


def _against_vxlan(best: Result) -> str:
    if abs(best.ratio - 1) < NOISE:
        words = f"is level with VXLAN ({best.ratio:.2f} of its throughput)"
    elif best.ratio > 1:
        words = f"is faster than VXLAN ({best.ratio:.2f} of its throughput)"
    else:
        words = f"reaches {best.ratio:.2f} of VXLAN's throughput"
    return (
        f"The best rung, {best.name}, {words}. Each byte still goes up to a daemon and down again"
        " on both nodes, which the kernel's tunnel saves: compare the CPU column."
    )
