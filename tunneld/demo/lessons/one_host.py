"""Lesson "one-host": how containers of one host talk, with each other, the host and the world.

You will see: the cable of a container found by its number; the bridge that learns where whom is; a
pod, whose processes share one namespace; and an address that changes on its way out.
"""

from __future__ import annotations

from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Any

from tunneld.demo import Lesson
from tunneld.demo.drawing.topology import Host, Topology
from tunneld.demo.lessons import cidr
from tunneld.demo.lessons._bridge import Sighting, sightings, whole
from tunneld.demo.lessons._outside import outside, ping
from tunneld.demo.lessons._pod import pod
from tunneld.demo.waiting import tcpdump, wait_until
from tunneld.lab import Capture, Cluster, Container

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunneld.demo import Options, Results
    from tunneld.demo.story import Story
    from tunneld.lab import Node

LESSON = Lesson(
    title="inside one host",
    learn=(
        "what a container is on the network: a namespace, a cable, a port of a switch",
        "how a packet finds its way on one link: address arithmetic, ARP, the bridge's table",
        "what the processes of a pod share, and why their ports clash",
        "how a container reaches the world outside, and under whose address",
    ),
    question=(
        "Give container-1-2 another mask. In container-1-2: ip address del 100.96.1.3/24 dev eth0;"
        " ip address add 100.96.1.130/25 dev eth0. Now container-1 (100.96.1.2/24) pings"
        " 100.96.1.130. Does ARP find it? Does an answer come? Whose fault is it?"
    ),
    answer=(
        "ARP finds it: for container-1 all of 100.96.1.0-255 is its own network, so it asks, and"
        " container-1-2 answers (`ip neigh` has its MAC). The echo request arrives, too, but no"
        " reply comes: for container-1-2 its network is 100.96.1.128-255, and 100.96.1.2 is"
        " elsewhere; its default route went away with its old address. `ip route get 100.96.1.2`"
        " there says: Network is unreachable. Two hosts on one cable must agree on the mask: each"
        " decides for itself who is near."
    ),
    needs=(
        *("root", "bridge", "ping:iputils-ping", "tcpdump", "nft:nftables"),
        *("python3:python3", "nsenter:util-linux", "ss:iproute2"),
    ),
)
OUTSIDE = 65  # 10.168.0.66


def run(story: Story, options: Options) -> Results:
    """Tell it."""
    with story.open(Cluster(nodes=1, setting=options.setting)) as cluster:
        lesson = OneHost(story, cluster)
        lesson.topology()
        figures = {
            "namespaces": lesson.namespace(),
            "veth": lesson.cable(),
            "learned_before": lesson.bridge(),
        }
        lesson.arithmetic()
        seen = lesson.neighbours()
        learned = lesson.learned(seen)
        lesson.host()
        shared = pod(story, lesson.node, lesson.pod, lesson.first)
        found = outside(story, lesson.node, lesson.first, lesson.outside)
        lesson.summary(found)
        return {
            **figures,
            "frames": seen,
            "learned_after": learned,
            "ttl": lesson.ttl,
            "pod": shared,
            "outside": found,
        }


class OneHost:
    """The host, its containers, and the steps that are told with them."""

    def __init__(self, story: Story, cluster: Cluster) -> None:
        self.story = story
        one = cluster.nodes[0]
        self.node: Node = one.node
        self.first = one.container
        self.second = one.add_container(3)
        self.pod = Container(one, "pod", one.subnet[4])
        self.outside = cluster.lab.node("outside")
        self.ttl: dict[str, int] = {}
        cluster.lab.nodes.append(self.pod)
        cluster.underlay.attach(self.outside, OUTSIDE)

    def topology(self) -> None:
        """Draw what was built."""
        story = self.story
        story.step("One host with two containers and a pod, and somebody outside")
        rows = (("docker0", "100.96.1.1/24"), ("eth0", "10.168.0.2/24"))
        inside = [(each.name, str(each.address)) for each in (self.first, self.second, self.pod)]
        story.draw(
            Topology(
                (
                    Host("node1", rows, inside),
                    Host("outside", (("eth0", "10.168.0.66/24"),)),
                ),
                ("10.168.0.0/24",),
                title="One host, its containers, and a host outside",
            )
        )
        story.say(
            "node1 is a host with a network card, eth0. docker0 is what a container runtime makes"
            " on it. What follows stays inside this one host, until we go to the outside."
        )

    def namespace(self) -> dict[str, str]:
        """Show that a container is a network namespace."""
        story = self.story
        story.step("On the network, a container is a namespace")
        found = {}
        for node in (self.node, self.first):
            done = story.shell(node, "readlink /proc/self/ns/net")
            found[node.name] = done.stdout.strip()
        story.say(
            "Two numbers, two network namespaces. A namespace is a network stack of its own:"
            " interfaces, addresses, routes, firewall rules, ports. The kernel is the same one."
            " This is all that container-1 has:"
        )
        story.shell(self.first, "ip -br address", notes={"lo": "loopback, its own", "eth0": "this"})
        return found

    def cable(self) -> dict[str, Any]:
        """Find the host's end of the container's veth pair."""
        story = self.story
        story.step("Where is the other end of its eth0?")
        story.say(
            "eth0 is one end of a veth pair: two interfaces joined like the ends of a cable. What"
            " goes in at one end comes out at the other, in whichever namespace that lies. Every"
            " interface has a number, and knows that of its other end: iflink."
        )
        number = story.shell(self.first, "cat /sys/class/net/eth0/iflink").stdout.strip()
        done = story.shell(self.node, f"grep -x {number} /sys/class/net/*/ifindex")
        name = done.stdout.split("/")[4]
        story.say(f"Number {number} on node1 is {name}. `ip link` shows the same from both sides:")
        story.shell(self.first, "ip -br link show eth0 | cut -c 1-49")
        story.shell(self.node, f"ip -br link show {name} | cut -c 1-49")
        story.say(
            f"eth0@if{number}: my other end is number {number}. {name}@if2: mine is number 2, over"
            " there (1 is its loopback). The names need not match; the numbers do."
        )
        return {"iflink": int(number), "name": name}

    def bridge(self) -> int:
        """Show the ports of docker0, and that it has learned nothing yet."""
        story = self.story
        story.step("The switch that all cables are plugged into is docker0, a bridge")
        story.shell(self.node, "ip -br link show master docker0 | cut -c 1-49")
        story.say(
            "Three ports. Like any switch a bridge keeps a table of who is behind which port, its"
            " FDB (forwarding database). It fills it by listening: the sender's MAC address of each"
            " frame tells. MAC: the six bytes by which interfaces on one link tell each other"
            " apart. How many has it learned so far?"
        )
        done = story.shell(
            self.node, "bridge fdb show br docker0 | grep -vc permanent", check=False
        )
        count = int(done.stdout)
        story.say(
            "None: nobody has said anything yet. (Permanent entries, left out here, are the ports'"
            " own addresses.)"
            if count == 0
            else f"{count}: somebody has spoken already."
        )
        return count

    def arithmetic(self) -> None:
        """Tell who is near by the arithmetic of addresses."""
        story = self.story
        story.step("Who is near? The arithmetic of 100.96.1.2/24")
        story.say(
            "Near is who is on the same link: a frame gets there directly. Everybody else is behind"
            " a router, a host that passes packets on. An address tells which it is. It is 32 bits;"
            " those in front name the network, the rest the host in it, and /24 says how many are"
            " in front:"
        )
        first = IPv4Interface(f"{self.first.address}/24")
        cidr.take_apart(story, first)
        others = [f"{self.second.address}/24", "100.96.1.1/24", "10.168.0.66/24"]
        cidr.compare(story, [first, *map(IPv4Interface, others)])
        story.say("container-1 does this sum for every packet. It is written in its routes:")
        story.shell(
            self.first,
            "ip route",
            notes={
                "default": "all else: by docker0",
                "100.96.1.0/24": "near: right out of eth0",
            },
        )
        story.say("More of this, with addresses of your own: tunneld demo cidr 10.233.64.0/18")

    def neighbours(self) -> list[dict[str, Any]]:
        """Ping from container to container; returns which port carried which frame."""
        story = self.story
        story.step("container-1 to container-1-2: first a question to everybody, ARP")
        story.say(
            "100.96.1.3 is near. But a frame is addressed to a MAC, and container-1 knows only an"
            " IP address. ARP asks for it."
        )
        ports = [container.veth for container in (self.first, self.second, self.pod)]
        with (
            Capture([(self.node, port) for port in ports]) as capture,
            tcpdump(story, self.node, "docker0", "arp or icmp", 4) as packets,
        ):
            self.ttl["container"] = ping(story, self.first, str(self.second.address))
            wait_until(lambda: whole(sightings(capture.frames)), "the ping at the bridge's ports")
            packets()
            frames = capture.frames
        story.say("The answer is kept for a while, in the neighbour table:")
        story.shell(self.first, "ip neigh show 100.96.1.3")
        return [seen.document() for seen in sightings(frames)]

    def learned(self, seen: list[dict[str, Any]]) -> dict[str, str]:
        """Show what the bridge has learned, and which ports each frame took."""
        story = self.story
        story.step("What the bridge has learned, and what it did with it")
        done = story.shell(self.node, "bridge fdb show br docker0 | grep -v permanent", check=False)
        names = [container.veth for container in (self.first, self.second, self.pod)]
        story.say("The same ping, seen at the bridge's three ports, frame by frame:")
        rows = [
            [
                str(each["frame"]),
                str(each["to"]),
                *("x" if name in each["ports"] else "-" for name in names),
            ]
            for each in seen
        ]
        story.table(["frame", "to the MAC", *names], rows, left=(0, 1))
        flooded = [str(each["frame"]) for each in seen if self.pod.veth in each["ports"]]
        story.say(
            f"ff:ff:ff:ff:ff:ff means everybody: the bridge sends such a frame out of every other"
            f" port, so the pod on {names[2]} saw it, too: {', '.join(flooded) or 'nothing'}. From"
            f" that one frame the bridge learned that container-1 is behind {names[0]}; from the"
            f" answer, who is behind {names[1]}. So {len(seen) - len(flooded)} of {len(seen)}"
            f" frames came in at one port and left by one other, and nobody else saw them."
        )
        return Sighting.table(done.stdout)

    def host(self) -> None:
        """Ping between host and container."""
        story = self.story
        story.step("Host to container, container to host: docker0 is the host's own port")
        story.shell(
            self.node,
            "ip route get 100.96.1.2",
            keep=lambda line: "cache" not in line,
            notes={"100.96.1.2": "near; my source address: docker0's"},
        )
        down = self.ttl["from_host"] = ping(story, self.node, str(self.first.address))
        story.say(
            "docker0 is two things: the switch, and an interface of node1 that is plugged into it."
            " From a container, that interface is the way to the host, also to its other addresses:"
        )
        up = self.ttl["to_host"] = ping(story, self.first, "10.168.0.2")
        story.say(
            f"The replies arrive with TTL {down} and {up}. TTL (time to live) begins at 64 here and"
            " every router takes 1 away: "
            + (
                "nobody has. Inside one host, so far, everything was one hop."
                if down == up == 64
                else "somebody on the way has."
            )
        )

    def summary(self, found: Mapping[str, Any]) -> None:
        """Put the ways side by side."""
        story = self.story
        story.step("In short")
        without, translated = found["without"], found["with"]
        rows = [
            ["container-1-2", "the bridge", str(self.ttl["container"]), ""],
            ["node1", "the bridge, docker0", str(self.ttl["to_host"]), ""],
            [
                "outside",
                "the bridge, docker0, routing, eth0",
                str(without["ttl"] or "no reply"),
                without["source"],
            ],
            [
                "outside, MASQUERADE",
                "the same",
                str(translated["ttl"] or "no reply"),
                translated["source"],
            ],
        ]
        head = ["container-1 to ...", "goes through", "TTL of the reply", "source seen outside"]
        story.table(head, rows, left=(0, 1, 3))
        story.say(
            "Between the nodes of a cluster nobody has to translate: the next lesson follows a"
            " packet from a container of one node to a container of another."
        )
