"""Faults of what is believed: keys in the store, addresses on packets."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any

from tunneld.demo.lessons import _daemons as daemons
from tunneld.demo.waiting import wait_until
from tunneld.lab.probe import ECHO_REQUEST, checksum

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from tunneld.demo.lessons._fault import Bed

GARBLED, LIE = "100.96.7.0-24", "100.96.9.0-24"


def wrong_keys(bed: Bed) -> dict[str, Any]:
    """Put a garbled key and one that lies into the store."""
    story, one, other = bed.story, bed.one, bed.other
    keys = bed.cluster.store_dir / "subnets"
    story.step("A wrong key in the store: one that cannot be read, one that lies")
    story.say(
        "The store is where nodes find each other: a key for each subnet, its value the node's"
        " address (here files; else etcd). Break it by hand: a value that is no JSON, and a"
        " good one that gives node 2 a subnet which it does not have."
    )
    story.shell(one.node, f"echo 10.168.0.4 > {keys}/{GARBLED}")
    story.shell(one.node, f'echo \'{{"PublicIP":"{other.public_ip}"}}\' > {keys}/{LIE}')
    wait_until(lambda: GARBLED in daemons.skipped(one), "the garbled key to be left out")
    wait_until(lambda: len(_peers(bed)) == 2, "the peer to be added")
    story.say("What one sees: nothing. Good packets flow as before:")
    good = bed.ping(one.container, f"-q -c 50 -i 0.01 {other.container.address}")
    story.say("Where to look: status lists what is believed, and what is not, with its reason.")
    bed.status(one, "| grep -E '^(100.96|skipped)'")
    skipped = daemons.skipped(one)
    peers = _peers(bed)
    story.say(
        f"{GARBLED} is skipped (the log names it once); {len(peers)} subnets are believed."
        " (flannel's UDP mode loses the routes to all peers over one such key.) The lie is well"
        " formed, so it is believed too. A packet for it goes to node 2, and container-1 hears"
        " nothing:"
    )
    before = bed.counters(other, "inbound")["drop_foreign_destination"]
    lied = bed.ping(one.container, "-c 3 -i 0.2 -W 1 100.96.9.2")
    refused = bed.wait_for_count(other, "inbound", "drop_foreign_destination", before + lied.sent)
    bed.status(other, "| grep drop_", notes={"  drop_foreign": "not in the own subnet"})
    unknown = story.shell(
        one.container,
        "ping -c 1 -W 1 100.96.11.2",
        check=False,
        keep=lambda line: line.startswith("From"),
    )
    no_route = bed.counters(one, "outbound")["drop_no_route"]
    bed.status(one, "| grep -E 'net_unreachable|no_route'")
    story.say(
        "Why: a node delivers only what is for its own subnet, and counts the rest as"
        " drop_foreign_destination: so one liar can neither make packets circle between nodes nor"
        " have them relayed. 100.96.11.2, which nobody has, is the honest case: node 1 itself knows"
        " no peer (drop_no_route), and tells the container at once. Heal both: take the keys out."
    )
    story.shell(one.node, f"rm {keys}/{GARBLED} {keys}/{LIE}")
    wait_until(lambda: len(_peers(bed)) == 1, "the lie to be forgotten")
    return {
        "skipped": sorted(skipped),
        "peers": sorted(peers),
        "good_pings_lost": good.lost,
        "lied_pings_lost": lied.lost,
        "drop_foreign_destination": refused - before,
        "unassigned_told": "From 100.96.1.0" in unknown.stdout,
        "drop_no_route": no_route,
    }


def _peers(bed: Bed) -> list[str]:
    return [peer["subnet"] for peer in bed.one.daemon.status()["peers"]]


def spoofed_packets(bed: Bed) -> dict[str, Any]:
    """Send forged packets to container-1 from three places."""
    story, one, other = bed.story, bed.one, bed.other
    stranger = bed.cluster.stranger()
    story.step("A spoofed packet: whom does a node believe?")
    story.say(
        "A datagram of the tunnel is a bare packet in UDP: no key, no signature. Who can send to"
        " port 8285 could put packets into the network. Three try: the stranger, a host on the same"
        " wire (10.168.0.66) that is no node, sends a forged ping from container-2 to container-1."
    )
    forged = echo_request(other.container.address, one.container.address)
    send = f"echo {forged} | base64 -d > /dev/udp/{one.public_ip}/8285"
    counted = bed.counters(one, "inbound")
    echoes = _echoes(bed)
    story.shell(stranger, send)
    story.say("A program on node 2 does the same; it is a peer's address, but not tunneld's port.")
    story.shell(other.node, send)
    story.say("And container-2 gives itself an address of a subnet that node 2 does not have.")
    story.shell(other.container, "ip address add 100.96.9.9/32 dev eth0")
    argument = f"-c 3 -i 0.2 -W 1 -I 100.96.9.9 {one.container.address}"
    lost = bed.ping(other.container, argument)
    names = {"drop_outer_source": 1, "drop_outer_port": 1, "drop_spoofed_source": lost.sent}
    story.say(
        "What one sees: nothing; the senders are not told either. Where to look: node 1's counters,"
        " and how many pings container-1 has ever got."
    )
    now = {
        name: bed.wait_for_count(one, "inbound", name, counted[name] + more)
        for name, more in names.items()
    }
    notes = {
        "  drop_outer_source": "no peer has 10.168.0.66",
        "  drop_outer_port": "a peer, but not from port 8285",
        "  drop_spoofed_source": "a peer, but not a subnet of its",
    }
    bed.status(one, "| grep -A 30 inbound: | grep drop_", notes=notes)
    story.shell(
        one.container,
        "nstat -asz IcmpInEchos",
        notes={"IcmpInEchos": f"{echoes} before"},
        keep=lambda line: "Echos" in line,
    )
    reached = _echoes(bed) - echoes
    story.say(
        f"Why: {reached} of {2 + lost.sent} forged packets reached container-1. Node 1 believes a"
        " packet only if its outer source is a peer's public IP and port, and its inner source lies"
        " in that peer's subnet: each check has its own counter. That is no encryption: who can"
        " forge a peer's address on the wire is believed. Tidy up:"
    )
    story.shell(other.container, "ip address del 100.96.9.9/32 dev eth0")
    return {
        "sent": 2 + lost.sent,
        "reached": reached,
        **{name: now[name] - counted[name] for name in names},
    }


def _echoes(bed: Bed) -> int:
    """Return how many echo requests container-1 has got."""
    text = bed.one.container.run(["nstat", "-asz", "IcmpInEchos"]).stdout
    return int(text.splitlines()[-1].split()[1])


def echo_request(source: IPv4Address, destination: IPv4Address) -> str:
    """Return an IPv4 packet with a ping in base64 (RFC 791, RFC 792).

    Args:
        source: whom it claims to be from.
        destination: whom it is for.
    """
    icmp = struct.pack("!BBHHH", ECHO_REQUEST, 0, 0, 7, 1)
    icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(icmp), 1, 0, 64, 1, 0, source.packed, destination.packed
    )
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return base64.b64encode(head + icmp).decode()
