"""Faults of a node: its daemon is dead, its device is deleted."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tunneld.demo.lessons._fault import monitor
from tunneld.demo.waiting import tcpdump, wait_until
from tunneld.lab import wait_for_ping

if TYPE_CHECKING:
    from tunneld.demo.lessons._fault import Bed


def dead_peer(bed: Bed) -> dict[str, Any]:
    """Kill node 2's daemon; who notices, and that nothing leaves in clear."""
    story, one, other = bed.story, bed.one, bed.other
    row = f"| grep {other.subnet}"
    story.step("A dead peer: node 2's daemon is killed")
    story.say(
        "Break it, as the kernel does when memory runs out. A peer is another node with its subnet;"
        " first its row in node 1's status: packets and bytes sent to it, packets and bytes"
        " received from it."
    )
    bed.status(one, row)
    before = _peer(bed)
    story.shell(other.node, f"kill -KILL {other.daemon.pid}")
    other.daemon.kill()
    story.say("What one sees: silence. Not even an error.")
    with tcpdump(story, one.node, "eth0", "icmp", 1) as packets:
        seen = bed.ping(one.container, f"-c 5 -i 0.2 -W 1 {other.container.address}")
        story.say("Where to look: on the wire, the status of node 1, the other side's container.")
        wire = " ".join(packets())
    sent = _wait_for_sent(bed, before["tx_packets"] + seen.sent) - before["tx_packets"]
    received = _peer(bed)["rx_packets"] - before["rx_packets"]
    bed.status(one, row)
    story.shell(other.node, "ip route", keep=lambda line: "100.96." in line)
    back = story.shell(
        other.container,
        f"ping -c 1 -W 1 {one.container.address}",
        check=False,
        keep=lambda line: line.startswith("From"),
    )
    story.say(
        f"Why: node 1 has sent {sent} packets and got {received} back. Its peer is in the list all"
        " the same: the list is the store's, where a lease stays for a day after its node's last"
        " word (here for ever: it was put by hand). Node 2's kernel answers"
        f" {'port unreachable' if 'port 8285' in wire else 'by ICMP'}: nobody has that UDP port."
        " tunneld does not listen to that: its one socket serves all peers, and an error on it"
        " would hit the others too."
        " On node 2 flannel0 went with its daemon, but the unreachable routes stay: what containers"
        f" send to the overlay is refused ({_said(back.stdout)}), never sent in clear by the"
        " default route."
    )
    story.say("Heal it: start the daemon again (systemd would do that). It takes its lease back.")
    args = ["--dataplane", bed.options.dataplane]
    story.command(other.name, " ".join(["tunneld run", *other.daemon.argv, *args]))
    began = time.monotonic()
    other.daemon.start(args)
    other.daemon.wait_ready()
    wait_for_ping(one.container, other.container.address)
    took = round((time.monotonic() - began) * 1e3)
    story.progress_done(f"first answer after {took} ms")
    healed = bed.ping(one.container, f"-q -c 20 -i 0.01 {other.container.address}")
    return {
        "pings_lost": seen.lost,
        "sent": sent,
        "received": received,
        "port_unreachable_on_the_wire": "udp port 8285 unreachable" in wire,
        "container_behind_it_was_told": _said(back.stdout) != "not told",
        "back_after_ms": took,
        "pings_lost_when_healed": healed.lost,
    }


def _said(text: str) -> str:
    """Return what a ping was told, in ping's words."""
    lines = [line for line in text.splitlines() if line.startswith("From")]
    return lines[0].split(" ", 3)[3] if lines else "not told"


def _peer(bed: Bed) -> dict[str, int]:
    peers = bed.one.daemon.status()["peers"]
    found: dict[str, int] = next(row for row in peers if row["subnet"] == str(bed.other.subnet))
    return found


def _wait_for_sent(bed: Bed, least: int) -> int:
    def sent() -> int | None:
        now = _peer(bed)["tx_packets"]
        return now if now >= least else None

    return wait_until(sent, "the packets to the dead peer to be counted")


def deleted_device(bed: Bed) -> dict[str, Any]:
    """Delete flannel0 under a ping, and see it come back by itself."""
    story, one = bed.story, bed.one
    story.step("A deleted device: flannel0 is gone, and nobody has to come")
    story.say(
        "Break it while container-1 pings 200 times a second; ip monitor tells what changes, and"
        " when."
    )
    changes = monitor(one.node, "address route")
    try:
        story.command(one.name, f"{changes.command} &")
        with bed.background_ping(f"-q -c 300 -i 0.005 {bed.other.container.address}") as ended:
            story.shell(one.node, "ip link del flannel0")
            back = wait_until(lambda: _back(changes.lines), "the route to come back")
            with story.working("the ping goes on", 2):
                wait_until(lambda: _repairs(bed).get("device"), "the repair to be counted")
            story.say("What one sees, if one looks closely:")
            seen = ended()
    finally:
        changes.close()
    shown = [line for line in back if line.startswith("[") and "table local" not in line]
    story.output("\n".join(shown))
    took = _ms(shown)
    story.say("Where to look: status counts what it had to repair, and the log tells what it met.")
    bed.status(one, "| grep repairs")
    story.shell(one.node, f"grep -E -o 'msg=.*(ended|repaired).*' {one.daemon.log}")
    repairs = _repairs(bed)
    story.say(
        f"Why: the kernel tells programs about each change (netlink), and tunneld listens for those"
        f" of its own things. {took} ms from the address gone to the route of the network"
        f" back, a new device in between; {seen.lost} of {seen.sent} pings lost"
        f"{f', {seen.errors} of them told so' if seen.errors else ''}. Meanwhile the unreachable"
        " route takes what would else go out in clear."
    )
    return {
        "pings": seen.sent,
        "pings_lost": seen.lost,
        "back_after_ms": took,
        "repairs": repairs.get("device", 0),
    }


def _repairs(bed: Bed) -> dict[str, int]:
    found: dict[str, int] = bed.one.daemon.status()["backend"]["repairs"]
    return found


def _back(lines: list[str]) -> list[str] | None:
    """Return what was monitored up to the route of the Network; None: it is not back."""
    for number, line in enumerate(lines):
        if "100.96.0.0/16 dev flannel0" in line and "Deleted" not in line:
            return lines[: number + 1]
    return None


def _ms(lines: list[str]) -> float:
    """Return the milliseconds from the first to the last line's time stamp."""
    first, last = (datetime.fromisoformat(lines[at].split("]")[0][1:]) for at in (0, -1))
    return round((last - first).total_seconds() * 1e3, 1)
