"""Lesson "one-packet": one ping from container-1 to container-2, caught wherever it can be.

Ten interfaces, two daemons; each table that decides; each byte that is added, taken off or changed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tunneld.demo import Lesson
from tunneld.demo.drawing import topology
from tunneld.demo.drawing.crossings import Crossing, Crossings
from tunneld.demo.lessons import _packet_bytes as packet_bytes
from tunneld.demo.lessons import _stations as stations
from tunneld.demo.lessons._packet_tables import Tables
from tunneld.lab import Capture, Cluster, CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tunneld.demo import Options, Results
    from tunneld.demo.lessons._stations import Station
    from tunneld.demo.story import Story
    from tunneld.lab import ClusterNode

LESSON = Lesson(
    title="one packet, caught at every station",
    learn=(
        "which table decides at each hop, and how to ask it",
        "which headers are added, removed and changed on the way, byte by byte",
        "where the packet crosses between user space and the kernel",
        "why the TTL falls by four, and what the outer header says",
    ),
    question=(
        "No node has the subnet 100.96.9.0/24. container-1 pings 100.96.9.9: which stations does"
        " the packet reach, which table stops it, and who tells container-1?"
    ),
    answer=(
        "It is seen at container-1's eth0, veth2, docker0 and flannel0: 100.96.9.9 matches the /16"
        " too. The daemon's peers have no such subnet, so eth0 sees nothing; the daemon answers"
        " with ICMP net unreachable from 100.96.1.0, flannel0's address. See it with --keep: in"
        " node1 `tcpdump -ni flannel0 icmp &` and `tcpdump -ni eth0 udp port 8285 &`, then in"
        " container-1 `ping -c 1 100.96.9.9`; `tunneld status` counts it as drop_no_route."
    ),
    needs=("root", "tun", "bridge", "ping:iputils-ping"),
)
NOTES = {
    "container-1 eth0": "as ping has sent it",
    "node1 veth2": "the other end of the cable",
    "node1 docker0": "for docker0's MAC: up to IP",
    "node1 flannel0": "routed: TTL - 1; a TUN has no Ethernet",
    "node1 eth0": "the wire; new Ethernet",
    "node2 eth0": "the wire's other end",
    "node2 flannel0": "written by the daemon: TTL - 1",
    "node2 docker0": "routed: TTL - 1; new Ethernet",
    "node2 veth3": "the bridge's choice of port",
    "container-2 eth0": "there",
}
LEFT = (0, 4)


def run(story: Story, options: Options) -> Results:
    """Catch the packet and return what was seen."""
    with story.open(Cluster(nodes=2, setting=options.setting)) as cluster:
        lesson = OnePacket(story, cluster)
        lesson.stage(options.dataplane)
        tables = Tables(story, cluster)
        tables.container()
        tables.node1()
        tables.wire()
        there, back, counters = lesson.catch()
        lesson.crossings(there)
        fields = packet_bytes.headers(story, there, tables.names)
        public = {str(host.public_ip): host.name for host in cluster.nodes}
        outer = packet_bytes.outer(story, there, {**tables.names, **public})
        lesson.mirror(back)
        return {
            "there": _plain(there),
            "back": _plain(back),
            "counters": counters,
            "changed_by_routing": fields,
            "outer": outer,
        }


class OnePacket:
    """The steps, in the order in which they are shown."""

    def __init__(self, story: Story, cluster: Cluster) -> None:
        self.story = story
        self.cluster = cluster
        self.one, self.other = cluster.nodes

    def stage(self, dataplane: str) -> None:
        """Draw the hosts, start the daemons, and ping once."""
        story = self.story
        story.step("Two nodes, each with a container and a daemon")
        story.draw(topology.nodes(("flannel0", "100.96.N.0/32"), "tunneld"))
        story.say(
            "The containers' network is 100.96.0.0/16 (the overlay); each node has a /24 of it."
            " The nodes themselves know each other as 10.168.0.2 and 10.168.0.3 (the underlay)."
        )
        args = ["--dataplane", dataplane]
        for host in self.cluster.nodes:
            story.command(host.name, " ".join(["tunneld run", *host.daemon.argv, *args]))
        with story.working("starting the daemons", 2):
            self.cluster.start_daemons(args)
        story.say(
            "A first ping makes all of them learn the MAC addresses of their neighbours. The"
            " second one will be ours; between the two there is time to ask the tables."
        )
        story.shell(
            self.one.container,
            f"ping -c 1 -q {self.other.container.address}",
            keep=lambda line: "transmitted" in line,
        )

    def catch(self) -> tuple[list[Station], list[Station], dict[str, Any]]:
        """Ping once, with taps everywhere, and tell the way there."""
        story, one, other = self.story, self.one, self.other
        story.step("The ping, caught at ten interfaces")
        path = [
            (one.container, "eth0"),
            (one.node, one.container.veth),
            *((one.node, name) for name in ("docker0", "flannel0", "eth0")),
            *((other.node, name) for name in ("eth0", "flannel0", "docker0")),
            (other.node, other.container.veth),
            (other.container, "eth0"),
        ]
        before = {host.name: _settled(host, 1) for host in self.cluster.nodes}
        with Capture(path) as capture:
            story.shell(
                one.container,
                f"ping -c 1 {other.container.address}",
                keep=lambda line: line.startswith("64 bytes"),
            )
            places = [(node.name, name) for node, name in path]
            there, back = stations.there_and_back(capture, places)
        after = {host.name: _settled(host, 2) for host in self.cluster.nodes}
        rows = _rows(there)
        rows.insert(
            4, _daemon_row("node1", there[3], there[4], "in user space: TTL - 1, 28 B more")
        )
        rows.insert(7, _daemon_row("node2", there[5], there[6], "in user space: 28 bytes off"))
        story.table(["the request at", "us", "TTL", "bytes", ""], rows, left=LEFT)
        if there[1].time == there[2].time:
            story.say(
                "(veth2 and docker0 have one time: the kernel stamps a packet when it arrives, and"
                " the bridge hands up the same one.)"
            )
        story.say(
            "Bytes: 14 of Ethernet + 84 of the container's packet; on the wire 28 more between"
            f" them. The TTL (time to live) falls from {there[0].inner.ttl} to"
            f" {there[-1].inner.ttl}: two kernels route the packet, and two daemons handle it as"
            " routers do. Switches, bridges and cables do not count."
        )
        return there, back, {name: _moved(before[name], after[name]) for name in before}

    def crossings(self, there: list[Station]) -> None:
        """Draw where the packet changed between user space and the kernel."""
        story = self.story
        story.step("Where did it cross between user space and the kernel?")
        begin = there[0].time

        def label(station: Station) -> str:
            length = station.packet.length
            return f"{length} bytes, TTL {station.inner.ttl}, at {_us(station.time - begin)}"

        rows = [
            Crossing("ping", "IP, eth0, veth2, docker0", True, label(there[0]), "container-1"),
            Crossing("tunneld", "flannel0", False, label(there[3]), "node1"),
            Crossing("tunneld", "UDP, IP, eth0", True, label(there[4]), "node1"),
            Crossing("tunneld", "eth0, IP, UDP", False, label(there[5]), "node2"),
            Crossing("tunneld", "flannel0, docker0, veth3", True, label(there[6]), "node2"),
        ]
        story.draw(Crossings(rows, "The request: five times over the border"))
        user = there[4].time - there[3].time
        user2 = there[6].time - there[5].time
        whole = there[-1].time - begin
        story.say(
            "The first three arrows are what is called the three crossings: on the sender's node a"
            " packet goes down into the kernel, up to the daemon, and down again. The receiver"
            " mirrors it, but here its last one is missing: container-2's kernel answers a ping"
            " itself. A program there that"
            " waits for data would be the sixth. The daemons say the same: each has read and"
            " written one more packet in each direction since the tables were asked."
        )
        story.say(
            f"From flannel0 to eth0 in node1 it took {_us(user)}, from eth0 to flannel0 in node2"
            f" {_us(user2)}: together {(user + user2) / whole:.0%} of the whole trip of"
            f" {_us(whole)}. Not all of that is work: a daemon that sleeps must be woken first."
            " What the crossings cost under load is counted in the lesson three-crossings."
        )

    def mirror(self, back: list[Station]) -> None:
        """Tell the way back, in short."""
        story = self.story
        story.step("The reply: the same way, mirrored")
        rows = _rows(back, notes=False)
        story.table(["the reply at", "us", "TTL", "bytes"], rows)
        story.say(
            f"Same tables, asked from the other side; the TTL starts at {back[0].inner.ttl} and"
            f" arrives as {back[-1].inner.ttl}, which is the ttl that ping has printed. Five"
            " crossings again, but the first and the last have changed places: nobody in"
            " container-2 has to send, but ping in container-1 has to be told."
        )


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us"


def _rows(trip: Sequence[Station], *, notes: bool = True) -> list[list[str]]:
    rows = []
    for station in trip:
        place = f"{station.node} {station.interface}"
        parts = [len(station.link), station.packet.length - station.inner.length]
        lengths = "+".join(str(part) for part in [*parts, station.inner.length] if part)
        after = f"+{(station.time - trip[0].time) * 1e6:.0f}"
        row = [f"{station.node:<11} {station.interface}", after, str(station.inner.ttl), lengths]
        rows.append([*row, NOTES[place]] if notes else row)
    return rows


def _daemon_row(node: str, before: Station, after: Station, note: str) -> list[str]:
    took = _us(after.time - before.time)
    return [f"{node:<11} tunneld", took, f"{before.inner.ttl}-{after.inner.ttl}", "", note]


def _settled(host: ClusterNode, packets: int) -> Mapping[str, Any]:
    """Return the daemon's counters once it has moved so many packets in each direction.

    Raises:
        CommandError: it does not within 30 seconds.
    """
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        counters: Mapping[str, Any] = host.daemon.status()["counters"]
        ways = [counters[way] for way in ("outbound", "inbound")]
        if all(
            way[name] >= packets for way in ways for name in ("packets_read", "packets_written")
        ):
            return counters
    raise CommandError(
        f"the daemon of {host.name} has not counted the ping", remedy="run the lesson again"
    )


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    names = ("packets_read", "packets_written")
    return {
        way: {name: after[way][name] - before[way][name] for name in names}
        for way in ("outbound", "inbound")
    }


def _plain(trip: Sequence[Station]) -> list[dict[str, Any]]:
    return [
        {
            "node": station.node,
            "interface": station.interface,
            "ttl": station.inner.ttl,
            "link_bytes": len(station.link),
            "bytes": station.packet.length,
            "us": round((station.time - trip[0].time) * 1e6),
        }
        for station in trip
    ]
