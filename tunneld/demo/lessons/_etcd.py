"""A real etcd in a lesson: etcdctl as it is typed, a watch beside it, and who follows it."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any

from tunneld.demo.lessons import _daemons as daemons
from tunneld.demo.waiting import Beside, wait_until
from tunneld.lab import ping
from tunneld.lab.etcd import EtcdServer
from tunneld.lab.etcd_http import EtcdGateway
from tunneld.lab.probe import ECHO_REPLY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tunneld.demo import Options
    from tunneld.demo.story import Story
    from tunneld.lab import Answer, Cluster, ClusterNode

PREFIX = "/coreos.com/network"
SUBNETS = f"{PREFIX}/subnets"
ETCDCTL = "ETCDCTL_API=3 etcdctl"
HOST, HOST_NUMBER, CLIENT_PORT = "10.168.0.66", 65, 2379
LOCAL = f"http://127.0.0.1:{CLIENT_PORT}"
ANSWERED, TOLD, SILENCE = "answered", "net unreachable", "silence"
WATCHERS = re.compile(r"^etcd_debugging_mvcc_watcher_total (\d+)", re.MULTILINE)


class Bed:
    """The store, the watch on it, and the nodes that follow it.

    Args:
        story: where everything is shown.
        cluster: two nodes.
        options: of the lesson.
    """

    def __init__(self, story: Story, cluster: Cluster, options: Options) -> None:
        self.story = story
        self.cluster = cluster
        self._options = options
        self._ping = ""
        self.told_at = 0.0
        self.node = cluster.lab.node("etcd")
        cluster.underlay.attach(self.node, HOST_NUMBER)
        url = f"http://{HOST}:{CLIENT_PORT}"
        self._server = EtcdServer(
            cluster.lab.directory / "etcd",
            host=HOST,
            node=self.node,
            port=CLIENT_PORT,
            # So that etcdctl needs no --endpoints on that host: this is where it looks.
            args=("--listen-client-urls", f"{url},{LOCAL}"),
        )
        self._watch: Beside | None = None
        for host in cluster.nodes:
            # So that each takes the subnet that its container is in.
            host.daemon.use_etcd(url, host.subnet)

    def start_etcd(self) -> None:
        """Start the server; the lab ends it."""
        self._server.start()

    def ctl(self, words: str) -> str:
        """Show and run an etcdctl command, and return what it printed."""
        return self.story.shell(self.node, f"{ETCDCTL} {words}").stdout

    # The watch

    def start_watch(self) -> None:
        """Show the watch, and wait until etcd serves it."""
        command = f"{ETCDCTL} watch --prefix {SUBNETS}"
        self.story.command(self.node.name, f"{command} &")
        self._watch = Beside(self.node, command)
        wait_until(lambda: self._watchers() == 1, "etcd to serve the watch")

    def _watchers(self) -> int:
        with contextlib.closing(EtcdGateway(LOCAL, self.node)) as http:
            http.request("GET", "/metrics")
            match = WATCHERS.search(http.getresponse().read().decode())
        return int(match[1]) if match else 0

    def told(self, event: str, key: str, *, shown: bool = True) -> list[str]:
        """Wait until the watch tells of an event, and return all new lines.

        Args:
            event: PUT or DELETE.
            key: below `subnets/`.
            shown: whether it is shown, too.
        """
        lines: list[str] = []

        def seen() -> bool:
            lines.extend(self._watch.new() if self._watch else ())
            # An event is three lines: its name, the key, the value (of DELETE an empty one).
            pairs = zip(lines[::3], lines[1::3], lines[2::3], strict=False)
            return any((name, at) == (event, f"{SUBNETS}/{key}") for name, at, _ in pairs)

        wait_until(seen, f"{event} {key} from the watch")
        self.told_at = time.monotonic()
        if shown:
            self.story.say("The watch says:")
            self.show(lines)
        return lines

    def show(self, lines: Sequence[str]) -> None:
        """Show lines of the watch."""
        self.story.output("\n".join(line for line in lines if line))

    def nothing_yet(self) -> bool:
        """Tell whether the watch has said nothing new; what it has is left for `told`.

        etcd tells a watch of changes in their order: `told` of the next event shows whether there
        was another one before it.
        """
        return not self._watch or not self._watch.waiting

    # Leases of etcd

    def lease_of(self, key: str, *, remaining: bool = False) -> int:
        """Show the lease that a key hangs on; returns its seconds, those granted or those left."""
        lease = self._lease_id(key)
        text = self.ctl(f"lease timetolive {lease}")
        granted, left = re.findall(r"\((\d+)s\)", text)
        return int(left if remaining else granted)

    def revoke(self, key: str) -> None:
        """Show and do what the expiry of a key's lease would do."""
        self.ctl(f"lease revoke {self._lease_id(key, shown=False)}")

    def grant(self, seconds: int) -> str:
        """Show the grant of a lease, and return its number."""
        return self.ctl(f"lease grant {seconds}").split()[1]

    def _lease_id(self, key: str, *, shown: bool = True) -> str:
        words = f"{ETCDCTL} get {SUBNETS}/{key} -w fields | grep Lease"
        if shown:
            text = self.story.shell(self.node, words).stdout
        else:
            text = self.node.run(["bash", "-c", words]).stdout
        number = f"{int(text.split()[-1]):x}"
        if shown:
            self.story.say(f"The lease's number; in hexadecimal, as etcdctl wants it, {number}:")
        return number

    # The nodes

    def start_daemon(self, host: ClusterNode) -> None:
        """Show the start of a daemon, and wait until it is ready."""
        args = ["--dataplane", self._options.dataplane]
        words = " ".join(["tunneld run", *host.daemon.argv, *args])
        self.story.command(host.name, f"{words} &")
        with self.story.working("starting the daemon", 1.0):
            host.daemon.start(args)
            host.daemon.wait_ready()
            host.set_mtu(int(host.daemon.environment()["FLANNEL_MTU"]))

    def wait_peers(self, host: ClusterNode, wanted: list[str]) -> float:
        """Wait until a node's peers are these subnets.

        Returns:
            How long after the watch has told of the last change, milliseconds.
        """
        wait_until(lambda: subnets(host) == wanted, f"peers of {host.name}: {wanted}")
        return (time.monotonic() - self.told_at) * 1e3

    def peers(self, host: ClusterNode, then: str = "") -> None:
        """Show a node's peers, and whether a container of it reaches container-2.

        Args:
            host: which node.
            then: what a ping is to say, `ANSWERED` or `TOLD`: waited for, as a daemon lists a peer
                a moment before it forwards to it. `SILENCE`: nothing to wait for. Empty: no ping.
        """
        run_dir = host.daemon.run_dir
        daemons.tunneld(
            self.story, host, f"status --run-dir {run_dir} | sed -n '/^peers/,/^$/p' | cut -c 1-37"
        )
        self._ping = ""
        if not then:
            return
        target = self.cluster.nodes[-1].container.address
        if then != SILENCE:
            wait_until(
                lambda: _verdict(ping(host.container, target, timeout=1.0)) == then,
                f"a ping of {target} to be {then}",
            )
        done = self.story.shell(
            host.container,
            f"ping -c 1 -W 1 {target}",
            check=False,
            keep=lambda line: line.startswith(("From", "64 bytes")) or " 0 received, 100%" in line,
        )
        self._ping = (
            ANSWERED
            if "bytes from" in done.stdout
            else TOLD
            if "Net Unreachable" in done.stdout
            else SILENCE
        )

    def skipped(self, host: ClusterNode, key: str) -> bool:
        """Show which keys a daemon leaves out, and why; tells whether this one is among them."""
        wait_until(lambda: key in daemons.skipped(host), f"{key} in the status of {host.name}")
        words = f"status --run-dir {host.daemon.run_dir} | grep skipped"
        return key in daemons.tunneld(self.story, host, words).stdout

    def figures(
        self,
        what: str,
        told: Sequence[str],
        host: ClusterNode,
        delay_ms: float | None = None,
        **more: float,
    ) -> dict[str, Any]:
        """Return a step as JSON has it.

        Args:
            what: has happened.
            told: lines of the watch.
            host: whose peers are listed.
            delay_ms: until that node knew.
            more: further figures.
        """
        return {
            "what": what,
            "events": list(told[::3]),
            "keys": [line.removeprefix(f"{SUBNETS}/") for line in told[1::3]],
            "values": list(told[2::3]),
            "peers": subnets(host),
            "ping": self._ping,
            "known_after_ms": None if delay_ms is None else round(delay_ms, 1),
            **more,
        }

    def close(self) -> None:
        """End the watch."""
        if self._watch:
            self._watch.close()


def subnets(host: ClusterNode) -> list[str]:
    """Return the subnets of a node's peers."""
    return [peer["subnet"] for peer in host.daemon.status()["peers"]]


def _verdict(answer: Answer | None) -> str:
    if answer is None:
        return SILENCE
    return ANSWERED if answer.type == ECHO_REPLY else TOLD
