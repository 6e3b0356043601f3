"""Lesson "host-gw": the peer is the next hop. What that saves, and where it cannot work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunneld.demo import Lesson, measure
from tunneld.demo.drawing import topology
from tunneld.demo.drawing.bars import Bar, Bars
from tunneld.demo.lessons import _daemons as daemons
from tunneld.demo.lessons import _wire as wire
from tunneld.demo.lessons._routed import Routed
from tunneld.lab import Cluster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunneld.demo import Options, Results
    from tunneld.demo.lessons._wire import Sighting
    from tunneld.demo.story import Story

LESSON = Lesson(
    title="no tunnel at all, the peer is the next hop",
    learn=(
        "one route per peer is enough where the nodes share a link",
        "what a tunnel adds to each packet, and what is left when there is none",
        "why a router between the nodes ends it, whatever you write into node 1's table",
        "what routers would have to know, and that this is Calico's idea: BGP tells them",
    ),
    question=(
        "Run it with --keep. In the second set of hosts, the one with a router, take away one of"
        " the router's two routes: ip route del 100.96.1.0/24. Ping container-2 from container-1"
        " again. Which packet is lost, the request or the reply? How do you see it, and who is"
        " told?"
    ),
    answer=(
        "The reply. On node2, `tcpdump -ni eth0 icmp` shows the request come in and the reply go"
        " out, and then the router, 10.168.1.1, telling 100.96.2.3 'net 100.96.1.2 unreachable'."
        " The router knows the way to container-2, so container-2 is told; container-1, who asked,"
        " hears nothing at all. Silence on one side says little about where a packet died: look on"
        " both."
    ),
    needs=("root", "tun", "vxlan", "iperf3:iperf3", "ping:iputils-ping"),
)
TYPES = ("udp", "vxlan", "host-gw")
NAMES = {"host-gw": "no tunnel", "udp": "UDP tunnel", "vxlan": "kernel VXLAN"}
ROUTE_NOTES = {
    "default": "everybody else",
    "10.168.0.0/24": "the link: our neighbours",
    "100.96.1.0/24": "own containers",
    "100.96.2.0/24 via": "node2's: hand them to node2",
    "unreachable": "last: not to strangers",
}


def run(story: Story, options: Options) -> Results:
    """Tell it: nodes on one link, then nodes with a router between them."""
    with story.open(
        Cluster(nodes=2, setting=options.setting, backend={"Type": "host-gw"})
    ) as cluster:
        link = OneLink(story, cluster, options)
        link.next_hop()
        ways = {"host-gw": link.on_the_wire()}
        for kind in TYPES:
            link.another_way(kind, ways)
        link.compare(ways)
    with story.open(
        Cluster(
            nodes=2,
            setting=options.setting,
            shape="router",
            second_mtu=1500,
            backend={"Type": "host-gw"},
        )
    ) as cluster:
        return {"ways": ways, "router": Routed(story, cluster).tell()}


class OneLink:
    """Two nodes on one link."""

    def __init__(self, story: Story, cluster: Cluster, options: Options) -> None:
        self.story = story
        self.cluster = cluster
        self.options = options
        self.one, self.other = cluster.nodes

    def next_hop(self) -> None:
        """Start the daemons and show the one route that they add."""
        story = self.story
        story.step("Two nodes on one link: who needs a tunnel?")
        story.draw(topology.nodes(process="tunneld: writes routes only"))
        story.say(
            "A link is what one frame can cross: a cable, or a switch. The nodes share one, so"
            " node1 can put a frame for node2 on the wire and it arrives. A packet for container-2"
            " only has to get to node2, which knows its own containers. So let node2 be the next"
            " hop: the neighbour to whom a router hands a packet. The type is called host-gw: the"
            " host is the gateway."
        )
        daemons.show_config(story, self.cluster)
        daemons.start(story, self.cluster)
        story.shell(self.one.node, "ip route", notes=ROUTE_NOTES)
        story.shell(
            self.one.node,
            f"grep MTU {self.one.daemon.subnet_file}",
            notes={"FLANNEL_MTU": "the link's own: the containers need not shrink"},
        )
        story.say(
            "That is all of it: one route per peer, written by the daemon and used by the kernel."
            " There is no overlay device, and no packet ever comes up to the daemon."
        )

    def on_the_wire(self) -> dict[str, Any]:
        """Ping and look at the frame between the nodes."""
        story = self.story
        story.step("The packet on the wire: nothing was added")
        seen = self._sight("host-gw")
        story.table(["field", "says", ""], _rows(seen, self._names()), left=(0, 1, 2))
        hop = f"ip neigh show {self.other.public_ip}"
        story.shell(self.one.node, hop, notes={str(self.other.public_ip): "the same MAC"})
        story.say(
            "Two addresses, two jobs. The IP header is container-1's own and says container-2 from"
            " end to end. The Ethernet header is node1's, for this one link, and says node2: that"
            " is what `via 10.168.0.3` means. The kernel asked by ARP for the next hop's MAC, not"
            f" for container-2's. The TTL is {seen.inner_ttl}: container-1 sent 64, and node1, a"
            f" router here, took {64 - seen.inner_ttl}."
        )
        return seen.figures()

    def another_way(self, kind: str, ways: dict[str, dict[str, Any]]) -> None:
        """Change the backend, look at the same ping again, and measure."""
        story = self.story
        if kind == "host-gw":
            story.step("And back to no tunnel: how fast is that?")
        else:
            story.step(f"The same ping through a tunnel: {NAMES[kind]}")
        story.say(
            "The daemons are stopped, `tunneld cleanup` removes what they have left, the config"
            " names another type, and the daemons start again:"
        )
        daemons.change(story, self.cluster, kind)
        if kind != "host-gw":
            seen = self._sight(kind)
            ways[kind] = seen.figures()
            more = seen.length - ways["host-gw"]["frame"]
            story.say(
                f"{more} bytes more than without a tunnel: {' + '.join(seen.added_words())}. The"
                f" containers' MTU must shrink by as much, to {self._mtu()}."
            )
        load = measure.tcp(
            story, self.one.container, self.other.container, self.options.seconds or 2
        )
        ways[kind] |= {"gbps": load.gbps, "cpu_s_per_gb": load.cpu_s_per_gb, "mtu": self._mtu()}

    def compare(self, ways: Mapping[str, Mapping[str, Any]]) -> None:
        """Put the three ways side by side."""
        story = self.story
        story.step("What no tunnel saves")
        plain = ways["host-gw"]
        rows = [
            [
                NAMES[kind],
                str(ways[kind]["frame"]),
                f"+{ways[kind]['frame'] - plain['frame']}",
                str(ways[kind]["mtu"]),
                f"{ways[kind]['gbps']:.2f}",
                f"{ways[kind]['cpu_s_per_gb']:.1f}",
            ]
            for kind in TYPES
        ]
        story.table(["", "frame of the ping", "", "MTU", "Gb/s", "CPU s/GB"], rows)
        bars = [Bar(NAMES[kind], ways[kind]["gbps"], strong=kind == "host-gw") for kind in TYPES]
        story.draw(Bars(bars, "Gb/s", "One TCP stream from container-1 to container-2"))
        best = max(TYPES, key=lambda kind: ways[kind]["gbps"])
        times = {kind: plain["gbps"] / ways[kind]["gbps"] for kind in TYPES}
        story.say(
            f"In this run no tunnel moved {times['udp']:.1f} times as much as the UDP tunnel and"
            f" {times['vxlan']:.1f} times as much as VXLAN."
            + (
                " No outer header is built and taken off again, and the route is looked up once"
                " instead of twice."
                if best == "host-gw"
                else f" That {NAMES[best]} came first is not the rule: less work is done without a"
                " tunnel. A run this short differs from the next: try --seconds 10."
            )
        )

    def _sight(self, kind: str) -> Sighting:
        seen = wire.ping(self.story, self.one, self.other)
        self.story.draw(seen.draw(f"The request on the wire: {NAMES[kind]}"))
        return seen

    def _mtu(self) -> int:
        return int(self.one.daemon.environment()["FLANNEL_MTU"])

    def _names(self) -> dict[str, str]:
        names = {}
        for host in self.cluster.nodes:
            names[wire.mac(host.node, "eth0")] = f"eth0 of {host.name}"
            names[str(host.container.address)] = host.container.name
        return names


def _rows(seen: Sighting, names: Mapping[str, str]) -> list[list[str]]:
    """Return the fields of a frame without a tunnel that tell who it is for."""
    found = []
    for layer, field in (
        ("Ethernet", "source"),
        ("Ethernet", "destination"),
        ("IPv4", "source"),
        ("IPv4", "destination"),
        ("IPv4", "TTL"),
    ):
        says = seen.says(layer, field)
        found.append([f"{layer} {field}", says, names.get(says, "")])
    return found
