"""Lesson "tour": what a packet meets on its way from container-1 to container-2, and what it costs.

You will see: the store that tells who has which subnet; the route that sends a packet to the
daemon; the packet itself at five stations, with its TTL; and the same trip through kernel VXLAN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunneld.demo import Lesson, measure
from tunneld.demo.drawing import topology
from tunneld.demo.lessons import _stations as stations
from tunneld.lab import Capture, Cluster, wait_for_ping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunneld.demo import Options, Results
    from tunneld.demo.lessons._stations import Station
    from tunneld.demo.story import Story

LESSON = Lesson(
    title="a packet's trip through the tunnel",
    learn=(
        "how the store tells who has which subnet",
        "which route sends a packet to the daemon, and what it looks like at five stations",
        "what the same trip costs in kernel VXLAN",
    ),
    question=(
        "container-1 sends with TTL 3. Which of the stations does the packet reach, and who tells"
        " container-1?"
    ),
    answer=(
        "docker0 sees 3, flannel0 2, the wire 1; the daemon of node2 would have to make it 0, so it"
        " answers itself: ICMP time exceeded, from 100.96.2.0. Try it with ping -t 3."
    ),
    needs=("root", "tun", "vxlan", "iperf3:iperf3", "ping:iputils-ping"),
)
ROUTE_NOTES = {
    "100.96.0.0/16 dev flannel0": "the overlay: to the daemon",
    "100.96.1.0/24": "own containers: wins",
    "10.168.0.0/24": "the other nodes",
    "unreachable": "last: never out in clear",
}
STATION_NOTES = {
    "docker0 node1": "as the container sent it",
    "flannel0 node1": "routed by node 1's kernel: TTL - 1, up to the daemon",
    "eth0 node1": "wrapped by the daemon: TTL - 1, and 28 bytes more",
    "flannel0 node2": "unwrapped by the other daemon: TTL - 1",
    "docker0 node2": "routed by node 2's kernel: TTL - 1, to the container",
}


def run(story: Story, options: Options) -> Results:
    """Show the tour and return its figures."""
    with story.open(Cluster(nodes=2, setting=options.setting)) as cluster:
        tour = Tour(story, cluster, options)
        tour.topology()
        tour.store()
        tour.daemons()
        tour.routes()
        trips = tour.ping()
        tunnel = tour.throughput("UDP tunnel (tunneld)")
        tour.vxlan()
        kernel = tour.throughput("kernel VXLAN")
        tour.summary([tunnel, kernel])
        return {"stations": trips, "ways": [tunnel, kernel], "setting": options.setting}


class Tour:
    """The steps, in the order in which they are shown."""

    def __init__(self, story: Story, cluster: Cluster, options: Options) -> None:
        self.story = story
        self.cluster = cluster
        self.options = options
        self.one, self.other = cluster.nodes

    def _show(
        self,
        host: str,
        argv: list[str],
        *,
        typed: str | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        self.story.command(host, typed or " ".join(argv))
        self.story.output(self.one.node.run(argv).stdout, notes)

    def topology(self) -> None:
        """Draw what was built."""
        self.story.step("Two hosts, made of network namespaces")
        self.story.draw(topology.nodes(("flannel0", "100.96.N.0/32"), "tunneld"))

    def store(self) -> None:
        """Show the config and the leases."""
        self.story.step("The store: which node has which subnet")
        directory = self.cluster.store_dir
        self._show("node1", ["cat", f"{directory}/config"])
        keys = sorted(str(path) for path in (directory / "subnets").iterdir())
        self._show("node1", ["grep", ".", *keys], typed=f"grep . {directory}/subnets/*")
        self.story.say("A key is a subnet, its value the address of the node that has it.")

    def daemons(self) -> None:
        """Start tunneld on both nodes."""
        self.story.step("A daemon on each node")
        args = ["--dataplane", self.options.dataplane]
        for host in self.cluster.nodes:
            text = " ".join(["tunneld run", *host.daemon.argv, *args])
            self.story.command(host.name, text)
        self.cluster.start_daemons(args)
        self._show(
            "node1",
            ["cat", str(self.one.daemon.subnet_file)],
            notes={"FLANNEL_MTU": "1500 - 20 (IPv4) - 8 (UDP): the containers' MTU"},
        )

    def routes(self) -> None:
        """Show where node 1 sends a packet for container-2."""
        self.story.step("Node 1's routes: 100.96.2.3 matches the /16, so it goes to flannel0")
        self._show("node1", ["ip", "route"], notes=ROUTE_NOTES)

    def ping(self) -> dict[str, list[dict[str, Any]]]:
        """Ping once, with taps on the way, and show the packet at each station."""
        self.story.step("A ping from container to container, watched at five stations")
        taps = [(self.one.node, name) for name in ("docker0", "flannel0", "eth0")]
        taps += [(self.other.node, name) for name in ("flannel0", "docker0")]
        argv = ["ping", "-c", "3", "-i", "0.2", str(self.other.container.address)]
        self.story.command("container-1", " ".join(argv))
        with Capture(taps) as capture:
            self.story.output(self.one.container.run(argv).stdout.replace("\n\n", "\n"))
            frames = capture.wait(stations.complete)
        there = stations.find(frames, stations.REQUEST)
        back = stations.find(frames, stations.REPLY)
        self._trip("The first request, there:", there)
        self._trip("Its reply, back:", back)
        self._wire(there)
        return {"there": _plain(there), "back": _plain(back)}

    def _trip(self, text: str, trip: list[Station]) -> None:
        self.story.say(text)
        # Only the way there is explained: the way back is its mirror image.
        noted = trip[0].node == "node1"
        rows = []
        for number, station in enumerate(trip, 1):
            wire = station.outer is not None
            row = [
                f"{number} {station.interface:8} {'the wire' if wire else station.node}",
                str(station.inner.ttl),
                str((station.outer or station.inner).length),
                f"+{(station.time - trip[0].time) * 1e6:.0f}",
            ]
            note = STATION_NOTES[f"{station.interface} {station.node}"]
            rows.append([*row, note] if noted else row)
        head = ["station", "TTL", "bytes", "us", ""]
        self.story.table(head if noted else head[:4], rows, left=(0, 4))

    def _wire(self, trip: list[Station]) -> None:
        outer = next(station.outer for station in trip if station.outer)
        inner = outer.payload[8:]
        self.story.say(
            "Station 3 byte by byte: what crosses the wire is IPv4, UDP, and the packet."
        )
        flags = "DF" if outer.dont_fragment else "-"
        parts = (
            (outer.header, f"IPv4 {outer.source} > {outer.destination} TTL {outer.ttl} {flags}"),
            (outer.payload[:8], f"UDP {outer.ports[0]} > {outer.ports[1]}"),
            (inner[:20], "IPv4, the container's own, as it is"),
            (inner[20:28], "ICMP, and so on"),
        )
        self.story.output("\n".join(f"{data.hex(' ', 4):<46} {text}" for data, text in parts))

    def throughput(self, name: str) -> dict[str, Any]:
        """Run iperf3 and a burst of pings through what is up now."""
        story = self.story
        client, server = self.one.container, self.other.container
        if name.startswith("UDP"):
            story.step("How fast? One TCP stream through the tunnel")
        load = measure.tcp(story, client, server, self.options.seconds or 4)
        mtu = int(client.run(["cat", "/sys/class/net/eth0/mtu"]).stdout)
        rtt = measure.rtt_us(client, server.address)
        return {
            "name": name,
            "gbps": load.gbps,
            "cpu_s_per_gb": load.cpu_s_per_gb,
            "mtu": mtu,
            "rtt_us": rtt,
        }

    def vxlan(self) -> None:
        """Set VXLAN up beside the tunnel, command by command."""
        self.story.step("The same trip without leaving the kernel: VXLAN, by hand")
        for number, command in enumerate(self.cluster.setup_vxlan()):
            if number == 6:
                self.story.say("And the same on the other node:")
            self.story.command(command.host.name, str(command))
        self.story.say(
            "Three entries per peer: a neighbour (next hop -> MAC), an FDB entry (MAC -> node), a"
            " route. The route is a /24, more specific than the tunnel's /16: it wins."
        )
        wait_for_ping(self.one.container, self.other.container.address)

    def summary(self, ways: list[dict[str, Any]]) -> None:
        """Compare the two ways."""
        self.story.step("In short")
        head = ["container-1 -> container-2", "Gb/s", "/ VXLAN", "CPU s/GB", "ping us", "MTU"]
        best = ways[-1]["gbps"]
        rows = [
            [
                way["name"],
                f"{way['gbps']:.2f}",
                f"{way['gbps'] / best:.2f}",
                f"{way['cpu_s_per_gb']:.1f}",
                f"{way['rtt_us']:.0f}",
                str(way["mtu"]),
            ]
            for way in ways
        ]
        self.story.table(head, rows)
        rung = self.one.daemon.status()["backend"]["dataplane"]
        self.story.say(
            f"Rung of the tunnel: {rung}. Underlay setting: {self.options.setting}. A packet of the"
            " tunnel goes down into the kernel, up to the daemon and down again: three crossings on"
            " each node. VXLAN's makes only the first. One short run differs from the next by 15 %."
        )


def _plain(trip: list[Station]) -> list[dict[str, Any]]:
    return [
        {
            "node": station.node,
            "interface": station.interface,
            "ttl": station.inner.ttl,
            "bytes": (station.outer or station.inner).length,
            "us": round((station.time - trip[0].time) * 1e6),
        }
        for station in trip
    ]
