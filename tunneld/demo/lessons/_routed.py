"""The second half of lesson "host-gw": nodes on different links, a router between them."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

from tunneld.demo.drawing.topology import Host, Topology
from tunneld.demo.lessons import _daemons as daemons
from tunneld.demo.lessons import _wire as wire
from tunneld.demo.waiting import wait_until
from tunneld.lab import CommandError

if TYPE_CHECKING:
    from tunneld.demo.story import Story
    from tunneld.lab import Cluster, Node

SUBNET = "100.96.2.0/24"
FOLD = "fold -s -w 92"


class Routed:
    """Two nodes with a router between them."""

    def __init__(self, story: Story, cluster: Cluster) -> None:
        self.story = story
        self.cluster = cluster
        self.one, self.other = cluster.nodes
        if cluster.underlay.switch is None:
            raise ValueError("this half needs a router")
        self.router: Node = cluster.underlay.switch

    def tell(self) -> dict[str, Any]:
        """Tell it and return the figures."""
        return {
            "skipped": self.skipped(),
            **self.by_hand(),
            **self.through_the_router(),
            **self.routes_for_the_router(),
        }

    def skipped(self) -> dict[str, str]:
        """Start the daemons; each skips its peer and says so."""
        story = self.story
        story.step("Now with a router between the nodes")
        story.draw(_drawing())
        story.say(
            "New hosts: node2 is on another link, 10.168.1.0/24, and has another address,"
            " 10.168.1.3. The nodes themselves still reach each other:"
        )
        self._ping(self.one.node, f"-c 1 {self.other.public_ip}")
        story.say("But what does tunneld with the type host-gw make of it?")
        daemons.start(story, self.cluster, known=0)
        wait_until(lambda: daemons.backend(self.one)["skipped"], "node1 to skip its peer")
        daemons.tunneld(
            story, self.one, f"status --run-dir {self.one.daemon.run_dir} | grep skipped | {FOLD}"
        )
        log = self.one.daemon.log
        wait_until(lambda: "peer skipped" in log.read_text(), "node1's log to say so")
        story.shell(self.one.node, f"grep skipped {log} | {FOLD}")
        story.shell(self.one.node, f"ip route show {SUBNET}")
        self._ping(self.one.container, f"-c 1 {self.other.container.address}")
        story.say(
            f"No route for {SUBNET}, so the last one decides, `unreachable`: container-1 is told"
            " at once. The daemon says why, and goes on with the peers that it can reach."
        )
        found: dict[str, str] = daemons.backend(self.one)["skipped"]
        return found

    def by_hand(self) -> dict[str, Any]:
        """Try to force the route; the kernel, or the link, refuses."""
        story, node = self.story, self.one.node
        story.step("Can one force it?")
        route = f"ip route add {SUBNET} via {self.other.public_ip} dev eth0"
        refused = story.shell(node, route, check=False)
        if refused.returncode == 0:
            raise CommandError(f"the kernel took a next hop off the link: {route}")
        story.say(
            "A gateway must be a neighbour: the kernel has to write the gateway's MAC into the"
            f" frame, and the way to {self.other.public_ip} itself leads through a router. One can"
            " tell the kernel to believe us all the same:"
        )
        story.shell(node, f"{route} onlink")
        answers = self._ping(self.one.container, f"-c 1 {self.other.container.address}")
        entry = wait_until(
            lambda: re.search(
                r"FAILED|INCOMPLETE", node.ip("neigh", "show", str(self.other.public_ip))
            ),
            "the kernel to give up",
        )
        story.shell(
            node,
            f"ip neigh show {self.other.public_ip}",
            notes={str(self.other.public_ip): "asked by ARP; nobody has it"},
        )
        story.say(
            "`onlink` only skips the check. ARP is a shout on the link, and node2 is not there to"
            " hear it: a router passes packets on, not shouts."
        )
        story.shell(node, f"ip route del {SUBNET} via {self.other.public_ip}")
        return {
            "refused": refused.stderr.strip(),
            "onlink": {"answers": answers, "neighbour": entry[0]},
        }

    def through_the_router(self) -> dict[str, Any]:
        """Make the router the next hop; it does not know the containers."""
        story, target = self.story, self.other.container.address
        story.step("Then let the router be the next hop. Does it help?")
        gateway = "10.168.0.1"
        story.shell(self.one.node, f"ip route add {SUBNET} via {gateway}")
        before = _no_routes(self.router)
        silent = self._ping(self.one.container, f"-c 1 -W 1 {target}")
        told = self._ping(self.one.node, f"-c 1 -W 1 {target}")
        lost = wait_until(lambda: self._dropped(before), "the router to count both drops")
        story.shell(self.router, "ip route")
        for address in (target, self.one.container.address):
            story.shell(self.router, f"ip route get {address}", check=False)
        story.shell(self.router, "nstat -asz IpExtInNoRoutes", keep=lambda line: "NoRoutes" in line)
        story.say(
            "The router is a neighbour, so the kernel takes the route, and the packet gets one hop"
            " further. But the router knows links, not containers: no route, so it drops the"
            " packet (InNoRoutes). It tells node1, whose address it knows: Destination Net"
            " Unreachable. container-1 hears nothing, because the message would have to go to"
            f" {self.one.container.address}, which the router does not know either. A router with"
            " a default route would send the packet on to the Internet instead."
        )
        return {"through_router": {"container": silent, "host": told, "no_route": lost}}

    def routes_for_the_router(self) -> dict[str, Any]:
        """Teach the router the two subnets, as BGP would."""
        story, one, other = self.story, self.one, self.other
        story.step("Tell the router, and it works: the idea of Calico")
        story.shell(self.router, f"ip route add {one.subnet} via {one.public_ip}")
        story.shell(self.router, f"ip route add {other.subnet} via {other.public_ip}")
        story.say("And node2 needs the way back:")
        story.shell(other.node, f"ip route add {one.subnet} via 10.168.1.1")
        seen = wire.ping(story, one, other, count=2)
        story.draw(seen.draw("The request on node1's link: still no tunnel"))
        ttl = self._ttl()
        story.say(
            f"It works, and nothing is added to the packet. The reply comes with TTL {ttl}:"
            f" {64 - ttl} routers took one each, node2, the router and node1."
        )
        story.say(
            "That is what Calico does without a tunnel, only not by hand. On each node runs a BGP"
            " speaker (BGP, the Border Gateway Protocol, is how routers tell each other which"
            " networks they lead to). It says to its neighbours: 100.96.2.0/24, that is me. If the"
            " routers between the nodes take part, they learn every subnet, and host-gw's limit is"
            " gone. If they do not (in many clouds they are not yours to teach), Calico can"
            " tunnel where a router is in the way (CrossSubnet), and so can flannel's vxlan, and"
            " tunneld's, with DirectRouting: next hop where nodes share a link, tunnel elsewhere."
        )
        return {"taught": {"ttl": ttl, "frame": seen.figures()}}

    def _dropped(self, before: int) -> int | None:
        """Return how many packets the router had no route for since then, once it is both."""
        now = _no_routes(self.router) - before
        return now if now >= 2 else None

    def _ttl(self) -> int:
        done = self.one.container.run(["ping", "-c", "1", str(self.other.container.address)])
        match = re.search(r"ttl=(\d+)", done.stdout)
        if match is None:
            raise CommandError(f"no answer through the router: {done.stdout.strip()}")
        return int(match[1])

    def _ping(self, node: Node, arguments: str) -> str:
        """Show a ping and return what came: "reply", what an error said, or "silence"."""
        command = f"ping {arguments}"
        self.story.command(node.name, command)
        with self.story.working("waiting for an answer", 3.0):
            done = node.run(shlex.split(command), check=False)
        shown = filter(wire.worth_reading, (done.stdout + done.stderr).splitlines())
        self.story.output("\n".join(shown))
        if done.returncode == 0:
            return "reply"
        error = re.search(r"From (\S+) .*?(Destination .*)", done.stdout)
        return f"{error[1]}: {error[2]}" if error else "silence"


def _no_routes(router: Node) -> int:
    """Return how many packets the router had no route for (RFC 4293, ipSystemStatsInNoRoutes)."""
    text = router.run(["nstat", "-asz", "IpExtInNoRoutes"]).stdout
    match = re.search(r"IpExtInNoRoutes\s+(\d+)", text)
    return int(match[1]) if match else 0


def _drawing() -> Topology:
    hosts = []
    for number in (1, 2):
        rows = (("docker0", f"100.96.{number}.1/24"), ("eth0", f"10.168.{number - 1}.{number + 1}"))
        inside = ((f"container-{number}", f"100.96.{number}.{number + 1}"),)
        hosts.append(Host(f"node{number}", rows, inside))
    router = Host("router", (("br0", "10.168.0.1"), ("br1", "10.168.1.1")))
    return Topology(
        (hosts[0], router, hosts[1]),
        ("10.168.0.0/24", "10.168.1.0/24"),
        title="Two nodes on two links, a router between them",
    )
