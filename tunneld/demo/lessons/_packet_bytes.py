"""Lesson "one-packet": what was added, removed and changed on the way, byte by byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunneld.demo.dissect import Layer, changed, dissect, draw
from tunneld.demo.dissect import find as layer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tunneld.demo.lessons._stations import Station
    from tunneld.demo.story import Story

CHECKSUMS = {
    "right": "UDP's checksum covers the whole packet inside, and it is right. ",
    "none (0)": "UDP's checksum is 0: none. The packet inside has its own. ",
    "half done": (
        "UDP's checksum is half done: the kernel leaves the rest to the network card, which sums"
        " faster; we have looked before the card. (In the lab no card follows: the packet is handed"
        " over in memory, with the note that nobody need check it.) "
    ),
    "wrong": "UDP's checksum is wrong: the receiver would drop this. ",
}
WORDS = {
    "Ethernet": "Ethernet: from one end of this link to the other, and no further.",
    "outer IPv4": "IPv4: from node to node. What the underlay routes by.",
    "UDP": "UDP: from program to program.",
}


def headers(story: Story, there: Sequence[Station], names: Mapping[str, str]) -> list[str]:
    """Show what was added, removed and changed between the stations of node 1.

    Returns:
        The fields of the packet that routing has changed.
    """
    story.step("Which headers came and went in node1?")
    bridge, tun, wire = there[2], there[3], there[4]
    frames = [dissect(at.frame, link=bool(at.link), names=names) for at in (bridge, tun, wire)]
    story.say("At docker0, as container-1 has sent it:")
    texts = {"IPv4": f"TTL {bridge.inner.ttl}"}
    story.draw(draw(frames[0], "At docker0: what container-1 has sent", texts=texts))
    story.say(
        "docker0 takes the Ethernet header off, and nobody puts one on for a TUN. At flannel0, as"
        " the daemon reads it:"
    )
    texts = {"IPv4": f"TTL {tun.inner.ttl}"}
    story.draw(draw(frames[1], "At flannel0: what the daemon reads", texts=texts))
    fields = _routed(story, layer(frames[0], "IPv4"), layer(frames[1], "IPv4"), tun.inner.length)
    story.say(
        f"The daemon lowers the TTL to {wire.inner.ttl} and sends the packet as the content of a"
        " datagram. At eth0, as the wire carries it:"
    )
    texts = {"outer IPv4": f"TTL {wire.packet.ttl}", "inner IPv4": f"TTL {wire.inner.ttl}"}
    added = ("outer IPv4", "UDP")
    story.draw(draw(frames[2], "At eth0: what the wire carries", added=added, texts=texts))
    story.say(
        f"20 + 8 = {wire.packet.length - wire.inner.length} bytes more, and nothing else: the"
        " tunnel has no header of its own. So the containers' MTU (the most that one packet may"
        " have) is 1500 - 28 = 1472. The Ethernet header is made anew for every link, with the"
        " MAC addresses of the two ends of that link; the IP addresses inside stay:"
    )
    rows = []
    for at in (bridge, wire, there[-1]):
        link = dissect(at.frame, names=names)[0]
        ends = [link.row(name).meaning for name in ("source", "destination")]
        rows.append([f"{at.node} {at.interface}", *ends])
    story.table(["Ethernet at", "from", "to"], rows, left=(0, 1, 2))
    return fields


def _routed(story: Story, before: Layer, after: Layer, length: int) -> list[str]:
    """Show what a router changes in a header."""
    differ = changed(before, after)
    at = before.rows[0].offset
    rows = [[str(old.offset - at), old.field, old.hex(), new.hex()] for old, new in differ]
    count = sum(len(old.data) for old, _ in differ)
    story.say(f"node1 has routed it. Of the packet's {length} bytes these {count} are others now:")
    head = ["byte", "field", "before", "after"]
    story.table(head, rows, left=(1, 2, 3))
    sums = [int.from_bytes(each.row("header checksum").data, "big") for each in (before, after)]
    story.say(
        "The header checksum sums the header up, 16 bits at a time, and the TTL is the high byte"
        f" of its 16: one less there makes the checksum {(sums[1] - sums[0]) % 0xFFFF:#06x} more. A"
        " router need not sum everything up again (RFC 1624)."
    )
    return [old.field for old, _ in differ]


def outer(story: Story, there: Sequence[Station], names: Mapping[str, str]) -> dict[str, Any]:
    """Take the headers apart that are on the wire only."""
    story.step("The outer header, byte by byte")
    wire = there[4]
    layers = dissect(wire.frame, names=names)
    parts = [layer(layers, name) for name in ("Ethernet", "outer IPv4", "UDP")]
    for part in parts:
        story.say(WORDS[part.name])
        story.table(["byte", part.name, "field", "says"], part.cells(), left=(1, 2, 3))
    _, ip, udp = parts
    fragment = wire.packet.dont_fragment
    udp_sum = udp.row("checksum").meaning
    story.say(
        f"TTL: {wire.packet.ttl}, not {wire.inner.ttl}: this is node1's own new packet, and its"
        " TTL only counts routers of the underlay. "
        + (
            "DF: the kernel wants to be told when a link on the way is too small, so it forbids"
            " routers to cut the datagram; the daemon asks the kernel for what it has learned. "
            if fragment
            else "DF is not set: a router may cut the datagram. "
        )
        + CHECKSUMS[udp_sum]
    )
    story.say(
        "Source and destination port are both 8285, for every packet between two nodes:"
        " tunneld (as flannel) knows a peer by that. A VXLAN datagram has another source port"
        " for each flow; the lesson vxlan shows what for."
    )
    return {
        "ttl": wire.packet.ttl,
        "dont_fragment": fragment,
        "ports": list(wire.packet.ports),
        "added": wire.packet.length - wire.inner.length,
        "header_checksum": ip.row("header checksum").meaning,
        "udp_checksum": udp_sum,
    }
