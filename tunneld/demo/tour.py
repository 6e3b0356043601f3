"""Lesson "tour": what a packet meets on its way from container-1 to container-2, and what it costs.

You will see: the store that tells who has which subnet; the route that sends a packet to the
daemon; the packet itself at five stations, with its TTL; and the same trip through kernel VXLAN.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tunneld.demo import stations
from tunneld.lab import Capture, Cluster, iperf, machine, wait_for_ping
from tunneld.lab.netns import require_tool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunneld.demo import Options, Results
    from tunneld.demo.screen import Screen
    from tunneld.demo.stations import Station

TOPOLOGY = """\
       container-1                                        container-2
       100.96.1.2                                         100.96.2.3
           |  veth                                            |  veth
   +-------+------------- node1 -+                    +-------+------------- node2 -+
   |   docker0   100.96.1.1/24   |                    |   docker0   100.96.2.1/24   |
   |       |                     |                    |       |                     |
   |   flannel0  100.96.1.0/32   |                    |   flannel0  100.96.2.0/32   |
   |       |  [ tunneld ]        |                    |       |  [ tunneld ]        |
   |   eth0      10.168.0.2/24   |                    |   eth0      10.168.0.3/24   |
   +-------+---------------------+                    +-------+---------------------+
           +-------------------- underlay, MTU 1500 ----------+"""

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


def run(screen: Screen, options: Options) -> Results:
    """Show the tour and return its figures."""
    require_tool("iperf3", "iperf3")
    require_tool("ping", "iputils-ping")
    screen.title("tunneld: a packet's trip through the tunnel")
    with Cluster(nodes=2, setting=options.setting) as cluster:
        tour = Tour(screen, cluster, options)
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

    def __init__(self, screen: Screen, cluster: Cluster, options: Options) -> None:
        self.screen = screen
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
        self.screen.command(host, typed or " ".join(argv))
        self.screen.output(self.one.node.run(argv).stdout, notes)

    def topology(self) -> None:
        """Draw what was built."""
        self.screen.step("Two hosts, made of network namespaces")
        self.screen.output(TOPOLOGY)

    def store(self) -> None:
        """Show the config and the leases."""
        self.screen.step("The store: which node has which subnet")
        directory = self.cluster.store_dir
        self._show("node1", ["cat", f"{directory}/config"])
        keys = sorted(str(path) for path in (directory / "subnets").iterdir())
        self._show("node1", ["grep", ".", *keys], typed=f"grep . {directory}/subnets/*")
        self.screen.say("A key is a subnet, its value the address of the node that has it.")

    def daemons(self) -> None:
        """Start tunneld on both nodes."""
        self.screen.step("A daemon on each node")
        args = ["--dataplane", self.options.dataplane]
        for host in self.cluster.nodes:
            text = " ".join(["tunneld run", *host.daemon.argv, *args])
            self.screen.command(host.name, text)
        self.cluster.start_daemons(args)
        self._show(
            "node1",
            ["cat", str(self.one.daemon.subnet_file)],
            notes={"FLANNEL_MTU": "1500 - 20 (IPv4) - 8 (UDP): the containers' MTU"},
        )

    def routes(self) -> None:
        """Show where node 1 sends a packet for container-2."""
        self.screen.step("Node 1's routes: 100.96.2.3 matches the /16, so it goes to flannel0")
        self._show("node1", ["ip", "route"], notes=ROUTE_NOTES)

    def ping(self) -> dict[str, list[dict[str, Any]]]:
        """Ping once, with taps on the way, and show the packet at each station."""
        self.screen.step("A ping from container to container, watched at five stations")
        taps = [(self.one.node, name) for name in ("docker0", "flannel0", "eth0")]
        taps += [(self.other.node, name) for name in ("flannel0", "docker0")]
        argv = ["ping", "-c", "3", "-i", "0.2", str(self.other.container.address)]
        self.screen.command("container-1", " ".join(argv))
        with Capture(taps) as capture:
            self.screen.output(self.one.container.run(argv).stdout.replace("\n\n", "\n"))
            frames = capture.wait(stations.complete)
        there = stations.find(frames, stations.REQUEST)
        back = stations.find(frames, stations.REPLY)
        self._trip("The first request, there:", there)
        self._trip("Its reply, back:", back)
        self._wire(there)
        return {"there": _plain(there), "back": _plain(back)}

    def _trip(self, text: str, trip: list[Station]) -> None:
        self.screen.line()
        self.screen.say(text)
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
        self.screen.table(head if noted else head[:4], rows, left=(0, 4))

    def _wire(self, trip: list[Station]) -> None:
        outer = next(station.outer for station in trip if station.outer)
        inner = outer.payload[8:]
        self.screen.line()
        self.screen.say(
            "Station 3 byte by byte: what crosses the wire is IPv4, UDP, and the packet."
        )
        flags = "DF" if outer.dont_fragment else "-"
        for data, text in (
            (outer.header, f"IPv4 {outer.source} > {outer.destination} TTL {outer.ttl} {flags}"),
            (outer.payload[:8], f"UDP {outer.ports[0]} > {outer.ports[1]}"),
            (inner[:20], "IPv4, the container's own, as it is"),
            (inner[20:28], "ICMP, and so on"),
        ):
            self.screen.line(f"   {data.hex(' ', 4):<46} {text}")

    def throughput(self, name: str) -> dict[str, Any]:
        """Run iperf3 and a burst of pings through what is up now."""
        screen, seconds = self.screen, self.options.seconds
        client, server = self.one.container, self.other.container
        if name.startswith("UDP"):
            screen.step("How fast? One TCP stream through the tunnel")
        command = " ".join(iperf.client_command(server.address, seconds))
        screen.command("container-1", command)

        def show(elapsed: float, gbps: float) -> None:
            screen.progress(elapsed, seconds, f"{elapsed:3.1f} s  {gbps:5.2f} Gb/s")

        show(0.0, 0.0)
        before = machine.cpu_seconds()
        result = iperf.tcp(client, server, server.address, seconds=seconds, progress=show)
        cpu = (machine.cpu_seconds() - before) / max(result.bytes / 1e9, 1e-9)
        screen.progress_done(
            f"{result.gbps:.2f} Gb/s, {result.bytes / 1e9:.2f} GB,"
            f" {cpu:.1f} s of CPU per GB (whole machine)"
        )
        rtt = self._rtt()
        mtu = int(client.run(["cat", "/sys/class/net/eth0/mtu"]).stdout)
        return {"name": name, "gbps": result.gbps, "cpu_s_per_gb": cpu, "mtu": mtu, "rtt_us": rtt}

    def _rtt(self) -> float:
        address = str(self.other.container.address)
        argv = ["ping", "-q", "-c", "50", "-i", "0.005", address]
        match = re.search(r"= [\d.]+/([\d.]+)/", self.one.container.run(argv).stdout)
        return float(match[1]) * 1e3 if match else float("nan")

    def vxlan(self) -> None:
        """Set VXLAN up beside the tunnel, command by command."""
        self.screen.step("The same trip without leaving the kernel: VXLAN, by hand")
        for number, command in enumerate(self.cluster.setup_vxlan()):
            if number == 6:
                self.screen.line()
            self.screen.command(command.host.name, str(command))
        self.screen.say(
            "Three entries per peer: a neighbour (next hop -> MAC), an FDB entry (MAC -> node), a"
            " route. The route is a /24, more specific than the tunnel's /16: it wins."
        )
        wait_for_ping(self.one.container, self.other.container.address)

    def summary(self, ways: list[dict[str, Any]]) -> None:
        """Compare the two ways."""
        self.screen.step("In short")
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
        self.screen.table(head, rows)
        rung = self.one.daemon.status()["backend"]["dataplane"]
        self.screen.say(
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
