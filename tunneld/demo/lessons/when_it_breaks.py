"""Lesson "when-it-breaks": break the network in seven ways, and find each fault by looking.

For each: the break, what one sees, where to look, why, and how it heals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunneld.demo import Lesson
from tunneld.demo.drawing import topology
from tunneld.demo.lessons import _fault_node as nodes
from tunneld.demo.lessons import _fault_path as path
from tunneld.demo.lessons import _fault_trust as trust
from tunneld.demo.lessons._fault import Bed
from tunneld.lab import Cluster, wait_for_ping

if TYPE_CHECKING:
    from tunneld.demo import Options, Results
    from tunneld.demo.lessons._fault import Stream
    from tunneld.demo.story import Story

LESSON = Lesson(
    title="what breaks, what one sees, and where to look",
    learn=(
        "to tell a packet lost on the wire from one that a node refused, by the counters of both",
        "which ICMP message comes from whom, and what happens where a firewall drops it",
        "what one bad entry in the store costs, and why a forged packet does not get in",
        "what heals by itself, and what a person has to repair",
    ),
    question=(
        "On node 2, take the bridge down: ip link set docker0 down. Then ping 100.96.2.3 from"
        " container-1. Who answers, and what? Which drop_ counter of the two daemons counts it?"
    ),
    answer=(
        "From 100.96.2.0, Destination Host Unreachable: flannel0 of node 2. tunneld did deliver the"
        " packet (packets_written); then node 2's kernel had no route to docker0 any more, only"
        " the unreachable one for 100.96.2.0/24, and its answer came back through the tunnel like"
        " any packet. So no drop_ counter moves: look at `ip route` on node 2. Up again, all is"
        " well."
    ),
    needs=(
        "root",
        "tun",
        "bridge",
        "iperf3:iperf3",
        "ping:iputils-ping",
        "nft:nftables",
        "tcpdump",
    ),
)


def run(story: Story, options: Options) -> Results:
    """Break it, step by step, and return what was seen."""
    with story.open(Cluster(nodes=2, setting=options.setting)) as cluster:
        bed = Bed(story, cluster, options)
        figures, healthy = _healthy(bed)
        seen: dict[str, Any] = {
            "healthy": figures,
            "loss": path.lossy_wire(bed, healthy),
            "mtu": path.wrong_mtu(bed),
            "narrow": path.narrow_link(bed),
            "dead_peer": nodes.dead_peer(bed),
            "store": trust.wrong_keys(bed),
            "spoofed": trust.spoofed_packets(bed),
            "device": nodes.deleted_device(bed),
        }
        _table(story)
        return seen


def _healthy(bed: Bed) -> tuple[dict[str, Any], Stream]:
    """Start the daemons and show what a network without faults looks like."""
    story, one, other = bed.story, bed.one, bed.other
    story.step("First: what healthy looks like")
    story.draw(topology.nodes(("flannel0", "100.96.N.0/32"), "tunneld", wire="switch, MTU 1500"))
    story.say(
        "Two hosts with a container each. What container-1 sends to container-2 is routed into"
        " flannel0, where the daemon, tunneld, takes it, wraps it in a UDP datagram to port 8285 of"
        " node 2, and the daemon there unwraps it."
    )
    args = ["--dataplane", bed.options.dataplane]
    for host in bed.cluster.nodes:
        story.command(host.name, " ".join(["tunneld run", *host.daemon.argv, *args]))
    bed.cluster.start_daemons(args)
    wait_for_ping(one.container, other.container.address)
    well = bed.ping(one.container, f"{path.PINGS} {other.container.address}")
    story.command(other.container.name, "iperf3 -s &")
    stream = bed.stream()
    story.say(
        "tunneld status asks the daemon. (Where tunneld is not in the PATH: ./run tunneld status"
        " ...) Its first lines say whether it works at all, and which peers it has: the other"
        " nodes, by subnet and public IP, with what was sent (tx) to each and received (rx)."
    )
    head = ("tunneld", "backend", "lease", "store", "peers", "subnet", "100.96.")
    bed.status(one, keep=lambda line: line.startswith(head))
    story.say(
        "Then come counters: outbound is from the containers to the wire, inbound from the wire to"
        " the containers. In each, packets_read is packets_written plus all that is called drop_:"
        " what tunneld throws away has a name. Only those that are not 0 are shown."
    )
    bed.status(one, "| grep -E 'bound| packets_|drop_'")
    return {
        "pings": well.sent,
        "pings_lost": well.lost,
        "mbps": stream.mbps,
        "retransmits": stream.retransmits,
    }, stream


def _table(story: Story) -> None:
    story.step("In short: from the symptom to the cause")
    story.table(
        ["what one sees", "where to look", "what it is"],
        [
            [
                "some answers missing, TCP slow",
                "packets written here, read there",
                "loss on the wire",
            ],
            ["long transfers hang", "tcpdump docker0: need to frag", "MTU, ICMP filtered"],
            ["need to frag, from flannel0", "drop_too_big; ip route get PEER", "a narrow link"],
            ["silence, and rx stands still", "tcpdump eth0: port unreachable", "peer is dead"],
            ["Host Unreachable, from docker0", "is the daemon running here?", "own daemon is dead"],
            ["Net Unreachable, from flannel0", "drop_no_route; status: peers", "no such lease"],
            ["silence, for one subnet only", "drop_foreign_destination there", "a lease that lies"],
            ["a node is not among the peers", "status: skipped", "its key is broken"],
            ["nothing; the sender: silence", "drop_outer_*, drop_spoofed_source", "forged packets"],
            ["a blink", "status: repairs", "device deleted, repaired"],
        ],
        left=(0, 1, 2),
    )
