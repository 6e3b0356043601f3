"""Lesson "one-packet": every table between container-1 and container-2, asked one after the other.

The questions that a kernel asks itself about a packet, asked from outside: `ip route get`,
`ip neigh show`, `bridge fdb get`, and for the daemon its own `tunneld status`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunneld.lab import PORT
from tunneld.observe import status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunneld.demo.story import Story
    from tunneld.lab import Cluster, Node


class Tables:
    """Asks them, along the way.

    Attributes:
        names: MAC -> whose it is.
    """

    def __init__(self, story: Story, cluster: Cluster) -> None:
        self.story = story
        self.cluster = cluster
        self.one, self.other = cluster.nodes
        self.names = self._macs()

    def _macs(self) -> dict[str, str]:
        found = {}
        for host in self.cluster.nodes:
            name = host.name
            # docker0 last: it has taken over the address of its first port.
            found[mac(host.node, host.container.veth)] = f"{host.container.veth} of {name}"
            found[mac(host.container, "eth0")] = host.container.name
            found[mac(host.node, "docker0")] = f"docker0 of {name}"
            found[mac(host.node, "eth0")] = f"eth0 of {name}"
        return found

    def _ask(self, node: Node, command: str, notes: Mapping[str, str] | None = None) -> None:
        # "cache" is a line without a word about the way.
        self.story.shell(
            node, command, notes=notes, keep=lambda line: not line.startswith("    cache")
        )

    def container(self) -> None:
        """In container-1 and on docker0."""
        story, one = self.story, self.one
        story.step("The tables of container-1 and of docker0: whom is the frame for?")
        story.say(
            "A packet knows where it wants to go, but not the way. At each station a table knows"
            " the next step. Each can be asked. The first one is the container's route table (IP"
            " address -> next hop and interface):"
        )
        gateway = one.bridge_address
        target = self.other.container.address
        self._ask(one.container, f"ip route get {target}", {str(target): "not in my /24: to .1"})
        story.say(
            "The next hop is docker0, but Ethernet carries frames to MAC addresses, so a second"
            " table answers next, the neighbour table (IP address -> MAC). ARP, a question to all"
            " on the link, fills it:"
        )
        bridge_mac = mac(one.node, "docker0")
        self._ask(
            one.container, f"ip neigh show {gateway}", {str(gateway): "learned by the first ping"}
        )
        story.say(
            "Now the frame can leave. eth0 of the container is one end of a cable (a veth pair);"
            f" the other end, {one.container.veth}, is plugged into docker0, a bridge: a switch"
            " made of software. Its table is the FDB, the forwarding database (MAC -> port):"
        )
        self._ask(
            one.node,
            f"bridge fdb get {bridge_mac} br docker0",
            {bridge_mac: "permanent: docker0's own"},
        )
        story.say(
            "A learned MAC would mean: out of that port. This one is the bridge's own (it uses the"
            f" MAC of its port {one.container.veth}), so the frame is for the host: the Ethernet"
            " header has done its work, and the packet goes up to node1's IP."
        )

    def node1(self) -> None:
        """Node 1's routes and the daemon's peers."""
        story, one, other = self.story, self.one, self.other
        target, source = other.container.address, one.container.address
        story.step("The tables of node1 and of its daemon: which node has 100.96.2.3?")
        story.say(
            "node1 is a router now (ip_forward = 1). Three of its routes match the destination;"
            " the longest prefix wins, and among equals the smallest metric:"
        )
        notes = {
            "default": "/0: matches everything",
            "100.96.0.0/16": "/16: the longest prefix: wins",
            "unreachable": "/16, but the worst metric",
        }
        self._ask(one.node, f"ip route show to match {target}", notes)
        self._ask(one.node, f"ip route get {target} from {source} iif docker0")
        story.say(
            "flannel0 is a TUN device: an interface whose cable ends in a program. What the kernel"
            " sends out of it, the program reads; what the program writes, arrives there. There is"
            " no next hop and no MAC, so no neighbour table is asked. The program is tunneld. Its"
            " table (subnet -> public IP of the node that has it) comes from the store:"
        )
        story.command("node1", f"tunneld status --run-dir {one.daemon.run_dir}")
        lines = status.render(one.daemon.status()).splitlines()
        kept = [line for line in lines if line.startswith(("subnet ", str(other.subnet)))]
        story.output("\n".join(kept))

    def wire(self) -> None:
        """From node 1's eth0 to node 2's container."""
        story, one, other = self.story, self.one, self.other
        public, target = other.public_ip, other.container.address
        story.step("The tables of the wire and of node2: and then the same again, backwards")
        story.say(
            f"The daemon puts the packet into a UDP datagram to {public}. That is a new packet, and"
            " node1's kernel starts again: route, neighbour. The switch between the nodes adds its"
            " FDB:"
        )
        self._ask(one.node, f"ip route get {public}", {str(public): "same link: no gateway"})
        self._ask(one.node, f"ip neigh show {public}")
        switch = self.cluster.underlay.switch
        if switch is not None:
            wire_mac = mac(other.node, "eth0")
            self._ask(
                switch, f"bridge fdb get {wire_mac} br br0", {wire_mac: "learned: node2 is there"}
            )
        story.say(
            "In node2 the route table says that this address is its own (local), and the table of"
            " sockets says whose datagram it is: by the destination port, the daemon's:"
        )
        ask = f"ip route get {public} from {one.public_ip} iif eth0"
        self._ask(other.node, ask, {"local": "for this host itself"})
        self._ask(other.node, f"ss -Hulnp 'sport = :{PORT}'", {"UNCONN": "tunneld"})
        story.say(
            "The daemon takes the packet out and writes it to flannel0. For node2's kernel it has"
            " just arrived there, and the /24 of docker0 is longer than the /16 of flannel0:"
        )
        self._ask(other.node, f"ip route get {target} from {one.container.address} iif flannel0")
        self._ask(other.node, f"ip neigh show {target}")
        inside = mac(other.container, "eth0")
        veth = other.container.veth
        self._ask(
            other.node, f"bridge fdb get {inside} br docker0", {inside: f"learned: out of {veth}"}
        )


def mac(node: Node, interface: str) -> str:
    """Return the MAC address of an interface."""
    return node.run(["cat", f"/sys/class/net/{interface}/address"]).stdout.strip()
