"""Lesson "three-crossings": the price of a tunnel in user space, counted call by call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunneld.demo import Lesson, measure, needs
from tunneld.demo.drawing import topology
from tunneld.demo.lessons import _counting as counting
from tunneld.demo.lessons import _crossings as crossings
from tunneld.demo.lessons import _crossings_verdict as verdict
from tunneld.demo.lessons._crossings import Way
from tunneld.demo.lessons._daemons import show_commands
from tunneld.lab import Cluster, tracing, trickle, wait_for_ping

if TYPE_CHECKING:
    from tunneld.demo import Options, Results
    from tunneld.demo.story import Story

LESSON = Lesson(
    title="what three crossings cost",
    learn=(
        "what a packet pays for a tunnel in user space: system calls, copies, context switches",
        "how to count them, in two ways that know nothing of each other",
        "what kernel VXLAN and plain routes pay for the same packet",
        'how much is true of "UDP mode costs three crossings, 20-30 %"',
    ),
    question=(
        "Run the lesson with --keep. Before you enter a host, `ip netns pids NAME` prints the"
        " number of node1's daemon, with the name of node1 that --keep shows at the end. Then `grep"
        " sysc /proc/NUMBER/io`; in container-1, `ping -q -c 100 -i 0.01 100.96.2.3`; and the grep"
        " again. By how much has syscw grown? node1 handled 200 packets: why is it not 200?"
    ),
    answer=(
        "By 100 (a few more if the daemon did something else meanwhile): node1 writes each of the"
        " 100 replies to flannel0, and that is a write. The 100 requests it sends to node2 with"
        " sendmmsg, and /proc/PID/io does not count that: syscr and syscw are read and write calls"
        " only. (syscr grows by about 200: after each request the daemon looks once more, in vain.)"
    ),
    needs=("root", "tun", "vxlan", "iperf3:iperf3", "ping:iputils-ping"),
)
COUNTED = 8000
SECONDS = 3
STEPS = {
    "direct": "No tunnel: what every packet pays",
    "vxlan": "VXLAN: a tunnel that stays in the kernel",
    "udp": "UDP mode, one packet per call: through a process on each node",
}


def run(story: Story, options: Options) -> Results:
    """Count, time and compare."""
    cluster = Cluster(nodes=2, setting=options.setting, shape="cable")
    with story.open(cluster):
        lesson = ThreeCrossings(story, cluster, options)
        lesson.claim()
        ways = {"direct": lesson.direct(), "vxlan": lesson.vxlan(), "udp": lesson.udp()}
        lesson.table(list(ways.values()))
        agreement = lesson.agreement(ways["udp"])
        ways["best"] = lesson.throughput(ways)
        story.step("What is wrong with the claim")
        for text in verdict.paragraphs(ways, options.throttle):
            story.say(text)
    return {
        "setting": options.setting,
        "tracer": lesson.tool,
        "ways": crossings.results(ways),
        "agreement": agreement,
        "loss": {
            f"{key}_against_{other}": crossings.loss(ways[key], ways[other])
            for key in ("udp", "best", "vxlan")
            for other in ("direct", "vxlan")
            if key != other
        },
    }


class ThreeCrossings:
    """The steps."""

    def __init__(self, story: Story, cluster: Cluster, options: Options) -> None:
        self.story = story
        self.cluster = cluster
        self.options = options
        self.seconds = options.seconds or SECONDS
        self.tool = tracing.tool()
        self.doubt = measure.doubt()

    def claim(self) -> None:
        """Say what is claimed, and what the words mean."""
        story = self.story
        story.step('The claim: "UDP mode costs three crossings per direction, 20-30 %"')
        story.draw(topology.nodes(("flannel0", "100.96.N.0/32"), "tunneld"))
        story.say(
            "A program cannot touch the network. It asks the kernel, by a system call: read, write,"
            " sendto. The CPU leaves user space, where programs live, for the kernel, and comes"
            " back: a crossing. In UDP mode container-1's packet crosses into the kernel, up to the"
            " daemon through flannel0, and down again through the daemon's UDP socket: three"
            " crossings. On node2 the same, mirrored. The packet's bytes are copied each time."
        )
        story.say(
            "There is more to pay. A context switch: the CPU goes from one process to another,"
            " because one waits for a packet and sleeps. And the softirq: the part of the kernel"
            " that handles packets behind the scenes, in nobody's name."
        )
        story.say(
            f"The load: {COUNTED} datagrams of {trickle.SIZE} bytes, about {trickle.RATE} a second,"
            " from a small program of this project (by hand, run it with .venv/bin/python)."
            " Why not TCP? Here each packet is one call of the sender, and a load so slow loses"
            " none: every count can be divided by the same number. TCP would hand the kernel 64 KiB"
            " at a time and mix in acknowledgements; it comes later, for the throughput."
        )
        if self.tool is None:
            lack = needs.missing(["tracer"])[0]
            story.say(
                f"Missing here: {lack.what}. So the calls below are those that tunneld and the two"
                " programs in the containers count themselves: those for packets, without what they"
                f" do besides, and there is no second way to count. To have that: {lack.remedy}."
            )
        else:
            story.say(
                f"Calls are counted by {self.tool}: it attaches to the kernel's tracepoints"
                " sys_enter_* and sys_exit_*, one process at a time. That slows down what it"
                " watches. So each load runs twice, counted and then timed, and throughput is"
                " measured without it."
            )

    def direct(self) -> Way:
        """Measure plain routes."""
        story, (one, two) = self.story, self.cluster.nodes
        story.step(STEPS["direct"])
        story.say("The two nodes share a link, so each can be the other's next hop.")
        story.shell(one.node, f"ip route add {two.subnet} via {two.public_ip}")
        story.shell(two.node, f"ip route add {one.subnet} via {one.public_ip}")
        way = self._measure("no tunnel")
        story.say(
            f"{crossings.total(way, 'copies'):.1f} copies for a packet: container-1's sendto,"
            " container-2's recvfrom. No tunnel and no route takes those two away."
        )
        return way

    def vxlan(self) -> Way:
        """Measure kernel VXLAN."""
        story, (one, two) = self.story, self.cluster.nodes
        story.step(STEPS["vxlan"])
        story.shell(one.node, f"ip route del {two.subnet}")
        story.shell(two.node, f"ip route del {one.subnet}")
        for command in self.cluster.setup_vxlan():
            if command.host is one:
                story.command(one.name, str(command))
        story.say("And the same on node2, mirrored. Lesson `vxlan` explains each line.")
        way = self._measure("VXLAN")
        self.cluster.teardown_vxlan()
        return way

    def udp(self) -> Way:
        """Measure the tunnel with one packet per call."""
        self.story.step(STEPS["udp"])
        self._daemons("syscall")
        return self._measure("UDP mode")

    def _daemons(self, rung: str) -> None:
        args = ["--dataplane", rung]
        show_commands(self.story, self.cluster, args)
        with self.story.working("starting the daemons", 2):
            self.cluster.start_daemons(args)

    def _measure(self, name: str) -> Way:
        story, (one, two) = self.story, self.cluster.containers
        wait_for_ping(one, two.address)
        load = counting.Trickle(self.cluster, COUNTED)
        story.command(two.name, counting.command("receive", str(two.address), COUNTED))
        story.command(one.name, counting.command("send", str(two.address), COUNTED))
        with story.working(f"{COUNTED} datagrams, counted", COUNTED / trickle.RATE + 1):
            counted = counting.count(load, self.tool)
        load = counting.Trickle(self.cluster, trickle.RATE * self.seconds)
        with story.working(f"{load.count} datagrams, timed", self.seconds + 1):
            spent = counting.spend(load)
        story.output(
            f"counted: {counted.packets} of {COUNTED} arrived;"
            f" timed: {spent.packets} of {load.count} arrived"
        )
        daemons = [host.daemon for host in self.cluster.nodes if host.daemon.running]
        gbps, calls = self._stream(daemons=bool(daemons))
        return Way(name, gbps, counted, spent, calls)

    def _stream(self, *, daemons: bool) -> tuple[float, float | None]:
        hosts = [host.daemon for host in self.cluster.nodes] if daemons else []
        before = measure.PathCalls.of(hosts)
        one, two = self.cluster.containers
        load = measure.tcp(self.story, one, two, self.seconds)
        calls = measure.PathCalls.of(hosts).per_packet_since(before) if daemons else None
        return load.gbps, calls

    def table(self, ways: list[Way]) -> None:
        """Show what was counted, as a table and drawn."""
        story = self.story
        story.step("Counted: what one packet costs, from container to container")
        story.table(
            crossings.HEAD, [row for way in ways for row in crossings.rows(way)], left=(0, 1)
        )
        story.say(
            "All for one packet that arrived. Calls: system calls of that process. Copies: those of"
            " them that moved a packet, each one copy of its bytes between a program and the"
            " kernel; that is derived from the calls, not measured. Empty: calls for a packet that"
            " found none. Others: waiting for the next packet, or for the next one's time to come"
            " (the sender sleeps between two). Switches: how often the CPU left that"
            " process for another, mostly because it slept. The CPU column is from the run that was"
            " not traced."
        )
        story.say(
            "The two last rows of each way are of the whole machine, from /proc/stat: its time in"
            " softirqs, and all time that was not idle, divided by the packets. Both are sampled,"
            " and most kernels charge a softirq to the process that it interrupted as well: do not"
            " add the rows up."
            + (
                " In this run the machine spent more on other things than on these packets: leave"
                " those two rows out."
                if crossings.busy(ways)
                else ""
            )
        )
        story.say("The way of a packet in UDP mode, with the calls and the CPU time on the arrows:")
        story.draw(crossings.drawing(ways[2]))
        story.say("And with VXLAN, where only the two containers' programs cross:")
        story.draw(crossings.drawing(ways[1]))

    def agreement(self, udp: Way) -> dict[str, object]:
        """Compare the tracepoints with /proc."""
        story = self.story
        story.step("Can the counts be trusted? Counted twice")
        if udp.counted is None:
            raise ValueError("nothing was counted")
        found = crossings.agreement(udp.counted, self.tool)
        if not found["available"]:
            story.say(f"Not available: {found['why']}, so there is only one method.")
            return found
        story.say(
            "The kernel keeps books of each process, tracer or not. /proc/PID/io has the read and"
            " write calls since the process began (sendmmsg and recvmmsg are none):"
        )
        daemon = self.cluster.nodes[0].daemon
        story.shell(
            self.cluster.nodes[0].node,
            f"grep sysc /proc/{daemon.pid}/io",
            notes={"syscr": "read, readv", "syscw": "write, writev"},
        )
        story.say(
            "And /proc/PID/task/*/status has the context switches. Both were read just before and"
            " just after the counted load, for the same interval as the tracepoints:"
        )
        rows = crossings.agreement_rows(found)
        story.table(["", "", "tracepoints", "/proc", "differ by"], rows, left=(0, 1))
        worst = max(
            found[name][key]["difference"]
            for name in crossings.DAEMONS
            for key in ("reads_and_writes", "context_switches")
        )
        if worst <= crossings.LIMIT:
            story.say(f"The two agree within {crossings.LIMIT * 100:.0f} %: the counts stand.")
        else:
            story.say(f"They differ by {worst * 100:.0f} %: do not trust the counts of this run.")
        return found

    def throughput(self, ways: dict[str, Way]) -> Way:
        """Show what the crossings cost, and measure the best rung for comparison."""
        story = self.story
        story.step("What do the crossings cost? One TCP stream over each way")
        story.say(
            "The same daemon can do better: on its best rung one call carries many packets. It goes"
            " by the same stations, so its crossings are the same three."
        )
        self.cluster.stop_daemons()
        self._daemons("auto")
        wait_for_ping(self.cluster.containers[0], self.cluster.containers[1].address)
        gbps, calls = self._stream(daemons=True)
        rung = self.cluster.nodes[0].daemon.status()["backend"]["dataplane"]
        best = Way(f"UDP mode, rung {rung}", gbps, calls=calls)
        rows = []
        for way in (*ways.values(), best):
            against = [
                "" if way is ways[key] else f"{-100 * crossings.loss(way, ways[key]):+.0f} %"
                for key in ("direct", "vxlan")
            ]
            calls_text = "no daemon" if way.calls is None else f"{way.calls:.2f}"
            rows.append([way.name, f"{way.gbps:.2f}", *against, calls_text])
        head = ["way", "Gb/s", "against no tunnel", "against VXLAN", "daemons' calls per packet"]
        story.table(head, rows)
        story.say(
            "Calls per packet are those of both daemons together, by their own counters, for data"
            f" and acknowledgements. Underlay: one cable, setting {self.options.setting} (checksums"
            " by the device, no segmentation: nearest to a plain network card). Runs of"
            f" {self.seconds} s differ by 15 %; figures closer than that are equal.{self.doubt}"
        )
        return best
