"""Lesson "ladder": the same packets, the same machine, one idea more on each rung."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from tunneld.demo import Lesson, measure
from tunneld.demo.drawing import topology
from tunneld.demo.lessons._daemons import show_commands
from tunneld.demo.lessons._rungs import RUNGS, Result, Rung, bars, conclusions, with_ratios
from tunneld.lab import Cluster, wait_for_ping

if TYPE_CHECKING:
    from tunneld.demo import Options, Results
    from tunneld.demo.story import Story

LESSON = Lesson(
    title="one idea at a time",
    learn=(
        "five ideas that take a tunnel in user space from one packet per call to 64 KiB per call",
        "what each of them does to system calls per packet, CPU and throughput, measured live",
        "how far that gets it: beside VXLAN, and beside no tunnel at all",
        "which figures of such a run deserve trust, and which are noise",
    ),
    question=(
        "Run the lesson with --throttle 200mbit: the wire now carries 0.2 Gb/s at most. Which"
        " columns of the table become the same for all, and which one still tells the rungs apart?"
    ),
    answer=(
        "Gb/s and the ratio to VXLAN: every rung that has CPU enough fills the slow wire, so the"
        " bars are about equal. CPU per GB still tells them apart (if nothing else runs here): on"
        " a slow link the good rungs carry no more, they leave the CPU to others. Calls per packet"
        " rise: packets come slowly, so the daemon looks in vain and goes to sleep more often."
    ),
    needs=("root", "tun", "vxlan", "iperf3:iperf3", "ping:iputils-ping"),
)
SECONDS = 3


def run(story: Story, options: Options) -> Results:
    """Climb it."""
    cluster = Cluster(nodes=2, setting=options.setting, shape="cable")
    with story.open(cluster):
        lesson = Climb(story, cluster, options)
        lesson.introduction()
        for rung in RUNGS:
            lesson.rung(rung)
        lesson.vxlan()
        lesson.direct()
        results = lesson.summary()
    return {
        "setting": options.setting,
        "throttle": options.throttle,
        "seconds": lesson.seconds,
        "rungs": [asdict(each) for each in results],
    }


class Climb:
    """The steps."""

    def __init__(self, story: Story, cluster: Cluster, options: Options) -> None:
        self.story = story
        self.cluster = cluster
        self.options = options
        self.seconds = options.seconds or SECONDS
        self.results: list[Result] = []
        self.doubt = measure.doubt()

    def introduction(self) -> None:
        """Say what is measured, and on what."""
        story = self.story
        story.step("One machine, two nodes, one TCP stream")
        story.draw(topology.nodes(("flannel0", "100.96.N.0/32"), "tunneld"))
        story.say(
            "Every way below carries the same load: one TCP stream from container-1 to container-2,"
            f" {self.seconds} s. The wire is one cable in the setting {self.options.setting}: the"
            " device makes checksums, but cuts and joins no packets; that is nearest to a plain"
            " network card. Both nodes, both daemons and the load share this machine's CPUs."
        )
        story.say(
            "Three figures. Throughput. CPU time of the whole machine for a gigabyte: let nothing"
            " else run beside this. And crossings: a program gets at packets by system calls only,"
            " and each one takes the CPU from the program into the kernel and back. The daemons"
            " count theirs themselves (`tunneld status` shows it); here they are those of both"
            " daemons, divided by the packets that were sent over the wire, acknowledgements too."
        )
        if self.options.throttle:
            story.say(f"The wire is throttled to {self.options.throttle}.")
        if self.doubt:
            story.say(self.doubt.strip())

    def rung(self, rung: Rung) -> None:
        """Measure one rung."""
        story = self.story
        story.step(rung.headline)
        story.say(rung.idea)
        args = ["--dataplane", rung.name]
        show_commands(story, self.cluster, args)
        with story.working("starting the daemons", 2):
            self.cluster.start_daemons(args)
            self._connected()
        daemons = [host.daemon for host in self.cluster.nodes]
        before = measure.PathCalls.of(daemons)
        load = self._load()
        calls = measure.PathCalls.of(daemons).per_packet_since(before)
        self._add(Result(rung.name, load.gbps, load.cpu_s_per_gb, calls))
        # The rung that really runs: an older kernel may lack what this one needs.
        real = daemons[0].status()["backend"]["dataplane"]
        if real != rung.name:
            story.say(f"This kernel lacks something: the rung that ran is {real}.")
        with story.working("stopping the daemons", 1):
            self.cluster.stop_daemons()

    def vxlan(self) -> None:
        """Measure the yardstick."""
        story, one = self.story, self.cluster.nodes[0]
        story.step("VXLAN: the yardstick")
        story.say(
            "The kernel's own tunnel: no daemon in the path, so no crossings for it, and"
            " superpackets until the wire. This is what the rungs are measured against."
        )
        for command in self.cluster.setup_vxlan():
            if command.host is one:
                story.command(one.name, str(command))
        story.say("And the same on node2, mirrored. Lesson `vxlan` explains each line.")
        self._connected()
        load = self._load()
        self._add(Result("VXLAN", load.gbps, load.cpu_s_per_gb, None))
        self.cluster.teardown_vxlan()

    def direct(self) -> None:
        """Measure plain routes."""
        story, (one, two) = self.story, self.cluster.nodes
        story.step("No tunnel: as good as it gets on this wire")
        story.say("The peer is the next hop, and the packet leaves as it is.")
        for host in (one, two):
            host.set_mtu(1500)
        story.shell(one.node, f"ip route add {two.subnet} via {two.public_ip}")
        story.shell(two.node, f"ip route add {one.subnet} via {one.public_ip}")
        self._connected()
        load = self._load()
        self._add(Result("no tunnel", load.gbps, load.cpu_s_per_gb, None))

    def _connected(self) -> None:
        one, two = self.cluster.containers
        wait_for_ping(one, two.address)

    def _load(self) -> measure.Load:
        one, two = self.cluster.containers
        return measure.tcp(self.story, one, two, self.seconds)

    def _add(self, result: Result) -> None:
        self.results.append(result)
        self.story.draw(bars(self.results))

    def summary(self) -> list[Result]:
        """Show all rungs side by side, and say what the figures bear."""
        story = self.story
        story.step("The whole ladder")
        results = with_ratios(self.results)
        rows = [
            [
                each.name,
                f"{each.gbps:.2f}",
                f"{each.ratio:.2f}",
                f"{each.cpu_s_per_gb:.1f}",
                "no daemon" if each.calls_per_packet is None else f"{each.calls_per_packet:.2f}",
            ]
            for each in results
        ]
        story.table(["", "Gb/s", "/ VXLAN", "CPU s/GB", "calls per packet"], rows)
        for text in conclusions(results, self.options.throttle):
            story.say(text)
        return results
