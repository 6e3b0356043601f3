"""Lesson "vxlan": an address that nobody has, and a peer without one of its three entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunneld.demo.lessons._vxlan_wire import datagrams
from tunneld.lab import NETWORK, Capture, CommandError, vxlan
from tunneld.lab.headers import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tunneld.demo.story import Story
    from tunneld.lab import Cluster, Frame

UNREACHABLE = f"unreachable {NETWORK} metric 4294967295"
ARP = b"\x08\x06"
NOBODY = "100.96.9.9"


class Broken:
    """Tries it out, and mends it again."""

    def __init__(self, story: Story, cluster: Cluster) -> None:
        self.story = story
        self.one, self.other = cluster.nodes
        self.target = str(self.other.container.address)
        self._wire = [(self.one.node, vxlan.DEVICE), (self.one.node, "eth0")]

    def unassigned(self) -> dict[str, Any]:
        """Ping an address of no node, with and without the unreachable route."""
        story, one = self.story, self.one
        story.step("An address that nobody has: where does the packet go?")
        story.say(f"{NOBODY} lies in the network {NETWORK}, but no node has 100.96.9.0/24:")
        self._route(NOBODY)
        with Capture(self._wire) as capture:
            said = self._ping(NOBODY)
            leaked = _in_clear(_wait(capture, lambda seen: bool(_in_clear(seen, NOBODY))), NOBODY)
        story.say(f"Seen on node1's eth0, outside of any tunnel: {leaked[0]}.")
        story.say(
            "No route but the default one matches, so the packet leaves by eth0 as it is: no"
            f" tunnel, the container's address ({one.container.address}) in the open, to a router"
            " that has never heard of it. And the container waits in vain. flannel leaves it at"
            " that. tunneld adds one route for the whole network, of the worst metric there is:"
        )
        story.shell(one.node, f"ip route add {UNREACHABLE}")
        self._route(NOBODY)
        with Capture(self._wire) as capture:
            told = self._ping(NOBODY, wait=5)
            kept = _in_clear(capture.frames, NOBODY)
        story.say(
            f"Now the wire has seen {len(kept)} packets, and the container is told at once."
            " Each peer's /24 is longer than this /16 and wins; only what nobody has meets it."
        )
        return {
            "without": {"in_clear": len(leaked), "answer": said},
            "with": {"in_clear": len(kept), "answer": told},
        }

    def taken_away(self) -> dict[str, dict[str, Any]]:
        """Take away each entry in turn, and put it back."""
        neighbour, fdb, route = vxlan.peer_commands(self.other)
        found = {
            "neighbour": self._without_neighbour(neighbour),
            "fdb": self._without_fdb(fdb),
            "route": self._without_route(route),
        }
        self.story.step("Which entry is missing?")
        look = {"neighbour": "ip neigh", "fdb": "bridge fdb, TX dropped", "route": "ip route get"}
        rows = [
            [
                name if name != "fdb" else "FDB",
                _heard(each),
                str(each["frames"]),
                str(each["vxlan"]),
                look[name],
            ]
            for name, each in found.items()
        ]
        head = ["missing", "container-1 sees", "on flannel.1", "on eth0", "where to look"]
        self.story.table(head, rows, left=(0, 1, 4))
        return found

    def _without_neighbour(self, restore: str) -> dict[str, Any]:
        story, one = self.story, self.one
        base = self.other.subnet.network_address
        story.step("Without the neighbour: node1 asks, and nobody can hear it")
        story.shell(one.node, f"ip neigh del {base} dev {vxlan.DEVICE}")
        found = self._try(wait=5, why="the kernel asks, and waits")
        story.shell(one.node, f"ip neigh show dev {vxlan.DEVICE}", notes={str(base): "no answer"})
        story.say(
            "The kernel does what it does on any Ethernet: it asks all by ARP,"
            f" {found['arp']} times. Such a question goes to ff:ff:ff:ff:ff:ff, and the FDB has no"
            f" node for that MAC: flannel.1 has dropped {found['dropped']} frames, eth0 has seen"
            f" {found['vxlan']}. Then the kernel gives up and tells the container."
        )
        return self._restore(found, restore)

    def _without_fdb(self, restore: str) -> dict[str, Any]:
        story, one = self.story, self.one
        mac, public = vxlan.vtep_mac(self.other), self.other.public_ip
        story.step("Without the FDB entry: silence")
        story.shell(one.node, f"bridge fdb del {mac} dev {vxlan.DEVICE} dst {public} self")
        found = self._try()
        story.say(
            "The route is right and the MAC is known, so IP is content and nobody tells the"
            " container anything. A switch would send a frame for an unknown MAC out of all its"
            " ports; a VTEP has none, and without an entry it drops the frame: flannel.1 has"
            f" dropped {found['dropped']}, eth0 has seen {found['vxlan']}. Only the counter tells."
        )
        return self._restore(found, restore)

    def _without_route(self, restore: str) -> dict[str, Any]:
        story, one = self.story, self.one
        story.step("Without the route: the address is nobody's")
        story.shell(one.node, f"ip route del {self.other.subnet}")
        self._route(self.target)
        found = self._try()
        story.say(
            "Without the /24 the next longest prefix is the /16, which says unreachable. (Without"
            f" that it would be the default route, as above.) flannel.1 has seen {found['frames']}"
            " frames: the other two entries are there, but nobody has asked for them."
        )
        return self._restore(found, restore)

    def _try(self, *, wait: int = 1, why: str = "ping waits") -> dict[str, Any]:
        """Ping the other container with taps on both sides of the VTEP."""
        story, node = self.story, self.one.node
        command = f"cat /sys/class/net/{vxlan.DEVICE}/statistics/tx_dropped"
        before = int(node.run(command.split()).stdout)
        with Capture(self._wire) as capture:
            answer = self._ping(self.target, wait=wait, why=why)
            story.command(node.name, command)
            after = int(node.run(command.split()).stdout)
            story.output(str(after), {str(after): f"{before} before"})
            # A frame that was dropped has passed the tap in front of the VTEP.
            frames = _wait(capture, lambda seen: len(_on(seen, vxlan.DEVICE)) >= after - before)
        own = _on(frames, vxlan.DEVICE)
        return {
            "answer": answer,
            "arp": sum(frame.frame[12:14] == ARP for frame in own),
            "frames": len(own),
            "vxlan": len(datagrams(frames)),
            "dropped": after - before,
        }

    def _restore(self, found: dict[str, Any], command: str) -> dict[str, Any]:
        self.story.say("Put back, it works again:")
        self.story.shell(self.one.node, command)
        return {**found, "restored": self._ping(self.target, wait=5) == "echo reply"}

    def _route(self, address: str) -> None:
        self.story.shell(
            self.one.node,
            f"ip route get {address} from {self.one.container.address} iif docker0",
            keep=lambda line: "cache" not in line,
            check=False,
        )

    def _ping(self, address: str, *, wait: int = 1, why: str = "ping waits") -> str:
        """Ping from container-1, showing the lines that tell something; returns the answer."""
        story, container = self.story, self.one.container
        command = f"ping -c 1 -W {wait} {address}"
        story.command(container.name, command)
        with story.working(why, wait):
            done = container.run(command.split(), check=False)
        words = ("bytes from", "From", "transmitted")
        lines = [line for line in done.stdout.splitlines() if any(word in line for word in words)]
        story.output("\n".join(lines[:1]))
        if "bytes from" in done.stdout:
            return "echo reply"
        return "host unreachable" if "Destination Host Unreachable" in done.stdout else "none"


def _heard(found: dict[str, Any]) -> str:
    words = {"none": "nothing at all", "host unreachable": "Destination Host Unreachable"}
    return words.get(found["answer"], str(found["answer"]))


def _on(frames: Sequence[Frame], interface: str) -> list[Frame]:
    return [frame for frame in frames if frame.interface == interface]


def _in_clear(frames: Sequence[Frame], destination: str) -> list[str]:
    """Return the packets to an address that left by eth0 without a tunnel, each as a line."""
    packets = [parse(frame.packet) for frame in _on(frames, "eth0")]
    return [
        str(packet)
        for packet in packets
        if packet is not None and str(packet.destination) == destination
    ]


def _wait(capture: Capture, enough: Callable[[list[Frame]], bool]) -> list[Frame]:
    """Wait for what must be seen.

    Raises:
        CommandError: it is not.
    """
    try:
        return capture.wait(enough)
    except TimeoutError as error:
        raise CommandError(f"the taps of node1: {error}", remedy="run the lesson again") from None
