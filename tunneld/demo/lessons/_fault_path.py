"""Faults of the path: a wire that loses packets, a container with a wrong MTU, a narrow link."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tunneld.demo.waiting import tcpdump, wait_until
from tunneld.lab import CommandError

if TYPE_CHECKING:
    from tunneld.demo.lessons._fault import Bed, Pings, Stream
    from tunneld.lab import Container, Node

WRITTEN = "| grep -A 3 outbound:"
READ = "| grep -A 1 inbound:"
PINGS = "-q -c 300 -i 0.005"


def lossy_wire(bed: Bed, healthy: Stream) -> dict[str, Any]:
    """Drop 5 of 100 datagrams on the switch; find them by comparing both ends."""
    story, other = bed.story, bed.other.container.address
    story.step("Loss: the wire loses 5 packets of 100")
    story.say(
        "Break it: on the switch, at the port of node 1's cable, a rule of nftables (the kernel's"
        " packet filter) throws the dice for each datagram of the tunnel. A bad cable, a full queue"
        " or a wireless link does the same."
    )
    story.shell(bed.switch, "nft add table netdev bad")
    hook = "type filter hook ingress device port1 priority 0;"
    story.shell(bed.switch, f"nft add chain netdev bad cable '{{ {hook} }}'")
    rule = "udp dport 8285 numgen random mod 100 '<' 5 counter drop"
    story.shell(bed.switch, f"nft add rule netdev bad cable {rule}")
    before = _balance(bed)
    story.say("What one sees: answers are missing, and TCP (iperf3) has to send again (Retr):")
    seen = bed.ping(bed.one.container, f"{PINGS} {other}")
    lossy = bed.stream()
    story.say("Where to look: what left node 1, and what came to node 2.")
    after = _settled(bed, before)
    bed.status(bed.one, WRITTEN)
    bed.status(bed.other, READ)
    bed.status(bed.other, "| grep drop_ || echo no packet was refused")
    story.shell(bed.switch, "nft list table netdev bad", keep=lambda line: "counter" in line)
    lost = after["written"] - after["read"]
    story.table(
        ["since the start of the daemons", "packets"],
        [
            ["written by node 1 (outbound packets_written)", f"{after['written']:,}"],
            ["read by node 2 (inbound packets_read)", f"{after['read']:,}"],
            ["lost in between", f"{lost:,}"],
            ["of them by the rule on the switch", f"{after['switch']:,}"],
            *(
                [["of them, at least, in a queue of node 1 or 2", f"{after['queues']:,}"]]
                * bool(after["queues"])
            ),
        ],
    )
    story.say(
        "Why: a datagram is sent and forgotten. tunneld counts what it refuses (drop_...), but a"
        " packet that vanishes on the wire is in no counter of either node: only the difference"
        f" between the two tells. {_tcp_words(healthy, lossy)} tunneld sends nothing again:"
        " TCP inside does, and two layers that both repeat would only get in each other's way."
    )
    story.say("Heal it:")
    story.shell(bed.switch, "nft delete table netdev bad")
    healed = bed.ping(bed.one.container, f"{PINGS} {other}")
    return {
        "pings": seen.sent,
        "pings_lost": seen.lost,
        "written": after["written"],
        "read": after["read"],
        "lost": lost,
        "dropped_by_switch": after["switch"],
        "dropped_by_queues": after["queues"],
        "mbps": lossy.mbps,
        "retransmits": lossy.retransmits,
        "pings_lost_when_healed": healed.lost,
    }


def _tcp_words(healthy: Stream, lossy: Stream) -> str:
    figures = f"{lossy.mbps:.0f} Mb/s against {healthy.mbps:.0f} before"
    again = f"TCP sent {lossy.retransmits:,} segments again, and takes each loss for a full link"
    if lossy.mbps < 0.9 * healthy.mbps:
        return f"{again}, so it slows down, by more than what is lost: {figures}."
    return f"{again}; here that cost next to nothing, {figures}: something else is the limit."


def _balance(bed: Bed) -> dict[str, int]:
    """Return what node 1 wrote, what node 2 read, and what is known to be lost in between."""
    kernel = bed.other.daemon.status()["counters"]["kernel"]
    queues = json.loads(bed.one.node.run(["tc", "-s", "-j", "qdisc", "show", "dev", "eth0"]).stdout)
    table = bed.switch.run(["nft", "-j", "list", "table", "netdev", "bad"]).stdout
    rules = [item["rule"] for item in json.loads(table)["nftables"] if "rule" in item]
    counted = [part["counter"]["packets"] for part in rules[0]["expr"] if "counter" in part]
    return {
        "read": bed.counters(bed.other, "inbound")["packets_read"],
        "written": bed.counters(bed.one, "outbound")["packets_written"],
        "switch": counted[0],
        "queues": kernel["socket_dropped"] + sum(queue.get("drops", 0) for queue in queues),
    }


def _settled(bed: Bed, before: dict[str, int]) -> dict[str, int]:
    """Wait until every packet since `before` is accounted for; what is then counted."""

    def settled() -> dict[str, int] | None:
        # TCP says goodbye late, and again, where packets are lost.
        if any(_talking(container) for container in bed.cluster.containers):
            return None
        now = _balance(bed)
        change = {name: now[name] - before[name] for name in now}
        known = change["read"] + change["switch"] + change["queues"]
        return now if change["written"] == known else None

    try:
        with bed.story.working("waiting until all packets are where they go", 1):
            return wait_until(settled, "the counters", timeout=4)
    except CommandError:
        return _balance(bed)


def _talking(container: Container) -> bool:
    """Whether a TCP connection of a container may still send."""
    lines = container.run(["ss", "-H", "-t", "-a", "-n"]).stdout.splitlines()
    return any(line.split()[0] not in {"LISTEN", "TIME-WAIT"} for line in lines)


def wrong_mtu(bed: Bed) -> dict[str, Any]:
    """Give the containers 1500 bytes; who says that it is too much, and if nobody may."""
    story = bed.story
    story.step("MTU: a container that believes in 1500 bytes")
    story.say(
        "MTU is the largest packet that an interface sends. The wire takes 1500 bytes; tunneld"
        " needs 28 of them to wrap a packet, so flannel0 takes 1472, and so should the containers"
        " (FLANNEL_MTU in subnet.env tells docker). Break it: docker was started without."
    )
    for host in bed.cluster.nodes:
        veth = host.container.veth
        words = f"ip link set docker0 mtu 1500; ip link set {veth} mtu 1500"
        story.shell(host.node, words)
        story.shell(host.container, "ip link set eth0 mtu 1500")
    story.say("What one sees, if one asks: 1472 bytes + 28 of ICMP and IPv4 = 1500, not to be cut:")
    told = _too_big(bed, 1472, "-c 2 -i 0.2")
    learnt = _learnt(bed)
    if told.teller:
        who, mtu = told.teller
        story.say(
            f"An ICMP message, fragmentation needed, from {who}: that is docker0, so the kernel of"
            f" node 1 speaks, before the packet ever came to tunneld. container-1 keeps the {mtu}"
            " for ten minutes and sends smaller packets; nobody notices anything."
        )
    return {
        "told_by": told.teller[0] if told.teller else None,
        "told": told.teller[1] if told.teller else None,
        "learnt": learnt,
        "black_hole": _black_hole(bed),
    }


def _too_big(bed: Bed, size: int, how: str) -> Pings:
    return bed.ping(bed.one.container, f"{how} -W 1 -M do -s {size} {bed.other.container.address}")


def _learnt(bed: Bed) -> int | None:
    """Show what the kernel of container-1 believes of the path, and return its MTU."""
    client, other = bed.one.container, bed.other.container.address
    story_notes = {"    cache": "learnt from the ICMP message"}
    bed.story.shell(client, f"ip route get {other}", notes=story_notes)
    return known_mtu(client, str(other))


def known_mtu(node: Node, destination: str) -> int | None:
    """Return the path MTU that a node's kernel has learnt; None: none."""
    (route,) = json.loads(node.ip("-json", "route", "get", destination))
    found: int | None = route.get("metrics", [{}])[0].get("mtu")
    return found


def _black_hole(bed: Bed) -> dict[str, Any]:
    """Have a firewall drop the ICMP messages, and heal both."""
    story, client = bed.story, bed.one.container
    story.step("MTU: the black hole that a firewall makes of it")
    story.say(
        "The same, but somebody thought ICMP dangerous. Forget what was learnt, and drop the"
        " messages:"
    )
    story.shell(client, "ip route flush cache")
    story.shell(client, "nft add table ip fw")
    hook = "type filter hook input priority 0;"
    story.shell(client, f"nft add chain ip fw in '{{ {hook} }}'")
    story.shell(client, "nft add rule ip fw in icmp type destination-unreachable counter drop")
    story.say(
        "What one sees: a small ping is answered, a login works, and then everything that is long"
        " hangs, without any error."
    )
    small = bed.ping(client, f"-c 2 -i 0.2 {bed.other.container.address}")
    with tcpdump(story, bed.one.node, "docker0", "icmp", 1) as packets:
        hung = bed.stream()
        story.say("Where to look: what came out of docker0, and container-1 never heard.")
        packets()
    story.shell(client, "nft list table ip fw", keep=lambda line: "counter" in line)
    story.say(
        f"Why: iperf3 opened its connection with small packets; then came full ones,"
        f" and {hung.mbps:.2f} Mb/s arrived. Each was refused with an ICMP message, each message"
        " was thrown away, so container-1 sends the same again. Nothing is in tunneld's counters:"
        " these packets never came to it."
    )
    story.say("Heal it: let ICMP in, and give the containers what FLANNEL_MTU says.")
    story.shell(client, "nft delete table ip fw")
    for host in bed.cluster.nodes:
        words = f"ip link set docker0 mtu 1472; ip link set {host.container.veth} mtu 1472"
        story.shell(host.node, words)
        story.shell(host.container, "ip link set eth0 mtu 1472")
    whole = _too_big(bed, 1444, "-c 2 -i 0.2")
    return {"small_lost": small.lost, "mbps": hung.mbps, "full_lost_when_healed": whole.lost}


def narrow_link(bed: Bed) -> dict[str, Any]:
    """Put a router with a link of 1400 bytes between the nodes."""
    story, one, peer = bed.story, bed.one, bed.other.public_ip
    story.step("MTU: a narrow link that neither node can see")
    story.say(
        "Now the containers are right, but node 1 reaches node 2 through a router whose next link"
        " takes 1400 bytes only (a VPN, DSL). Break it: the switch becomes that router."
    )
    forward = "net.ipv4.ip_forward=1 net.ipv4.conf.br0.send_redirects=0"
    quiet = "net.ipv4.conf.all.send_redirects=0"
    story.shell(bed.switch, f"sysctl -q {forward} {quiet}")
    story.shell(bed.switch, f"ip route add {peer} dev br0 mtu lock 1400")
    story.shell(one.node, f"ip route add {peer} via 10.168.0.1")
    story.say("What one sees, with the largest packet that flannel0 takes, 1444 + 28 = 1472 bytes:")
    with tcpdump(story, one.node, "eth0", "icmp", 1) as packets:
        told = _too_big(bed, 1444, "-c 10 -i 0.2")
        story.say("Where to look: node 1's eth0, the path as its kernel and the container know it.")
        packets()
    if told.teller is None:
        told = _asked_again(bed)
    story.shell(one.node, f"ip route get {peer}", notes={"    cache": "of the wrapped packet"})
    learnt = _learnt(bed)
    dropped = bed.wait_for_count(one, "outbound", "drop_too_big", 1)
    bed.status(one, "| grep -E 'icmp_sent|drop_'")
    who, mtu = told.teller or ("nobody", 0)
    story.say(
        "Why: the router's message (need to frag, mtu 1400) is about the UDP datagram, so it goes"
        " to node 1, not to container-1; the packet in it is lost. tunneld asks its kernel once a"
        f" second for the path to each busy peer. From then on it refuses what does not fit"
        f" (drop_too_big) and tells the container itself: {who} is flannel0 of node 1, and {mtu} ="
        f" 1400 - 28. {_between(told)}"
    )
    story.say(
        "Heal it: take the router out again. While packets flow, tunneld goes on asking its kernel,"
        f" and has the path wide within seconds. container-1 would keep its {mtu} for ten minutes:"
        " let it forget."
    )
    story.shell(one.node, f"ip route del {peer} via 10.168.0.1")
    story.shell(bed.switch, f"ip route del {peer} dev br0; sysctl -q net.ipv4.ip_forward=0")
    story.shell(one.container, "ip route flush cache")
    _wait_until_wide(bed)
    healed = _too_big(bed, 1444, "-c 2 -i 0.2")
    return {
        "told_by": who,
        "told": mtu,
        "learnt": learnt,
        "drop_too_big": dropped,
        "full_lost_when_healed": healed.lost,
    }


def _asked_again(bed: Bed) -> Pings:
    """Wait until tunneld knows the narrow path, as it did not during the first ping."""
    client, other = bed.one.container, str(bed.other.container.address)
    argv = ["ping", "-q", "-c", "1", "-W", "0.3", "-M", "do", "-s", "1444", other]

    def known() -> bool:
        client.run(argv, check=False)
        return known_mtu(client, other) is not None

    with bed.story.working("waiting until tunneld has asked its kernel", 2):
        wait_until(known, "tunneld to tell of the narrow path")
    client.run(["ip", "route", "flush", "cache"])
    bed.story.say("tunneld did not know yet. A second later:")
    return _too_big(bed, 1444, "-c 2 -i 0.2")


def _between(told: Pings) -> str:
    if not told.received:
        return ""
    return (
        f"The {told.received} that came through in between went in two fragments: node 1's kernel"
        " knew the limit already and cut the datagrams for it."
    )


def _wait_until_wide(bed: Bed) -> None:
    """Wait until tunneld and the container have forgotten the narrow path."""
    client, other = bed.one.container, str(bed.other.container.address)

    def wide() -> bool:
        client.run(["ip", "route", "flush", "cache"])
        # A small one passes: only of a peer that is sent to the path is asked for.
        client.run(["ping", "-q", "-c", "1", "-W", "0.3", other], check=False)
        argv = ["ping", "-q", "-c", "1", "-W", "0.3", "-M", "do", "-s", "1444", other]
        return client.run(argv, check=False).returncode == 0

    with bed.story.working("waiting until tunneld has asked again", 2):
        wait_until(wide, "the path to be wide again")
