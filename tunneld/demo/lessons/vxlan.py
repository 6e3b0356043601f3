"""Lesson "vxlan": the same trip without leaving the kernel, set up by hand.

A VTEP, its three tables, the frame on the wire, the source port, the MTU; then one table after the
other is taken away (`_vxlan_broken`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunneld.demo import Lesson
from tunneld.demo.dissect import Layer, dissect, draw
from tunneld.demo.drawing import topology
from tunneld.demo.lessons import _stations as stations
from tunneld.demo.lessons._packet_bytes import CHECKSUMS
from tunneld.demo.lessons._packet_tables import mac
from tunneld.demo.lessons._vxlan_broken import Broken
from tunneld.demo.lessons._vxlan_wire import largest, source_ports
from tunneld.lab import Capture, Cluster, vxlan

if TYPE_CHECKING:
    from tunneld.demo import Options, Results
    from tunneld.demo.lessons._stations import Station
    from tunneld.demo.story import Story

LESSON = Lesson(
    title="VXLAN: the tunnel inside the kernel, by hand",
    learn=(
        "what a VTEP is, and which three tables it needs for each peer",
        "what a VXLAN frame looks like on the wire, byte by byte",
        "why its source port differs from flow to flow, and why the MTU is 1450",
        "what one sees when an address is unassigned, or one of the tables lacks its entry",
    ),
    question=(
        "A cluster has 500 nodes with 40 containers each. How many entries does each node hold for"
        " VXLAN, and how many more when every node starts 40 more containers?"
    ),
    answer=(
        "One route, one neighbour and one FDB entry for each of the 499 other nodes: 1,497; and not"
        " one more for new containers, as a /24 is one route however full it is. With --keep, count"
        " in node1: `ip route show dev flannel.1 | wc -l`, `ip neigh show dev flannel.1 | wc -l`,"
        " `bridge fdb show dev flannel.1 | wc -l`: 1 each, for one peer."
    ),
    needs=("root", "vxlan", "bridge", "ping:iputils-ping"),
)
WORDS = {
    "outer Ethernet": "Ethernet, from node1's eth0 to node2's: this link's own, as always.",
    "outer IPv4": "IPv4, from node to node. A new packet with a TTL of its own:",
    "UDP": "UDP, to the VTEP of the other node:",
    "VXLAN": (
        "VXLAN (RFC 7348). One bit says that a VNI follows; the VNI says which of 16 million"
        " networks the frame belongs to:"
    ),
    "inner Ethernet": (
        "And then a whole Ethernet frame, from VTEP to VTEP. Its destination is what the neighbour"
        " table has answered:"
    ),
    "inner IPv4": "In it the container's packet, one TTL less since node1 has routed it:",
    "ICMP": "The ping itself:",
    "data": "And what ping has filled it with.",
}
ADDED = ("outer IPv4", "UDP", "VXLAN", "inner Ethernet")


def run(story: Story, options: Options) -> Results:
    """Set VXLAN up, look at it, break it, and return what was seen."""
    with story.open(Cluster(nodes=2, setting=options.setting)) as cluster:
        lesson = Vxlan(story, cluster)
        lesson.vteps()
        lesson.entries()
        tables = lesson.tables()
        trip = lesson.trip()
        frame = lesson.frame(trip)
        one, target = lesson.one, lesson.other.container.address
        ports = source_ports(story, one, target)
        most = largest(story, one, target)
        broken = Broken(story, cluster)
        return {
            "tables": tables,
            "stations": [_plain(station) for station in trip],
            "frame": frame,
            "source_ports": ports,
            "largest": most,
            "unassigned": broken.unassigned(),
            "taken_away": broken.taken_away(),
        }


class Vxlan:
    """The steps until the first frame, in the order in which they are shown."""

    def __init__(self, story: Story, cluster: Cluster) -> None:
        self.story = story
        self.cluster = cluster
        self.one, self.other = cluster.nodes

    def vteps(self) -> None:
        """Make flannel.1 on both nodes."""
        story, one = self.story, self.one
        story.step("A VTEP on each node: an interface that wraps what is sent out of it")
        story.draw(topology.nodes((vxlan.DEVICE, "100.96.N.0/32")))
        story.say(
            "VTEP is VXLAN tunnel endpoint. No program reads from it: the kernel itself puts a"
            " frame that leaves by flannel.1 into a UDP datagram to another node, and takes it out"
            " there. VXLAN carries whole Ethernet frames, so a VTEP has a MAC address."
        )
        for command in vxlan.device_commands(one, self.cluster.underlay.mtu):
            story.shell(one.node, command)
        story.say(
            "id 1 is the VNI, the number of the virtual network, and flannel names the device by"
            " it. local and dev: the node's side of the tunnel. dstport 8472: Linux's old port,"
            " which flannel has kept; IANA has since given VXLAN 4789. nolearning: do not learn"
            " addresses from what arrives; somebody will enter them. And node2 the same way:"
        )
        for command in vxlan.device_commands(self.other, self.cluster.underlay.mtu):
            story.shell(self.other.node, command)
        fields = r"\<mtu [0-9]+|vxlan .* nolearning"
        story.shell(
            one.node,
            f"ip -d link show {vxlan.DEVICE} | grep -oE '{fields}'",
            notes={"mtu": "1500 - 50: see below"},
        )
        story.say("Docker is told the MTU with --mtu. For us it is typed:")
        story.shell(one.container, "ip link set eth0 mtu 1450")
        story.shell(one.node, "ip link set veth2 mtu 1450; ip link set docker0 mtu 1450")
        self.other.set_mtu(1450)
        story.say("(And the same in node2 and its container.)")

    def entries(self) -> None:
        """Enter the peer into the three tables."""
        story, one, other = self.story, self.one, self.other
        story.step("Three entries for a peer")
        neighbour, fdb, route = vxlan.peer_commands(other)
        base = other.subnet.network_address
        story.say(
            f"The containers of node2 are {other.subnet}. Their next hop shall be {base}, the"
            " address of node2's flannel.1. At the first attempt the kernel refuses:"
        )
        refused = f"ip route add {other.subnet} via {base} dev {vxlan.DEVICE}"
        story.shell(
            one.node, refused, check=False, notes={"Error": "no address here shares a net with it"}
        )
        story.say(
            "A next hop must be on one's own link, and flannel.1 has a /32, an address without"
            " neighbours. The word onlink says: believe me. flannel enters the route last, since"
            " packets go where it points as soon as it stands:"
        )
        for command in (neighbour, fdb, route):
            story.shell(one.node, command)
        story.say("And node2 learns of node1:")
        for command in vxlan.peer_commands(one):
            story.shell(other.node, command)

    def tables(self) -> dict[str, int]:
        """Ask each table its question; returns how many entries each has."""
        story, one, other = self.story, self.one, self.other
        story.step("Three tables, three questions")
        base, peer_mac = other.subnet.network_address, vxlan.vtep_mac(other)
        target, source = other.container.address, one.container.address
        story.say(f"1. The route table: where to with a packet for {target}?")
        get = f"ip route get {target} from {source} iif docker0"
        story.shell(one.node, get, keep=lambda line: "cache" not in line)
        routes = story.shell(one.node, f"ip route show dev {vxlan.DEVICE}")
        story.say(
            f"2. The neighbour table: which MAC address has the next hop {base}? On a common link"
            " ARP would have asked; here the answer stands already:"
        )
        neighbours = story.shell(one.node, f"ip neigh show dev {vxlan.DEVICE}")
        story.say(
            "3. The FDB (forwarding database): behind which node is that MAC? In a bridge the"
            " answer is a port, here it is the address of a node (dst):"
        )
        fdb = story.shell(one.node, f"bridge fdb show dev {vxlan.DEVICE}")
        rows = [
            ["route", f"who has {target}?", f"{base} on {vxlan.DEVICE}"],
            ["neighbour", f"which MAC has {base}?", peer_mac],
            ["FDB", f"which node has {peer_mac}?", str(other.public_ip)],
        ]
        story.table(["table", "question", "answer"], rows, left=(0, 1, 2))
        shown = {"route": routes, "neighbour": neighbours, "fdb": fdb}
        return {name: len(done.stdout.splitlines()) for name, done in shown.items()}

    def trip(self) -> list[Station]:
        """Ping once and tell where the packet was seen."""
        story, one, other = self.story, self.one, self.other
        story.step("A ping, and where it is seen")
        path = [
            (one.container, "eth0"),
            *((one.node, name) for name in ("docker0", vxlan.DEVICE, "eth0")),
            *((other.node, name) for name in ("eth0", vxlan.DEVICE, "docker0")),
            (other.container, "eth0"),
        ]
        with Capture(path) as capture:
            story.shell(
                one.container,
                f"ping -c 1 {other.container.address}",
                keep=lambda line: line.startswith("64 bytes"),
            )
            there, _ = stations.there_and_back(capture, [(node.name, name) for node, name in path])
        rows = []
        for at in there:
            parts = [len(at.link), at.packet.length - at.inner.length, at.inner.length]
            rows.append(
                [
                    f"{at.node:<11} {at.interface}",
                    f"+{(at.time - there[0].time) * 1e6:.0f}",
                    str(at.inner.ttl),
                    "+".join(str(part) for part in parts if part),
                ]
            )
        story.table(["the request at", "us", "TTL", "bytes"], rows)
        story.say(
            f"The TTL falls by {there[0].inner.ttl - there[-1].inner.ttl}: two kernels have routed"
            " the packet, and nobody else. It has crossed from user space to the kernel once, when"
            " ping has sent it; the lesson one-packet has counted five. On the wire there are"
            f" {there[3].packet.length - there[3].inner.length} bytes more."
        )
        return there

    def frame(self, trip: list[Station]) -> dict[str, Any]:
        """Take the frame on the wire apart."""
        story = self.story
        story.step("The frame on the wire, byte by byte")
        wire = trip[3]
        layers = dissect(wire.frame, names=self._names())
        texts = {"VXLAN": "VNI 1"}
        story.say("From outside to inside:")
        story.draw(draw(layers, "A ping in VXLAN", added=ADDED, texts=texts))
        for layer in layers:
            story.say(WORDS[layer.name])
            story.table(["byte", layer.name, "field", "says"], layer.cells(), left=(1, 2, 3))
            if layer.name == "UDP":
                story.say(CHECKSUMS[layer.row("checksum").meaning])
        if wire.inner.dont_fragment and not wire.packet.dont_fragment:
            story.say(
                "The container forbids fragments (DF), the outer header does not: Linux does not"
                " copy the flag unless the device is made with `df inherit`."
            )
        lengths = {layer.name: layer.length for layer in layers}
        added = sum(lengths[name] for name in ADDED)
        story.say(
            "What the tunnel costs: "
            + " + ".join(f"{lengths[name]} ({name})" for name in ADDED)
            + f" = {added} bytes. The outer Ethernet header does not count: any packet on this link"
            " has one, and the MTU is what may follow it."
        )
        return {
            "layers": [layer.name for layer in layers],
            "added": added,
            **_values(layers),
        }

    def _names(self) -> dict[str, str]:
        found = {}
        for host in self.cluster.nodes:
            found[mac(host.node, "eth0")] = f"eth0 of {host.name}"
            found[vxlan.vtep_mac(host)] = f"{vxlan.DEVICE} of {host.name}"
            found[str(host.public_ip)] = host.name
            found[str(host.container.address)] = host.container.name
        return found


def _values(layers: list[Layer]) -> dict[str, Any]:
    by_name = {layer.name: layer for layer in layers}
    udp, ip = by_name["UDP"], by_name["outer IPv4"]
    return {
        "vni": int.from_bytes(by_name["VXLAN"].row("VNI").data, "big"),
        "destination_port": int.from_bytes(udp.row("destination port").data, "big"),
        "outer_ttl": ip.row("TTL").data[0],
        "inner_ttl": by_name["inner IPv4"].row("TTL").data[0],
        "inner_destination": by_name["inner Ethernet"].row("destination").data.hex(":"),
    }


def _plain(station: Station) -> dict[str, Any]:
    return {
        "node": station.node,
        "interface": station.interface,
        "ttl": station.inner.ttl,
        "bytes": station.packet.length,
    }
