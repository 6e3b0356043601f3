"""From a container to a host outside: without address translation, and with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tunneld.demo.waiting import tcpdump

if TYPE_CHECKING:
    from tunneld.demo.story import Story
    from tunneld.lab import Node

ADDRESS = "10.168.0.66"
RULES = (
    "nft add table ip lesson",
    "nft add chain ip lesson out '{ type nat hook postrouting priority srcnat; }'",
    "nft add rule ip lesson out ip saddr 100.96.1.0/24 ip daddr != 100.96.0.0/16 masquerade",
)
CONNTRACK = "/proc/net/nf_conntrack"


def outside(story: Story, node: Node, container: Node, other: Node) -> dict[str, Any]:
    """Tell how a container reaches the world.

    Args:
        story: where.
        node: the host.
        container: who asks.
        other: the host outside.
    """
    found: dict[str, Any] = {"without": _without(story, node, container, other)}
    found["with"] = _with(story, node, container, other)
    found["conntrack"] = _remembered(story, node)
    return found


def _without(story: Story, node: Node, container: Node, other: Node) -> dict[str, Any]:
    story.step("Out into the world: the question arrives, the answer gets lost")
    story.say(
        f"{ADDRESS} is not near, so container-1 sends to its gateway, docker0, and node1 passes"
        " the packet on, from docker0 to eth0: it is a router, because this is 1:"
    )
    story.shell(node, "cat /proc/sys/net/ipv4/ip_forward")
    with tcpdump(story, other, "eth0", "icmp", 2) as packets:
        ttl = ping(story, container, ADDRESS, wait=1)
        seen = packets()
    story.say(
        "The request arrives, and the host outside answers to 100.96.1.2. But who is that? It asks"
        " its own routes:"
    )
    story.shell(other, "ip route get 100.96.1.2", keep=lambda line: "cache" not in line)
    story.say(
        "Off to its gateway, a router that has never heard of 100.96.1.0/24 either: addresses of"
        " containers mean something on their own host only."
    )
    return {"source": _source(seen), "ttl": ttl}


def _with(story: Story, node: Node, container: Node, other: Node) -> dict[str, Any]:
    story.step("MASQUERADE: out under the host's own address")
    story.say(
        "Three lines for the kernel's packet filter (docker writes much the same with iptables):"
    )
    for rule in RULES:
        story.shell(node, rule)
    story.say(
        "In words: what a container of this host sends to somewhere outside 100.96.0.0/16, the"
        " containers' network (all hosts of a cluster have a part of it), gets the address of the"
        " interface by which it leaves. Now the same ping, watched on both sides of node1:"
    )
    with (
        tcpdump(story, node, "docker0", "icmp", 2) as before,
        tcpdump(story, other, "eth0", "icmp", 2) as after,
    ):
        ttl = ping(story, container, ADDRESS)
        inner, outer = before(), after()
    story.say(
        f"On docker0 the source is {_source(inner)}, outside it is {_source(outer)}: node1's own"
        " address, which everybody on that link can answer."
        + (f" TTL {ttl}: a router was on the way, node1." if ttl < 64 else "")
    )
    return {"source": _source(outer), "source_inside": _source(inner), "ttl": ttl}


def _remembered(story: Story, node: Node) -> list[str]:
    """Show the entry by which the kernel finds the way back, where it lists them."""
    story.say(
        "How does node1 know that the answer is for container-1? It keeps a list of connections,"
        " conntrack: what a packet looked like when it came, and what its answer must look like."
    )
    if node.run(["test", "-e", CONNTRACK], check=False).returncode != 0:
        story.say(f"(This kernel has no {CONNTRACK} to show it; `conntrack -L` would.)")
        return []
    filtered = f"grep dst={ADDRESS} {CONNTRACK} | grep -o 'src=[0-9.]* dst=[0-9.]*'"
    notes = {"src=100.96": "as it came", f"src={ADDRESS}": "the answer that is expected"}
    done = story.shell(node, filtered, notes=notes, check=False)
    return done.stdout.splitlines()


def ping(story: Story, node: Node, address: str, *, wait: int = 5) -> int:
    """Show one ping; returns the TTL of the reply, 0 if there was none within `wait` seconds."""
    done = story.shell(
        node,
        f"ping -c 1 -W {wait} {address}",
        check=False,
        keep=lambda line: "bytes from" in line or "100% packet loss" in line,
    )
    match = re.search(r"ttl=(\d+)", done.stdout)
    return int(match[1]) if match else 0


def _source(packets: list[str]) -> str:
    """Return the source of the first packet that tcpdump has printed."""
    match = re.search(r"IP ([\d.]+) >", packets[0] if packets else "")
    return match[1] if match else ""
