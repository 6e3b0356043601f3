"""Lesson "vxlan": what the wire shows of many flows, and of the largest packet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tunneld.lab import Capture, CommandError
from tunneld.lab.headers import UDP, Packet, parse
from tunneld.lab.vxlan import OVERHEAD, PORT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address

    from tunneld.demo.story import Story
    from tunneld.lab import ClusterNode, Frame

FLOWS = (5001, 5002, 5003, 5004)
PINGS = 3


def datagrams(frames: Sequence[Frame]) -> list[tuple[Packet, Packet]]:
    """Return what went out in VXLAN: the outer packet and the container's packet in it."""
    found = []
    for frame in frames:
        outer = parse(frame.packet)
        if outer and frame.outgoing and outer.protocol == UDP and outer.ports[1] == PORT:
            inner = parse(outer.payload[30:])
            if inner is not None:
                found.append((outer, inner))
    return found


def source_ports(story: Story, one: ClusterNode, target: IPv4Address) -> dict[str, Any]:
    """Send some flows and show the source port of each."""
    story.step("The source port: a new one for each flow")
    pings = f"ping -q -i 0.2 -c {PINGS} {target}"
    ports = " ".join(map(str, FLOWS))
    with Capture([(one.node, "eth0")]) as capture:
        story.shell(one.container, pings, keep=lambda line: "transmitted" in line)
        story.shell(
            one.container, f"for port in {ports}; do echo hi > /dev/udp/{target}/$port; done"
        )
        wanted = PINGS + len(FLOWS)
        sent = _wait(capture, wanted, "datagrams of the flows")
    seen: dict[str, list[int]] = {}
    for outer, inner in sent:
        to = f"UDP to port {inner.ports[1]}" if inner.protocol == UDP else "ping"
        seen.setdefault(to, []).append(outer.ports[0])
    rows = [[flow, str(len(found)), ", ".join(map(str, sorted(set(found))))]
            for flow, found in seen.items()]  # fmt: skip
    story.table(["flow", "packets", "outer source port"], rows, left=(0, 2))
    distinct = len({port for found in seen.values() for port in found})
    span = one.node.run(["cat", "/proc/sys/net/ipv4/ip_local_port_range"]).stdout.split()
    story.say(
        f"{len(seen)} flows, {distinct} source ports, between {span[0]} and {span[1]}: the kernel"
        " takes a hash of the inner addresses and ports. Nobody answers to that port. It is there"
        " for the switches and network cards between, which look at the outer header only: they"
        " spread flows over links and processor cores by it, and keep the packets of one flow in"
        " order, as one flow has one port. flannel's UDP mode has 8285 on both sides, so all that"
        " two nodes say to each other is one flow to a network card."
    )
    return {"flows": {flow: sorted(set(found)) for flow, found in seen.items()},
            "range": [int(each) for each in span]}  # fmt: skip


def largest(story: Story, one: ClusterNode, target: IPv4Address) -> dict[str, int]:
    """Show that 1450 bytes pass and 1451 do not."""
    story.step("MTU 1450: the largest packet that passes, and one byte more")
    mtu = 1500 - OVERHEAD
    data = mtu - 28
    story.say(
        f"1500 - {OVERHEAD} = {mtu}. A ping's packet is 20 (IPv4) + 8 (ICMP) + data, so {data}"
        " bytes of data fill it. -M do sets DF, do not fragment:"
    )
    with Capture([(one.node, "eth0")]) as capture:
        story.shell(
            one.container,
            f"ping -c 1 -M do -s {data} {target}",
            keep=lambda line: "bytes from" in line,
        )
        outer, inner = _wait(capture, 1, "the ping on the wire")[0]
        story.say(
            f"On the wire: {inner.length} bytes inside, {outer.length} outside, exactly the"
            " underlay's MTU. One byte more:"
        )
        refused = story.shell(
            one.container,
            f"ping -c 1 -W 1 -M do -s {data + 1} {target}",
            keep=lambda line: "local error" in line,
            notes={"ping: local error": "the container's own kernel"},
            check=False,
        )
        more = len(datagrams(capture.frames)) - 1
    told = re.search(r"mtu=(\d+)", refused.stdout + refused.stderr)
    story.say(
        f"That one never left: the wire has seen {more} of it. The MTU of the container's eth0"
        " tells its kernel what fits. With 1500 there, a default that many a container has:"
    )
    late = _forgotten(story, one, f"ping -c 1 -W 1 -M do -s {data + 1} {target}")
    return {
        "passes": inner.length,
        "on_the_wire": outer.length,
        "refused": data + 1 + 28,
        "told_mtu": int(told[1]) if told else 0,
        "refused_on_the_wire": more,
        "told_by_node_mtu": late,
    }


def _forgotten(story: Story, one: ClusterNode, ping: str) -> int:
    """Show who refuses when the container's MTU was forgotten; returns the MTU that it is told."""
    container = one.container
    larger = [(one.node, f"ip link set {container.veth} mtu 1500")]
    larger.append((container, "ip link set eth0 mtu 1500"))
    for node, command in larger:
        story.shell(node, command)
    refused = story.shell(
        container,
        ping,
        keep=lambda line: "Frag needed" in line,
        notes={"From": "node1's kernel"},
        check=False,
    )
    for node, command in larger:
        story.shell(node, command.replace("1500", "1450"))
    told = re.search(r"mtu = (\d+)", refused.stdout)
    story.say(
        "The packet gets as far as node1, which finds it too big for flannel.1 and answers with"
        " ICMP, fragmentation needed. It works, as long as nobody on the way throws ICMP away; with"
        " the right MTU there is nothing to throw away."
    )
    return int(told[1]) if told else 0


def _wait(capture: Capture, count: int, what: str) -> list[tuple[Packet, Packet]]:
    """Wait until so many VXLAN datagrams have gone out.

    Raises:
        CommandError: they have not.
    """
    try:
        return datagrams(capture.wait(lambda frames: len(datagrams(frames)) >= count))
    except TimeoutError:
        raise CommandError(f"eth0 has not seen {what}", remedy="run the lesson again") from None
