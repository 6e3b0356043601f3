"""Lesson "store": what etcd holds, and how it changes as nodes join, stop, die and expire.

You will see: the few keys that a whole network is made of; a watch that tells of each change; what
the daemon of the other node makes of it; and how long a dead node stays in the list.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tunneld.demo import Lesson
from tunneld.demo.drawing.topology import Host, Topology, nodes
from tunneld.demo.lessons._etcd import ANSWERED, PREFIX, SILENCE, SUBNETS, TOLD, Bed
from tunneld.lab import Cluster
from tunneld.store.etcd_mirror import LINGER_S

if TYPE_CHECKING:
    from tunneld.demo import Options, Results
    from tunneld.demo.story import Story

LESSON = Lesson(
    title="the store, where the nodes find each other",
    learn=(
        "what etcd holds for the whole network: a config, and one key for each node",
        "how the nodes hear of each other without ever being told: they watch",
        "why a node that stops or dies stays in the list, and for how long",
        "what happens to a value that makes no sense",
    ),
    question=(
        "On etcd, start the watch again (step 3's command, without the &). In a second shell there"
        " delete node1's own key, while its daemon runs: ETCDCTL_API=3 etcdctl del"
        " /coreos.com/network/subnets/100.96.1.0-24. What does the watch say? Then write somebody"
        " else's address there: ETCDCTL_API=3 etcdctl put /coreos.com/network/subnets/100.96.1.0-24"
        ' \'{"PublicIP":"10.168.0.99"}\'. And now? (ping 100.96.2.3 in container-1)'
    ),
    answer=(
        "After the delete the watch says DELETE, and at once PUT: nobody else holds the subnet, so"
        " node1 puts its key again, and no packet is lost. After the put the subnet is another's."
        " node1's daemon must not use it any longer: it ends with exit code 3; the last line of its"
        " log (node1/log among the files) names 10.168.0.99. What remains is the unreachable route:"
        " ping 100.96.2.3 in container-1 says Destination Host Unreachable. Nothing leaves by"
        " another way."
    ),
    needs=(
        *("root", "tun", "bridge", "etcd:etcd-server", "etcdctl:etcd-client"),
        "ping:iputils-ping",
    ),
)
STRANGER = "100.96.7.0-24"
TTL_S = 5
WRONG = ("100.96.9.0-24", '{"PublicIP":"10.168.0.300"}')
KEY_1, KEY_2 = "100.96.1.0-24", "100.96.2.0-24"


def run(story: Story, options: Options) -> Results:
    """Tell it."""
    with story.open(Cluster(nodes=2, setting=options.setting)) as cluster:
        lesson = Store(story, cluster, options)
        lesson.topology()
        lesson.config()
        try:
            lesson.watch()
            steps = [
                lesson.first_joins(),
                lesson.second_joins(),
                *lesson.stops(),
                lesson.dies(),
                lesson.expires(),
                lesson.wrong(),
            ]
        finally:
            lesson.bed.close()
        lesson.summary(steps)
        return {"steps": steps}


class Store:
    """The steps, in the order in which they are told."""

    def __init__(self, story: Story, cluster: Cluster, options: Options) -> None:
        self.story = story
        self.bed = Bed(story, cluster, options)
        self.one, self.two = cluster.nodes

    def topology(self) -> None:
        """Draw what was built."""
        story = self.story
        story.step("Two nodes, and an etcd that both can reach")
        two = nodes(("flannel0", "100.96.N.0/32"), "tunneld")
        etcd = Host("etcd", (("eth0", "10.168.0.66/24"), ("", "etcd")))
        hosts = (*two.hosts, etcd)
        story.draw(
            Topology(hosts, ("the underlay,", "10.168.0.0/24"), title="Two nodes and the store")
        )
        story.say(
            "etcd is a small database of keys and values; in earnest it runs on three or five"
            " machines that stay of one mind. tunneld and flannel keep one thing there: who has"
            " which subnet. No node is told about any other; they all look here."
        )

    def config(self) -> None:
        """Put the config, and show everything."""
        story = self.story
        story.step("The config: the one thing that somebody has to write")
        with story.working("starting etcd"):
            self.bed.start_etcd()
        self.bed.ctl(f'put {PREFIX}/config \'{{"Network":"100.96.0.0/16"}}\'')
        self.bed.ctl(f"get --prefix {PREFIX}")
        story.say(
            "A key, and below it its value. That is all of it: 100.96.0.0/16 is the containers'"
            " network. Each node will take a /24 of it, 256 addresses."
        )

    def watch(self) -> None:
        """Start the watch."""
        story = self.story
        story.step("A watch: etcd tells of each change")
        self.bed.start_watch()
        story.say(
            "It runs from here on, beside everything else. etcd keeps the connection and sends what"
            " changes below that key, at once. The daemons do the same: nobody polls."
        )

    def first_joins(self) -> dict[str, Any]:
        """Start the first daemon."""
        story, bed = self.story, self.bed
        story.step("Node 1 joins: a key appears")
        bed.start_daemon(self.one)
        told = bed.told("PUT", KEY_1)
        story.say(
            "100.96.1.0-24 is the subnet, written so that it can be a key. The value says at which"
            " address of the underlay its node is to be found. The key hangs on a lease:"
        )
        ttl = bed.lease_of(KEY_1)
        story.say(
            f"{ttl} seconds: when they are over, etcd deletes the key, unless the daemon has"
            " renewed it; tunneld does so an hour before (--subnet-lease-renew-margin). Nobody else"
            " is there yet, so node 1 knows no peer, and a container that asks for one is told so:"
        )
        bed.peers(self.one, TOLD)
        return bed.figures("node 1 joins", told, self.one, lease_s=ttl)

    def second_joins(self) -> dict[str, Any]:
        """Start the second daemon."""
        story, bed = self.story, self.bed
        story.step("Node 2 joins: node 1 hears of it, though nobody has told it")
        bed.start_daemon(self.two)
        told = bed.told("PUT", KEY_2)
        delay = bed.wait_peers(self.one, [str(self.two.subnet)])
        bed.peers(self.one, ANSWERED)
        story.say("This is all that etcd holds for two nodes:")
        bed.ctl(f"get --prefix {PREFIX}")
        story.say("And the kernel's routes on node 1?")
        story.shell(
            self.one.node,
            "ip route | grep 100.96",
            notes={
                "100.96.0.0/16 dev": "all peers, by the daemon",
                "100.96.1.0/24 dev": "own containers",
                "unreachable": "last: never out in clear",
            },
        )
        story.say(
            "They are what they were before: in UDP mode one route for the whole network leads to"
            " the daemon, and who is where is in the daemon's own table, which is made from these"
            " keys. With VXLAN and host-gw each key becomes a route of the kernel (see those"
            " lessons)."
        )
        return bed.figures("node 2 joins", told, self.one, delay)

    def stops(self) -> list[dict[str, Any]]:
        """End the second daemon in good order, and start it again."""
        story, bed = self.story, self.bed
        story.step("Node 2's daemon is stopped: its key stays")
        story.command(self.two.name, f"kill -TERM {self.two.daemon.pid}")
        code = self.two.daemon.stop()
        story.say(
            f"It has ended (exit code {code}). "
            + ("The watch says nothing." if bed.nothing_yet() else "The watch says something.")
        )
        bed.peers(self.one, SILENCE)
        stopped = bed.figures("node 2 stops", [], self.one, exit_code=code)
        story.say(
            "The key is there, so node 1 still sends, and nobody answers. On purpose: a daemon that"
            " is only updated must not cost its containers their addresses. It comes back to the"
            " same subnet, and begins a new lease with a put of the same value:"
        )
        bed.start_daemon(self.two)
        told = bed.told("PUT", KEY_2)
        bed.peers(self.one, ANSWERED)
        return [stopped, bed.figures("node 2 comes back", told, self.one)]

    def dies(self) -> dict[str, Any]:
        """Kill the second daemon, and let its lease end."""
        story, bed = self.story, self.bed
        story.step("Node 2 dies: only the lease clears up behind it")
        story.command(self.two.name, f"kill -KILL {self.two.daemon.pid}")
        self.two.daemon.kill()
        story.say("How long does its key live on?")
        left = bed.lease_of(KEY_2, remaining=True)
        story.say(
            "etcd cannot tell the dead from the quiet, so"
            + (" the watch says nothing, and" if bed.nothing_yet() else "")
            + f" the subnet stays taken for another {left} seconds, {left / 3600:.1f} hours. We do"
            " not wait: `lease revoke` ends the lease now, which does what its expiry would do."
        )
        bed.revoke(KEY_2)
        told = bed.told("DELETE", KEY_2)
        with story.working("waiting for node 1 to forget it", LINGER_S):
            delay = bed.wait_peers(self.one, [])
        bed.peers(self.one, TOLD)
        story.say(
            f"Node 1 took {delay / 1e3:.1f} s over it: a key that vanishes may have been deleted by"
            f" mistake, and its node, if it lives, puts it again. So tunneld waits {LINGER_S:.0f} s"
            " before it forgets a peer. Now the container is told at once that there is nobody;"
            " before, its packets went to a node that did not answer."
        )
        return bed.figures("node 2's lease ends", told, self.one, delay, remaining_s=left)

    def expires(self) -> dict[str, Any]:
        """Put a key on a short lease, as another node would, and watch it expire."""
        story, bed = self.story, self.bed
        story.step(f"A lease that really expires: {TTL_S} seconds, and nobody renews it")
        story.say("We play a third node by hand, with a lease that is short:")
        began = time.monotonic()
        lease = bed.grant(TTL_S)
        value = '{"PublicIP":"10.168.0.4"}'
        bed.ctl(f"put {SUBNETS}/{STRANGER} '{value}' --lease={lease}")
        put = bed.told("PUT", STRANGER)
        bed.wait_peers(self.one, ["100.96.7.0/24"])
        bed.peers(self.one)
        with story.working("waiting for the lease to expire", TTL_S):
            told = bed.told("DELETE", STRANGER, shown=False)
            lived = bed.told_at - began
        story.say(f"Nobody types anything. {lived:.1f} s after the grant the watch says:")
        bed.show(told)
        with story.working("waiting for node 1 to forget it", LINGER_S):
            delay = bed.wait_peers(self.one, [])
        bed.peers(self.one)
        lines = [*put, *told]
        return bed.figures("a lease expires", lines, self.one, delay, lived_s=round(lived, 2))

    def wrong(self) -> dict[str, Any]:
        """Bring the second node back, and put a value that makes no sense."""
        story, bed = self.story, self.bed
        story.step("A wrong value: it is left out, and costs nobody else anything")
        story.say("Node 2 comes back first; its subnet is still free.")
        bed.start_daemon(self.two)
        bed.told("PUT", KEY_2)
        bed.wait_peers(self.one, [str(self.two.subnet)])
        key, value = WRONG
        story.say("Then somebody makes a mistake in a key of a fourth node:")
        bed.ctl(f"put {SUBNETS}/{key} '{value}'")
        told = bed.told("PUT", key)
        story.say("The daemon on node 1 says why it leaves it out; its log has the same, once:")
        named = bed.skipped(self.one, key)
        bed.peers(self.one, ANSWERED)
        story.say(
            f"Node 2 is still the only peer, and is still reached. {key} stays left out until"
            " somebody corrects it."
        )
        return {**bed.figures("a wrong value", told, self.one), "named": named}

    def summary(self, steps: list[dict[str, Any]]) -> None:
        """Put the changes side by side."""
        story = self.story
        story.step("In short")
        rows = [
            [
                step["what"],
                " ".join(step["events"]) or "nothing",
                ", ".join(step["peers"]) or "none",
                step["ping"],
                "" if step["known_after_ms"] is None else f"{step['known_after_ms']:.0f}",
            ]
            for step in steps
        ]
        head = ["what happened", "the watch", "node 1's peers", "ping 100.96.2.3", "known, ms"]
        story.table(head, rows, left=(0, 1, 2, 3))
        story.say(
            "known: how much later than the watch's line node 1's status showed the change, to"
            " within some 10 ms. One key per node, and a watch: a"
            " network of a hundred nodes is a hundred such keys."
        )
