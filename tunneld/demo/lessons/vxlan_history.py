"""Lesson "vxlan-history": the kernel asks, the daemon answers; and what came after it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tunneld.demo import Lesson
from tunneld.demo.drawing import topology
from tunneld.demo.drawing.bars import Bar, Bars
from tunneld.demo.lessons import _asking as asking
from tunneld.demo.lessons import _daemons as daemons
from tunneld.demo.lessons._asking import misses
from tunneld.demo.lessons._classic import Classic
from tunneld.demo.lessons._contacting import CONTACTED, DEVICE, Bed
from tunneld.demo.lessons._wire import worth_reading
from tunneld.demo.waiting import wait_until
from tunneld.lab import Cluster, ping

if TYPE_CHECKING:
    from tunneld.demo import Options, Results
    from tunneld.demo.story import Story

LESSON = Lesson(
    title="VXLAN's first generation: the kernel asks, somebody must answer",
    learn=(
        "what a VTEP must know to send a frame on, and how the kernel asks for what it lacks",
        "how to answer by hand, and how flannel's first VXLAN answered by a daemon",
        "why its tables grow with the containers that are talked to, today's with the nodes",
        "what each of the two loses when the daemon dies",
    ),
    question=(
        "Run it with --keep: generation 2 is up, both daemons are dead, and all pings pass. On"
        " node1, take the one neighbour entry away: ip neigh del 100.96.2.0 dev flannel.1. Which"
        " containers does container-1 lose? Heal it with one command, without a daemon. What can"
        " node1 still not learn?"
    ),
    answer=(
        "All of node2's at once, with Destination Host Unreachable: the one entry stands for the"
        " whole node. The MAC is in `ip link show flannel.1` on node2, and in node1's own FDB. Put"
        " the entry back: ip neigh replace 100.96.2.0 lladdr MAC dev flannel.1 nud permanent. A"
        " daemon that lives would have put it back itself. What node1 cannot learn is a node that"
        " joins, or one that changes its address: generation 2 needs its daemon for changes, the"
        " first one for each new conversation."
    ),
    needs=("root", "vxlan", "bridge", "ping:iputils-ping"),
)
# Last parts of the addresses of node2's containers; the first is there from the start.
OTHERS = (3, 4, 5, 6)
AFTER_DEATH = (7, 8)
SYSCTL = f"net/ipv4/neigh/{DEVICE}"


def run(story: Story, options: Options) -> Results:
    """Tell it: by hand, by a daemon, and without questions."""
    backend = {"Type": "vxlan-miss"}
    with story.open(Cluster(nodes=2, setting=options.setting, backend=backend)) as cluster:
        classic = Classic(story, cluster).tell()
        history = History(story, cluster)
        try:
            first = history.answered() | history.growth()
            first |= history.dead_daemon()
            second = history.second_generation()
            second |= history.dead_again()
            history.compare(first, second)
        finally:
            history.close()
        return {"bridge": classic, "generation1": first, "generation2": second}


class History(Bed):
    """Flannel's two generations on the same nodes."""

    # Generation 1

    def answered(self) -> dict[str, Any]:
        """Let a daemon answer, and watch question and answer."""
        story, node = self.story, self.one.node
        story.step("Generation 1: a daemon answers (flannel v0.2 to v0.4)")
        story.draw(topology.nodes((DEVICE, "100.96.N.0/32"), "tunneld: answers the kernel"))
        story.say(
            "flannel gives each node a subnet of its own, so the packets are routed and the VTEP is"
            " no port of a bridge. The type vxlan-miss of tunneld does what flannel's first VXLAN"
            " did. With -v 1 it tells what it is asked."
        )
        daemons.show_config(story, self.cluster)
        daemons.start(story, self.cluster, ["-v", "1"])
        story.shell(
            node,
            f"ip route show dev {DEVICE}",
            notes={"100.96.0.0/16": "one route for all nodes, no next hop named"},
        )
        story.shell(node, f"sysctl {SYSCTL}/app_solicit")
        self.tables()
        story.say(
            "Both tables are empty, so they print nothing. The route names no next hop, so for the"
            " kernel container-2 itself is the neighbour, and its MAC is missing. A kernel would"
            " shout an ARP request now. app_solicit = 3 makes it ask a program first, up to three"
            " times. (In this form l3miss is of no use: it is about frames that a bridge brings.)"
        )
        story.command(self.one.name, f"{asking.COMMAND} &")
        self.monitor.new()
        target = str(self.other.container.address)
        done = story.shell(self.one.container, f"ping -c 2 -i 0.2 {target}", keep=worth_reading)
        first, second = map(float, re.findall(r"time=([\d.]+) ms", done.stdout)[:2])
        return {**self._asked_and_answered(target, first, second), "rtt_ms": [first, second]}

    def _asked_and_answered(self, wanted: str, first: float, second: float) -> dict[str, Any]:
        """Show the question and the answer, as the kernel and as the daemon tell them.

        Args:
            wanted: the address that was missing.
            first: round trip of the packet that asked, ms.
            second: that of the next one.
        """
        story = self.story
        told = self.monitor.wait(
            lambda told: any(not each.miss and each.wanted == wanted for each in told),
            "the answer in the kernel's table",
        )
        node = str(self.other.public_ip)
        notes = {
            wanted: "neighbour: its MAC",
            node: "FDB: the node behind that MAC",
        }
        rows = [
            (each, "the kernel asks" if each.miss else notes.get(each.wanted, "")) for each in told
        ]
        asking.show(story, DEVICE, rows)
        log = self.one.daemon.log
        wait_until(lambda: f"asked={wanted}" in log.read_text(), "the daemon's log to tell it")
        story.say("And the daemon's own log:")
        story.shell(self.one.node, f"grep answered {log} | sed 's/time=[^T]*T//; s/level=debug //'")
        story.say(
            "The kernel asks, the daemon answers, and meanwhile the packet waits in the kernel. The"
            " FDB entry comes first: with the neighbour the kernel sends at once what has waited,"
            " and must know where to."
        )
        slower = (
            f"the first round trip took {first:g} ms, with a question in it on each node, the"
            f" second {second:g} ms, with none."
        )
        story.say(
            "How long does it wait? The monitor stamps a line when it gets to read it, so trust"
            f" its order, not its distances. The ping knows: {slower}"
            if first > second
            else f"(The ping does not show the waiting in this run: {slower} A busy machine.)"
        )
        self.tables()
        return {"asked": len(misses(told, wanted))}

    def growth(self) -> dict[str, Any]:
        """Talk to more containers, and count entries."""
        story = self.story
        story.step("The tables grow with the containers that are talked to")
        for octet in OTHERS[1:]:
            self.other.add_container(octet)
        self.monitor.new()
        entries = self.count_contacted()
        asked = [told.wanted for told in self.monitor.new() if told.miss]
        self.tables()
        story.say(f"Questions of the kernel meanwhile: {len(asked)}, for {_and(asked)}.")
        story.say(
            f"{CONTACTED[-1]} containers on one node: {entries['neighbours'][-1]}"
            f" neighbours, all with the MAC of node2's VTEP, and {entries['fdb'][-1]} FDB entry."
            " That is what the routed form saves against the flat Ethernet above: the FDB counts"
            " nodes. The neighbours still count conversations, each began with a question to the"
            " daemon, and REACHABLE is a state that ends: after half a minute or so the kernel"
            " wants it confirmed."
        )
        return {"entries": entries, "asked_more": asked}

    def dead_daemon(self) -> dict[str, Any]:
        """Kill the daemon of node1."""
        story, node = self.story, self.one.node
        story.step("The daemon of generation 1 dies")
        self.kill(self.one)
        known = self.attempt(self.other.container.address)
        story.say(
            "What is in the tables still works. Now a container that was never talked to. (So that"
            " we need not wait: a question is repeated after 200 ms instead of 1 s.)"
        )
        story.shell(node, f"sysctl -w {SYSCTL}/retrans_time_ms=200")
        self.monitor.new()
        new = self.other.add_container(AFTER_DEATH[0]).address
        answer = self.attempt(new)
        asked = self.monitor.wait(lambda told: len(misses(told, str(new))) >= 3, "three questions")
        asking.show(story, DEVICE, [(told, "nobody there") for told in misses(asked, str(new))])
        story.say("And one that we know, when its entry has aged. We age it by hand:")
        return {
            "dead": {"known": known, "new": answer, "aged": self._aged()},
            "unanswered": len(misses(asked, str(new))),
        }

    def _aged(self) -> str:
        """Let the entry of container-2 age, and see it fail."""
        story, node, target = self.story, self.one.node, self.other.container.address
        story.shell(node, f"sysctl -w {SYSCTL}/delay_first_probe_time=1")
        story.shell(node, f"ip neigh change {target} dev {DEVICE} nud stale")

        def refused() -> bool:
            answer = ping(self.one.container, target, timeout=3)
            return answer is not None and answer.type == 3

        with story.working("the kernel wants the entry confirmed, and gives it up", 3.0):
            wait_until(refused, "the aged entry to fail")
        found = self.attempt(target)
        self.tables()
        story.say(
            "A stale entry is used for one more second (five by default) while the kernel hopes"
            " for a sign of life, then it asks, and asks, and gives up. So a dead daemon does not"
            " only bar new conversations. One by one, the old ones fail too."
        )
        return found

    # Generation 2

    def second_generation(self) -> dict[str, Any]:
        """Start the same nodes with all entries written beforehand."""
        story, node = self.story, self.one.node
        story.step("Generation 2: all answers before the first question (since v0.9)")
        story.say(
            "flannel's cure came in two steps: v0.5 wrote the FDB beforehand, v0.9 the rest. The"
            " trick is one address per node that stands for all of its containers: the node's own"
            " 100.96.2.0 is the next hop of its whole subnet. Then there is one neighbour, one FDB"
            " entry and one route per node, all known from the store, all permanent. The daemons"
            " are stopped, what they left is removed, and the type is now vxlan:"
        )
        daemons.change(story, self.cluster, "vxlan")
        self.monitor.new()
        story.shell(node, f"ip route show dev {DEVICE}")
        self.tables()
        story.say("No packet has been sent yet. Now the same containers again:")
        entries = self.count_contacted()
        asked = len([told for told in self.monitor.new() if told.miss])
        story.say(
            f"Questions of the kernel meanwhile: {asked}."
            + ("" if asked else " Nothing was missing, so nobody was asked.")
        )
        return {"entries": entries, "asked": asked}

    def dead_again(self) -> dict[str, Any]:
        """Kill both daemons: traffic goes on."""
        story = self.story
        story.step("The daemons of generation 2 die")
        for host in self.cluster.nodes:
            self.kill(host)
        known = self.attempt(self.other.container.address)
        story.say("And a container that has come only now, that nobody ever talked to:")
        new = self.attempt(self.other.add_container(AFTER_DEATH[1]).address)
        text = self.tables()
        aged = "cannot age" if text.count("PERMANENT") == 1 else "ages"
        if aged == "cannot age":
            story.say("The neighbour is PERMANENT: the kernel never asks for a confirmation.")
        return {"dead": {"known": known, "new": new, "aged": aged}}

    def compare(self, first: dict[str, Any], second: dict[str, Any]) -> None:
        """Put both generations side by side."""
        story = self.story
        story.step("In short")
        bars = [
            Bar(f"gen. {number}, {count} contacted", value, strong=number == 2)
            for number, entries in ((1, first["entries"]), (2, second["entries"]))
            for count, value in zip(CONTACTED, entries["neighbours"], strict=True)
        ]
        title = "Neighbours of node1 by contacted containers of node2"
        story.draw(Bars(bars, "entries", title, ".0f"))
        rows = [
            [name, first["dead"][key], second["dead"][key]]
            for key, name in (
                ("known", "a container talked to before"),
                ("new", "a new one"),
                ("aged", "one whose entry has aged"),
            )
        ]
        story.table(["with the daemon dead", "generation 1", "generation 2"], rows, left=(0, 1, 2))
        story.say(
            "The first generation holds only what is in use, which sounds thrifty, and it is how"
            " ARP has always worked. But the question goes to a program, in the path of the first"
            " packet, and the answer expires. The second holds one line per node, in use or not,"
            " however many containers there are. It is written once, when the node joins, and no"
            " packet ever waits for a program."
        )


def _and(names: list[str]) -> str:
    """Return the names without doubles, in order, as a list in words."""
    return ", ".join(dict.fromkeys(names)) or "nobody"
