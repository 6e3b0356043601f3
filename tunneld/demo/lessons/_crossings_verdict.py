"""What the figures say about the claim: each sentence follows the run, whatever came out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunneld.demo.lessons._counting import SENDER
from tunneld.demo.lessons._crossings import CLAIMED, Way, loss, total

if TYPE_CHECKING:
    from collections.abc import Mapping

TIE = 0.15
"""Two short runs differ by as much."""


def compared(share: float, other: str) -> str:
    """Return a loss against another way in words."""
    words = f"{abs(share) * 100:.0f} % {'less' if share >= 0 else 'more'}"
    return f"about as much as {other} ({words})" if abs(share) < TIE else f"{words} than {other}"


def paragraphs(ways: Mapping[str, Way], throttle: str | None) -> list[str]:
    """Return what is wrong, and what is right, with the claim.

    Args:
        ways: "direct", "vxlan", "udp" (one packet per call) and "best".
        throttle: rate of the wire, if it was slowed down.
    """
    return [_figure(ways, throttle), _count(ways), _cause(ways), _of_what(ways)]


def _figure(ways: Mapping[str, Way], throttle: str | None) -> str:
    lost = loss(ways["udp"], ways["direct"])
    text = (
        "The figure. With one packet per call the tunnel carries"
        f" {compared(lost, 'no tunnel')}, and"
        f" {compared(loss(ways['udp'], ways['vxlan']), 'VXLAN')}; VXLAN itself"
        f" {compared(loss(ways['vxlan'], ways['direct']), 'no tunnel')}. "
    )
    if lost > CLAIMED[1] + 0.05:
        text += "The claim's 20-30 % is far too kind to this way of doing it."
    elif lost >= CLAIMED[0] - 0.05:
        text += "In this run that is about what the claim says."
    elif throttle:
        text += (
            f"The claim's 20-30 % does not show: the wire is throttled to {throttle}, and every way"
            " can fill that. What a crossing costs is hidden as long as the CPU has time left."
        )
    else:
        text += (
            "That is less than the claim says: something other than the crossings limits this run."
        )
    return text


def _count(ways: Mapping[str, Way]) -> str:
    udp, direct = ways["udp"], ways["direct"]
    return (
        "The count. Three is one node's share, of the calls that carry the packet. The other node"
        f" has three as well: {total(udp, 'copies'):.1f} copies of each packet were counted from"
        f" container to container, against {total(direct, 'copies'):.1f} without a tunnel. The"
        f" claim leaves out the calls that find nothing ({total(udp, 'empty'):.1f} for a packet)"
        f" and the context switches ({total(udp, 'switches'):.1f} against"
        f" {total(direct, 'switches'):.1f}): after each packet the daemon looks for another, and"
        " goes to sleep if there is none. The three crossings are only the part that one sees in a"
        " drawing of the packet's way."
    )


def _cause(ways: Mapping[str, Way]) -> str:
    udp, best = ways["udp"], ways["best"]
    if udp.calls is None or best.calls is None:
        return ""
    start = (
        "The cause. The last row has the same daemon, the same device and the same three crossings"
        f" on each node, and carries {compared(loss(best, ways['direct']), 'no tunnel')}. What"
        f" differs is how much a call carries: {best.calls:.2f} calls for a packet in place of"
        f" {udp.calls:.2f}. "
    )
    if best.gbps > udp.gbps * (1 + TIE):
        return start + (
            "So it is not the crossings of the way that cost, but that each packet makes them"
            " alone. Lesson `ladder` takes that step by step."
        )
    return start + (
        "In this run it makes no difference: both are held up by something else than their system"
        " calls."
    )


def _of_what(ways: Mapping[str, Way]) -> str:
    spent = {key: way.spent.processes for key, way in ways.items() if way.spent is not None}
    cpu = {key: sum(each.values()) for key, each in spent.items()}
    text = (
        "And 20-30 % of what? For a packet of 64 bytes the processes above spent"
        f" {cpu['udp']:.0f} us with the tunnel, {cpu['vxlan']:.0f} with VXLAN and"
        f" {cpu['direct']:.0f} without: {cpu['udp'] / max(cpu['direct'], 1e-9):.1f} times as much."
        " A single percentage says nothing of packet size, number of CPUs and offloads of the wire,"
        " and each of them moves it."
    )
    if spent["vxlan"][SENDER] > spent["udp"][SENDER]:
        text += (
            " See also whose time it is: a kernel tunnel works inside the sender's sendto"
            f" ({spent['vxlan'][SENDER]:.0f} us of container-1's), the daemon in a process of its"
            f" own ({spent['udp'][SENDER]:.0f} us are left to container-1), on another CPU if one"
            " is free."
        )
    return text
