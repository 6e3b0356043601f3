"""Daemons in a lesson: start them where the reader sees it, ask them, change the backend."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

from tunneld.demo.waiting import wait_until
from tunneld.lab import CONFIG

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

    from tunneld.demo.story import Story
    from tunneld.lab import Cluster, ClusterNode


def tunneld(
    story: Story,
    host: ClusterNode,
    words: str,
    *,
    notes: Mapping[str, str] | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Show `tunneld WORDS`, which may end in a pipe, run it on a node and show what it printed.

    Raises:
        CommandError: it failed.
    """
    story.command(host.name, f"tunneld {words}")
    # So that it also runs where tunneld is not in the PATH.
    program = f'tunneld() {{ {shlex.quote(sys.executable)} -m tunneld "$@"; }}; '
    done = host.node.run(["bash", "-c", f"{program}tunneld {words}"], check=check)
    story.output(done.stdout + done.stderr, notes)
    return done


def backend(host: ClusterNode) -> dict[str, Any]:
    """Return what the daemon of a node says of its backend."""
    found: dict[str, Any] = host.daemon.status()["backend"]
    return found


def skipped(host: ClusterNode) -> dict[str, str]:
    """Return which keys of the store the daemon of a node leaves out, and why."""
    found: dict[str, str] = host.daemon.status()["store"]["skipped"]
    return found


def show_config(story: Story, cluster: Cluster) -> None:
    """Show the network config, which says what the daemons are to do."""
    story.shell(cluster.nodes[0].node, f"cat {cluster.store_dir}/config")


def start(
    story: Story,
    cluster: Cluster,
    args: Sequence[str] = (),
    *,
    known: int = 1,
    shown: bool = True,
) -> None:
    """Start a daemon on each node, and wait until they know each other.

    Args:
        story: where it is shown.
        cluster: the nodes.
        args: further options of `tunneld run`.
        known: how many peers each daemon must have in its tables.
        shown: whether the reader sees the command line of node1.

    Raises:
        CommandError: a daemon does not get ready, or does not hear of its peers.
    """
    first = cluster.nodes[0]
    if shown:
        story.command(first.name, shlex.join(["tunneld", "run", *first.daemon.argv, *args]))
    with story.working("the daemons start", 3.0):
        cluster.start_daemons(args)
        for host in cluster.nodes:
            wait_until(lambda: reached(host) >= known, f"{host.name} to know its peers")  # noqa: B023


def show_commands(story: Story, cluster: Cluster, args: Sequence[str]) -> None:
    """Show how a lesson starts its daemons: in full the first time, then by what differs."""
    before = [block for block in story.blocks if block.text.startswith("tunneld run ")]
    if before:
        story.command("node1, node2", shlex.join(["tunneld", "run", "...", *args]))
        return
    for host in cluster.nodes:
        story.command(host.name, shlex.join(["tunneld", "run", *host.daemon.argv, *args]))
    story.say("(Below, three dots stand for all of it but the last option.)")


def change(story: Story, cluster: Cluster, kind: str) -> None:
    """Stop the daemons, clean up behind them, and start them with another type of backend."""
    for host in cluster.nodes:
        host.daemon.stop()
        words = ["-m", "tunneld", "cleanup", "--run-dir", str(host.daemon.run_dir)]
        host.node.run([sys.executable, *words])
    options = {"Port": 8285} if kind == "udp" else {}
    cluster.write_config({**CONFIG, "Backend": {"Type": kind, **options}})
    show_config(story, cluster)
    start(story, cluster, shown=False)


def reached(host: ClusterNode) -> int:
    """Return how many peers a daemon has taken: those of another type are skipped."""
    document = host.daemon.status()
    return len(document["peers"]) - len(document["backend"].get("skipped", {}))
