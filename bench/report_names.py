"""The names in a report: contenders, workloads, settings and metrics, in the order of a reader.

A name that is not listed here is shown as it stands in the file, after the listed ones: a new
contender, workload or metric needs no change here to appear.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from bench.contenders import YARDSTICK
from bench.metrics import METRICS
from bench.workloads import WORKLOADS


@dataclass(frozen=True, slots=True)
class Contender:
    """One way from container to container.

    Attributes:
        name: as in a result file.
        rung: its name on the ladder; empty: not a part of it.
        idea: the one thing that it adds, or what a reader must know to be fair.
        family: which colours it belongs to: udp, kernel, flannel, peer.
    """

    name: str
    rung: str
    idea: str
    family: str = "udp"


CONTENDERS = (
    Contender("udp-python", "python", "the same path in plain Python"),
    Contender("udp-syscall", "syscall", "C, one packet per system call, as flannel's proxy"),
    Contender("udp-mmsg", "mmsg", "64 packets per call on the socket (sendmmsg, recvmmsg)"),
    Contender("udp-gso", "gso", "runs of equal packets are one message (UDP_SEGMENT, UDP_GRO)"),
    Contender(
        "udp-offload-1",
        "offload \N{MULTIPLICATION SIGN}1",
        "64 KiB superpackets cross the TUN whole, one thread",
    ),
    Contender(
        "udp-offload-2", "offload \N{MULTIPLICATION SIGN}2", "the same, one thread per direction"
    ),
    Contender("udp", "auto", "the daemon as it comes: offload, as many threads as pay"),
    Contender("udp-kernel", "kernel", "the same bytes from the kernel (ipip + fou)", "kernel"),
    Contender("vxlan", "VXLAN", "kernel VXLAN: the yardstick", "kernel"),
    Contender("direct", "direct", "host-gw: routes and no tunnel", "kernel"),
    Contender("flannel", "", "flanneld as shipped, udp backend", "flannel"),
    Contender("wireguard-go", "", "encrypts, which the others here do not", "peer"),
    Contender("fastd", "", "without a cipher", "peer"),
    Contender("tinc", "", "without a cipher", "peer"),
    Contender("openvpn", "", "without a cipher", "peer"),
    Contender("socat", "", "TUN and UDP, one packet per call", "peer"),
)

PLAIN_ORDER = ("udp", YARDSTICK, "direct")
"""Who leads in charts that are no ladder; the rungs and the other tunnels follow."""


def contender(name: str) -> Contender:
    """Return what is known of a contender; of an unknown one its name alone."""
    known = {each.name: each for each in CONTENDERS}
    return known.get(name) or Contender(name, "", "", "other")


def ladder_order(name: str) -> tuple[int, str]:
    """Sort key: as the ladder is climbed, python first."""
    names = [each.name for each in CONTENDERS]
    return (names.index(name) if name in names else len(names), name)


def plain_order(name: str) -> tuple[int, int, str]:
    """Sort key: tunneld, the yardstick, no tunnel; then rungs from the top, then the others."""
    if name in PLAIN_ORDER:
        return (PLAIN_ORDER.index(name), 0, name)
    place, _ = ladder_order(name)
    return (len(PLAIN_ORDER), -place if contender(name).rung else place + 1, name)


MICRO = "\N{MICRO SIGN}s"


@dataclass(frozen=True, slots=True)
class Metric:
    """How one metric is printed.

    Attributes:
        key: as in a result file.
        title: for a heading.
        unit: as printed; may be empty.
        form: format of the number.
        scale: factor from the file's unit to the printed one.
    """

    key: str
    title: str
    unit: str
    form: str
    scale: float = 1.0

    def text(self, value: float, *, unit: bool = False) -> str:
        """Return a value of the file as printed, with its unit on demand."""
        number = f"{value * self.scale:,{self.form}}"
        return f"{number} {self.unit}".rstrip() if unit else number


def metric(key: str) -> Metric:
    """Return how a metric is printed; an unknown one by its key."""
    if key == "loss":
        return Metric(key, "lost", "%", ".1f", 100)
    known = METRICS.get(key)
    if known is None:
        return Metric(key, key, "", ".3f")
    return Metric(key, known.title, MICRO if known.unit == "us" else known.unit, known.form)


_SECOND_CPU = (
    "Part of a userspace tunnel's lead comes from a second CPU: a kernel tunnel runs inside the "
    "sender's system call, on the sender's CPU."
)
_SHARED = "Sender, receiver and both hosts share the CPUs of one machine."

NOTES = {
    "tcp1": _SHARED,
    "tcp4": "Four senders keep every CPU busy: what a tunnel uses is taken from them.",
    "tcp-bidir": f"Both directions added up. {_SHARED}",
    "udp64": _SECOND_CPU,
    "udp-mixed": (
        "Sizes that change from packet to packet form no runs: little to coalesce. " + _SECOND_CPU
    ),
    "udp1400": _SECOND_CPU,
    "pingpong": (
        "One datagram at a time: a userspace tunnel must be woken on both nodes, each way; a "
        "kernel tunnel never. A second thread costs latency, too."
    ),
    "rate50k": (
        "A fixed rate that every contender should carry: what one packet costs the whole machine, "
        "sender and receiver included."
    ),
}
"""Workload -> what a reader must know to judge its figures; stands beside them."""


def title(workload: str) -> str:
    """Return a workload's heading; of an unknown one its name."""
    known = WORKLOADS.get(workload)
    return known.title[0].upper() + known.title[1:] if known else workload


def columns(workload: str, found: Collection[str]) -> list[str]:
    """Return the metrics that a workload's table shows, headline first.

    Args:
        workload: a listed one names its columns; of another one every known metric is shown.
        found: the metrics that there are.
    """
    known = WORKLOADS.get(workload)
    return [key for key in (known.columns if known else METRICS) if key in found]


def workload_order(name: str) -> tuple[int, str]:
    """Sort key: the order of WORKLOADS, unknown ones last."""
    names = list(WORKLOADS)
    return (names.index(name) if name in names else len(names), name)


SETTINGS = {
    "sgro": (
        "Transmit checksum on, no hardware segmentation, software GSO and GRO on: the nearest to "
        "a plain network card. The headline setting."
    ),
    "on": (
        "All offloads on, as veth pairs come: 64 KiB superpackets cross the wire whole, for VXLAN "
        "too. This flatters everyone, kernel paths most."
    ),
    "plain": (
        "No checksum, segmentation or receive offload: every frame on the wire has at most "
        "1514 bytes."
    ),
}
"""Setting of the underlay -> what it means for the figures."""


def setting_order(name: str) -> tuple[int, str]:
    """Sort key: the headline setting first."""
    names = list(SETTINGS)
    return (names.index(name) if name in names else len(names), name)
