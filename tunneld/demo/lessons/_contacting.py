"""The nodes of lesson "vxlan-history": node1 contacts node2's containers, and is looked at."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tunneld.demo.lessons._asking import NeighbourMonitor
from tunneld.lab import CommandError

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from tunneld.demo.story import Story
    from tunneld.lab import Cluster, ClusterNode

DEVICE = "flannel.1"
CONTACTED = (1, 2, 4)


class Bed:
    """The two nodes, and what is done with them in both generations.

    Attributes:
        story: where it is told.
        cluster: the lab.
        one: node1, whose tables are looked at.
        other: node2, whose containers are contacted.
    """

    def __init__(self, story: Story, cluster: Cluster) -> None:
        self.story = story
        self.cluster = cluster
        self.one, self.other = cluster.nodes
        self._monitor: NeighbourMonitor | None = None

    @property
    def monitor(self) -> NeighbourMonitor:
        """What the kernel tells on node1; begins with the first use."""
        if self._monitor is None:
            self._monitor = NeighbourMonitor(self.one.node, DEVICE)
        return self._monitor

    def close(self) -> None:
        """End the monitor."""
        if self._monitor is not None:
            self._monitor.close()

    def count_contacted(self) -> dict[str, list[int]]:
        """Ping one container after the other, and count entries after 1, 2 and 4."""
        found: dict[str, list[int]] = {"neighbours": [], "fdb": []}
        for number, container in enumerate(self.other.containers[: CONTACTED[-1]], 1):
            if self.attempt(container.address) != "reply":
                raise CommandError(f"{container.name} does not answer")
            if number in CONTACTED:
                neighbours, fdb = self.entries()
                found["neighbours"].append(neighbours)
                found["fdb"].append(fdb)
                self.story.progress_done(
                    f"{number} contacted: neighbours {neighbours}, FDB entries {fdb}"
                )
        return found

    def entries(self) -> tuple[int, int]:
        """Return how many neighbours with a MAC, and FDB entries, the kernel of node1 has."""
        neighbours = self.one.node.ip("neigh", "show", "dev", DEVICE)
        fdb = self.one.node.run(["bridge", "fdb", "show", "dev", DEVICE]).stdout
        return neighbours.count("lladdr"), fdb.count(" dst ")

    def tables(self) -> str:
        """Show both tables of node1."""
        return "".join(
            self.story.shell(self.one.node, f"{command} show dev {DEVICE}").stdout
            for command in ("ip neigh", "bridge fdb")
        )

    def kill(self, host: ClusterNode) -> None:
        self.story.command(host.name, f"kill -9 {host.daemon.pid}")
        host.daemon.kill()

    def attempt(self, address: IPv4Address) -> str:
        """Show one ping and return what came of it."""
        command = f"ping -c 1 {address}"
        self.story.command(self.one.container.name, command)
        with self.story.working("waiting for an answer", 3.0):
            done = self.one.container.run(command.split(), check=False)
        self.story.output("\n".join(filter(_answer, done.stdout.splitlines())))
        if done.returncode == 0:
            return "reply"
        told = re.search(r"Destination .*", done.stdout)
        return told[0] if told else "silence"


def _answer(line: str) -> bool:
    """Tell ping's line about the one answer from the rest."""
    return "bytes from" in line or "Destination" in line
