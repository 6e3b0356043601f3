"""First part of lesson "vxlan-history": a VTEP as a port of a bridge, answered by hand.

One Ethernet over two hosts: container-a and container-b share the subnet 10.20.1.0/24.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunneld.demo.drawing.topology import Host, Topology
from tunneld.demo.lessons import _asking as asking
from tunneld.demo.lessons._asking import NeighbourMonitor, misses
from tunneld.demo.lessons._wire import worth_reading
from tunneld.demo.waiting import wait_until
from tunneld.lab import link, ping

if TYPE_CHECKING:
    from tunneld.demo.lessons._asking import Told
    from tunneld.demo.story import Story
    from tunneld.lab import Cluster, ClusterNode, Node

DEVICE = "vtep0"
A, B = "10.20.1.2", "10.20.1.3"
MACS = {A: "02:00:0a:14:01:02", B: "02:00:0a:14:01:03"}
PING = f"ping -c 1 -W 1 {B}"


class Classic:
    """Two bridges that a pair of VTEPs makes one.

    Args:
        story: where it is told.
        cluster: two nodes; what their docker0 does is not touched.
    """

    def __init__(self, story: Story, cluster: Cluster) -> None:
        self.story = story
        self.one, self.other = cluster.nodes
        self.a = _container(cluster, "container-a", A, self.one)
        self.b = _container(cluster, "container-b", B, self.other)
        self._monitors: list[NeighbourMonitor] = []

    def tell(self) -> dict[str, Any]:
        """Tell it and return the figures."""
        try:
            self.build()
            return {**self.first_answers(), **self.way_back(), "entries": self.tables()}
        finally:
            for monitor in self._monitors:
                monitor.close()

    def build(self) -> None:
        """Make the VTEPs."""
        story = self.story
        story.step("One Ethernet over two hosts")
        story.draw(_drawing())
        story.say(
            "container-a and container-b are in one subnet, 10.20.1.0/24, as if plugged into one"
            " switch, but they sit on two hosts. What joins the two bridges is VXLAN: a device"
            " takes an Ethernet frame, puts it into a UDP datagram and sends it to another host."
            " Such a device is called a VTEP (VXLAN tunnel endpoint). Here it is a port of the"
            " bridge, like a container's cable:"
        )
        for number, host in enumerate((self.one, self.other)):
            if number:
                story.say("The same on node2, with its own address:")
            for line in _commands(host):
                story.shell(host.node, line)
        story.say(
            "To send a frame on, the VTEP must know two things. Which MAC has the address that a"
            " container asks for? That is the neighbour table, layer 3 to layer 2. And behind which"
            " host is that MAC? That is the FDB, the forwarding database. Both are empty. The flags"
            " say what to do then: proxy, answer the containers' ARP yourself, out of the neighbour"
            " table; l3miss and l2miss, tell user space when an entry is missing; nolearning, do"
            " not guess from what comes in."
        )

    def first_answers(self) -> dict[str, Any]:
        """Let the kernel ask on node1, and answer each question by hand."""
        story = self.story
        story.step("The kernel asks, and nobody answers")
        monitor = self._watch(self.one)
        self._ping()
        l3 = monitor.wait(lambda told: bool(misses(told, B)), "the question for an address")
        self._show(l3, {B: "who has this address?"})
        story.say(
            "container-a has asked by ARP who has 10.20.1.3. The VTEP does not pass the question on"
            " to node2; it asks us, by netlink (the kernel's messages to programs). The word in"
            " front is `miss`; the STALE behind it says nothing. Be the daemon and answer:"
        )
        story.shell(self.one.node, f"ip neigh add {B} lladdr {MACS[B]} dev {DEVICE}")
        self._ping()
        l2 = monitor.wait(lambda told: bool(misses(told, MACS[B])), "the question for a MAC")
        self._show(l2, {MACS[B]: "behind which host is it?", B: "asked once more"})
        times = len(misses(l2, MACS[B]))
        story.say(
            "One question further: container-a has its ARP answer and sends the ping, a frame for"
            f" {MACS[B]}. Now the VTEP lacks the FDB entry, asks, and drops the frame: it does not"
            " wait for us."
            + (
                f" It asks for each frame, here {times} times: container-a had kept the ping of"
                " before, too, until ARP was answered."
                if times > 1
                else ""
            )
            + " The second answer:"
        )
        story.shell(
            self.one.node, f"bridge fdb add {MACS[B]} dev {DEVICE} dst {self.other.public_ip}"
        )
        return {
            "l3_misses": len(misses(l3, B)),
            "l2_misses": len(misses(l2, MACS[B])),
        }

    def way_back(self) -> dict[str, Any]:
        """Let node2 ask for the way back, and answer."""
        story = self.story
        story.step("And the way back: node2 has the same questions")
        monitor = self._watch(self.other)
        self._ping()
        back = monitor.wait(lambda told: bool(misses(told, A)), "node2's question")
        self._show(back, {A: "who has this address?"})
        story.say(
            "So the ping has arrived: container-b wants to answer it, and asks for container-a. We"
            " know by now what comes next, and give both answers at once:"
        )
        story.shell(self.other.node, f"ip neigh add {A} lladdr {MACS[A]} dev {DEVICE}")
        story.shell(
            self.other.node, f"bridge fdb add {MACS[A]} dev {DEVICE} dst {self.one.public_ip}"
        )
        # Until then container-b repeats its ARP question once a second.
        with story.working("container-b asks once more", 1.0):
            wait_until(lambda: ping(self.a, B), "the answer of container-b")
        done = story.shell(self.a, f"ping -c 2 -i 0.2 {B}", keep=worth_reading)
        return {"misses_back": len(misses(back, A)), "answered": done.stdout.count("bytes from")}

    def tables(self) -> dict[str, int]:
        """Show what two containers have cost."""
        story = self.story
        neighbours = story.shell(self.one.node, f"ip neigh show dev {DEVICE}").stdout
        fdb = story.shell(self.one.node, f"bridge fdb show dev {DEVICE} | grep dst").stdout
        story.say(
            "Four entries by hand, two on each node, for two containers that talk. The network is a"
            " flat Ethernet, so each further container that is talked to costs a neighbour and an"
            " FDB entry on the node that talks to it. A daemon can do what we did: read the misses,"
            " look into the store, write the entries. That was flannel's first VXLAN, in a form"
            " that needs less."
        )
        return {"neighbours": len(neighbours.splitlines()), "fdb": len(fdb.splitlines())}

    def _watch(self, host: ClusterNode) -> NeighbourMonitor:
        self.story.command(host.name, f"{asking.COMMAND} &")
        monitor = NeighbourMonitor(host.node, DEVICE)
        self._monitors.append(monitor)
        return monitor

    def _ping(self) -> None:
        self.story.shell(self.a, PING, keep=worth_reading, check=False)

    def _show(self, told: list[Told], notes: dict[str, str]) -> None:
        """Show what the monitor told; notes are for questions, by what they ask for."""
        rows = []
        for each in told:
            if each.miss:
                note = notes.get(each.wanted, "")
            elif each.text.startswith("lladdr"):
                note = "the bridge: it came by this port"
            else:
                note = "our answer"
            rows.append((each, note))
        asking.show(self.story, DEVICE, rows)


def _container(cluster: Cluster, name: str, address: str, host: ClusterNode) -> Node:
    """Make a container that has a cable to its host, and nothing else yet."""
    container = cluster.lab.node(name)
    link((container, "eth0"), (host.node, f"veth-{name[-1]}"), mtu=1450)
    container.batch(
        [f"link set eth0 address {MACS[address]}", f"address add {address}/24 dev eth0"]
    )
    return container


def _commands(host: ClusterNode) -> list[str]:
    veth = "veth-a" if host.number == 1 else "veth-b"
    vtep = f"ip link add {DEVICE} mtu 1450 type vxlan id 42 dev eth0 local {host.public_ip}"
    return [
        "ip link add br0 type bridge",
        f"{vtep} dstport 8472 nolearning proxy l2miss l3miss",
        f"ip link set {DEVICE} master br0 up",
        f"ip link set {veth} master br0",
        "ip link set br0 up",
    ]


def _drawing() -> Topology:
    hosts = []
    for number, (name, address) in enumerate((("container-a", A), ("container-b", B)), 1):
        rows = (
            ("br0", "a bridge, no address"),
            (DEVICE, "a port of br0, VXLAN 42"),
            ("eth0", f"10.168.0.{number + 1}/24"),
        )
        hosts.append(Host(f"node{number}", rows, ((name, address),)))
    return Topology(
        tuple(hosts), ("underlay, MTU 1500",), title="One Ethernet over two hosts, by VXLAN"
    )
