"""What every fault of lesson "when-it-breaks" is shown with: status, counters, ping, iperf3."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tunneld.demo.waiting import Beside, wait_until
from tunneld.lab import CommandError, iperf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tunneld.demo import Options
    from tunneld.demo.story import Story
    from tunneld.lab import Cluster, ClusterNode, Node

SUMMARY = re.compile(
    r"(?P<sent>\d+) packets transmitted, (?P<received>\d+) received(?:, \+(?P<errors>\d+) errors)?"
)
TELLER = re.compile(r"From (?P<who>[\d.]+) .*\(mtu = (?P<mtu>\d+)\)")


@dataclass(frozen=True, slots=True)
class Pings:
    """What a ping said.

    Attributes:
        sent: echo requests.
        received: echo replies.
        errors: ICMP messages and errors of the own kernel.
        teller: who said that they were too big, and the MTU that it named; None: nobody.
    """

    sent: int
    received: int
    errors: int
    teller: tuple[str, int] | None

    @property
    def lost(self) -> int:
        """Requests without a reply."""
        return self.sent - self.received


@dataclass(frozen=True, slots=True)
class Stream:
    """What iperf3 said of one TCP stream.

    Attributes:
        mbps: at the receiver, 10^6 bits per second.
        retransmits: segments that the sender sent again.
    """

    mbps: float
    retransmits: int


class Bed:
    """The two nodes, and the tools that a fault is looked at with.

    Attributes:
        story: what is told.
        cluster: the lab.
        seconds: length of a TCP load.
        one: node1.
        other: node2.
        switch: what the nodes' cables are plugged into.
    """

    def __init__(self, story: Story, cluster: Cluster, options: Options) -> None:
        self.story = story
        self.cluster = cluster
        self.options = options
        self.seconds = options.seconds or 2
        self.one, self.other = cluster.nodes
        switch = cluster.underlay.switch
        if switch is None:
            raise ValueError("the lesson needs an underlay with a switch")
        self.switch = switch

    # What is looked at

    def status(
        self,
        host: ClusterNode,
        filtered: str = "",
        *,
        notes: Mapping[str, str] | None = None,
        keep: Callable[[str], bool] | None = None,
    ) -> None:
        """Show `tunneld status` of a node.

        Args:
            host: whose daemon is asked.
            filtered: the rest of the command line, such as "| grep drop_".
            notes: as for `Story.output`.
            keep: which lines are shown; None: all.
        """
        words = ["tunneld", "status", "--run-dir", str(host.daemon.run_dir)]
        command = f"{shlex.join(words)} {filtered}".rstrip()
        self.story.command(host.name, command)
        # So that it also runs where tunneld is not in the PATH.
        program = f'tunneld() {{ {shlex.quote(sys.executable)} -m tunneld "$@"; }}; '
        done = host.node.run(["bash", "-c", program + command])
        lines = [line for line in done.stdout.splitlines() if keep is None or keep(line)]
        self.story.output("\n".join(lines), notes)

    def counters(self, host: ClusterNode, direction: str) -> dict[str, int]:
        """Return the counters of one direction."""
        found: dict[str, int] = host.daemon.status()["counters"][direction]
        return found

    def wait_for_count(self, host: ClusterNode, direction: str, name: str, least: int) -> int:
        """Wait until a counter has come to `least`, and return it."""

        def reached() -> int | None:
            now = self.counters(host, direction)[name]
            return now if now >= least else None

        return wait_until(reached, f"{name} of {host.name} to come to {least}")

    # What is tried

    def ping(
        self,
        node: Node,
        arguments: str,
        *,
        notes: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> Pings:
        """Show a ping; lost packets are no error."""
        command = f"ping {arguments}"
        done = self.story.shell(
            node, command, notes=notes, keep=_worth_reading(), check=False, timeout=timeout
        )
        return pings(command, done.stdout)

    def stream(self) -> Stream:
        """Show iperf3 from container-1 to container-2."""
        client, server = self.one.container, self.other.container
        argv = [*iperf.client_command(server.address, self.seconds), "-f", "m"]
        command = shlex.join(argv)
        self.story.command(client.name, command)
        with iperf.serving(server), self.story.working("iperf3", self.seconds):
            text = client.run(argv, timeout=self.seconds + 60).stdout
        ends = [line for line in text.splitlines() if line.endswith(("sender", "receiver"))]
        head = next((line for line in text.splitlines() if line.startswith("[ ID]")), "")
        self.story.output("\n".join([head, *ends]))
        rows = [match for line in ends if (match := iperf.INTERVAL.search(line))]
        if len(rows) != 2:
            raise CommandError(f"{command}: {text.strip().splitlines()[-1:]}")
        return Stream(float(rows[1]["rate"]), int(rows[0]["retransmits"] or 0))

    @contextlib.contextmanager
    def background_ping(self, arguments: str) -> Iterator[Callable[[], Pings]]:
        """Show a ping from container-1 that runs while the block does.

        Yields:
            A function that waits for its end, and shows and returns what it said.
        """
        command = f"ping {arguments}"
        node = self.one.container
        self.story.command(node.name, f"{command} &")
        before = self.counters(self.one, "outbound")["packets_read"]
        child = Beside(node, command)

        def ended() -> Pings:
            child.wait_end()
            self.story.output("\n".join(filter(_worth_reading(), child.lines)))
            return pings(command, "\n".join(child.lines))

        try:
            self.wait_for_count(self.one, "outbound", "packets_read", before + 5)
            yield ended
        finally:
            child.close()


def pings(command: str, text: str) -> Pings:
    """Read what ping printed.

    Raises:
        CommandError: it has no summary.
    """
    match = SUMMARY.search(text)
    if match is None:
        raise CommandError(f"{command}: {text.strip() or 'said nothing'}")
    teller = TELLER.search(text)
    return Pings(
        int(match["sent"]),
        int(match["received"]),
        int(match["errors"] or 0),
        (teller["who"], int(teller["mtu"])) if teller else None,
    )


def _worth_reading() -> Callable[[str], bool]:
    """Return a filter of ping's lines: no head, no empty line, nothing said twice."""
    seen = set()

    def keep(line: str) -> bool:
        if not line or line.startswith(("PING", "---")) or line in seen:
            return False
        seen.add(line)
        return True

    return keep


def monitor(node: Node, objects: str) -> Beside:
    """Return an `ip -ts monitor` that listens: what changes on a node, with the time.

    Args:
        node: where.
        objects: such as "address route".
    """
    beside = Beside(node, f"ip -ts monitor {objects}")

    def listens() -> bool:
        # It has joined its multicast groups (netlink(7)).
        rows = Path(f"/proc/{beside.pid}/net/netlink").read_text().splitlines()[1:]
        return any(row.split()[2] == str(beside.pid) and int(row.split()[3], 16) for row in rows)

    wait_until(listens, beside.command)
    return beside
