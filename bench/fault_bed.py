"""Two nodes with daemons, a real etcd on a third host, and numbered datagrams that go on meanwhile.

container-1 -- docker0 [node1] === eth0 ==== eth0 === [node2] docker0 -- container-2
|
eth0 [stranger: etcd, or three of them]
"""

from __future__ import annotations

import contextlib
import shutil
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from bench import slow_relay
from bench.common import compiled, require_udp_tools
from bench.etcd_bed import CONFIG, FIRST_EVENT, PREFIX, STRANGER, crowd, lease, subnet
from bench.stream import UdpStream
from tunneld.errors import TunneldError
from tunneld.lab import Cluster, wait_for_ping
from tunneld.lab.certificates import Authority, Certificate
from tunneld.lab.etcd import EtcdCluster, EtcdError, EtcdServer, Tls, free_port
from tunneld.lab.etcd_http import EtcdGateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from tunneld.lab import ClusterNode

# etcdctl reads a new password up to the first space.
USER, PASSWORD = "node", "correct-horse"
TOKEN_TTL_S = 5
HEALTH = ("--healthz-port", "8080")
PATIENCE_S = 60.0

_LIBRARY = Path(__file__).with_name("clockjump.c")
_ENOUGH = 100  # datagrams that have arrived: the stream runs
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setup:
    """What a fault needs to be there.

    Attributes:
        tls: the server shows a certificate.
        user: the daemons log in; their tokens live `TOKEN_TTL_S` seconds.
        relay: a relay before etcd that can be slow.
        clock: the daemons' wall clock can jump.
        members: how many etcd servers.
        peers: further leases.
        away: etcd is away from before the daemons' last start.
    """

    tls: bool = False
    user: bool = False
    relay: bool = False
    clock: bool = False
    members: int = 1
    peers: int = 0
    away: bool = False


def wait_for(state: Callable[[], T], what: str, timeout: float = PATIENCE_S) -> T:
    """Return the first true result of `state`.

    Raises:
        TunneldError: there was none in time.
    """
    deadline = time.monotonic() + timeout
    while not (result := state()):
        if time.monotonic() > deadline:
            raise TunneldError(f"waited {timeout:g} s for {what}")
        time.sleep(0.01)
    return result


class FaultBed:
    """The two nodes, up between `__enter__` and `__exit__`.

    Args:
        setup: what there shall be.

    Attributes:
        nodes: with running daemons.
        members: the etcd servers; `etcd` is the first.
        gateway: writes thousands of keys at once; without TLS and users only.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._stack = contextlib.ExitStack()
        self._fresh = FIRST_EVENT

    def __enter__(self) -> Self:
        require_udp_tools()
        with contextlib.ExitStack() as stack:
            self.cluster = stack.enter_context(Cluster(nodes=2))
            self.nodes = self.cluster.nodes
            self.directory = self.cluster.lab.directory
            self.wire = self.cluster.stranger()
            self._slowness = self.directory / "slowness"
            self._jump = self.directory / "jump"
            stack.enter_context(self._servers())
            self.gateway = EtcdGateway(self.etcd.url, self.wire)
            stack.callback(self.gateway.close)
            self.configure()
            if self.setup.peers:
                self.gateway.put_all(crowd(self.setup.peers))
            url = self._relay(stack) if self.setup.relay else ",".join(m.url for m in self.members)
            if self.setup.user:
                self.etcd.enable_auth("rootsecret", [(USER, PASSWORD, PREFIX)])
            for host in self.nodes:
                host.daemon.use_etcd(url, host.subnet)
                host.daemon.argv += [*HEALTH, "-v=1"]
                host.daemon.prefix = self._environment()
                if self.setup.tls:
                    authority = str(self._authority.certificate.cert)
                    host.daemon.argv += ["--etcd-cafile", authority]
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _servers(self) -> contextlib.AbstractContextManager[object]:
        place = self.directory / "etcd"
        if self.setup.members > 1:
            several = EtcdCluster(place, self.setup.members, host=STRANGER, node=self.wire)
            self.members = several.members
            return several
        tls = None
        if self.setup.tls:
            self._authority = Authority(self.directory / "ca")
            self.good = self._authority.issue("good", hosts=(f"IP:{STRANGER}",))
            self._shown = self._authority.issue("shown", hosts=(f"IP:{STRANGER}",))
            tls = Tls(self._authority.certificate.cert, self._shown, self.good)
        args = ["--auth-token-ttl", str(TOKEN_TTL_S), "--bcrypt-cost", "4"]
        server = EtcdServer(place, tls=tls, args=args, host=STRANGER, node=self.wire)
        self.members = [server]
        return server

    def _relay(self, stack: contextlib.ExitStack) -> str:
        port, to = free_port(), self.etcd.url.rpartition(":")[2]
        self.slow(0)
        argv = [sys.executable, slow_relay.__file__, STRANGER, str(port), to, str(self._slowness)]
        relay = self.wire.popen(argv)
        stack.callback(relay.terminate)
        if relay.stdout is None or relay.stdout.readline() != "ready\n":
            raise TunneldError("the slow relay did not start")
        return f"http://{STRANGER}:{port}"

    def _environment(self) -> list[str]:
        words = []
        if self.setup.user:
            words += [f"FLANNELD_ETCD_USERNAME={USER}", f"FLANNELD_ETCD_PASSWORD={PASSWORD}"]
        if self.setup.clock:
            self.jump(0)
            library = compiled(_LIBRARY, "-shared", "-fPIC")
            words += [f"LD_PRELOAD={library}", f"CLOCKJUMP_FILE={self._jump}"]
        return ["env", *words] if words else []

    def _start(self) -> None:
        self.cluster.start_daemons()
        one, two = self.nodes
        wait_for(
            lambda: all(len(self.peers(host)) > self.setup.peers for host in self.nodes), "peers"
        )
        wait_for_ping(one.container, two.container.address)
        if not self.setup.away:
            return
        caches = [host.daemon.state_dir / "state.json" for host in self.nodes]
        for cache, other in zip(caches, map(_name, reversed(self.nodes)), strict=True):
            wait_for(lambda c=cache, o=other: c.exists() and o in c.read_text(), "the cache")  # type: ignore[misc]
        self.etcd.kill()
        for host in self.nodes:
            host.daemon.kill()
        self.cluster.start_daemons()
        wait_for_ping(one.container, two.container.address)

    @property
    def etcd(self) -> EtcdServer:
        """The first server."""
        return self.members[0]

    def configure(self) -> None:
        """Put the network config."""
        self.ctl("put", f"{PREFIX}/config", CONFIG)

    def ctl(self, *args: str, stdin: str | None = None) -> str:
        """Run etcdctl on a server that answers, elections or not; returns what it prints."""
        failures: list[EtcdError] = []

        def done() -> str | None:
            for member in self.members:
                if member.running:
                    try:
                        return member.ctl("--command-timeout=2s", *args, stdin=stdin) or " "
                    except EtcdError as error:
                        failures[:] = [error]
            return None

        try:
            return wait_for(done, f"etcdctl {args[0]}", 30) or ""
        except TunneldError:
            raise (failures or [EtcdError("no etcd runs")])[0] from None

    def own_keys(self) -> list[str]:
        """Return the keys of the two nodes."""
        return [f"{PREFIX}/subnets/{_name(host)}" for host in self.nodes]

    def slow(self, seconds: float) -> None:
        """Have the relay hold back what etcd says."""
        self._slowness.write_text(str(seconds))

    def jump(self, seconds: int) -> None:
        """Set the daemons' wall clock so far from the machine's."""
        with self._jump.open("r+b" if self._jump.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))

    def unseen(self) -> EtcdServer:
        """Return a server with the data of the first, not started, where no daemon looks for it."""
        place = self.directory / "etcd"
        return EtcdServer(place, host=STRANGER, node=self.wire, port=free_port())

    def show(self, certificate: Certificate) -> None:
        """Have etcd show another certificate; it reads the files for each connection."""
        shutil.copy(certificate.cert, self._shown.cert)
        shutil.copy(certificate.key, self._shown.key)

    def show_bad(self, name: str, *, days: int = 2, strange: bool = False) -> None:
        """Have etcd show a certificate that is no good, and forget every connection.

        Args:
            name: of the certificate.
            days: of its validity; negative: it has expired.
            strange: another authority than the daemons' has signed it.
        """
        authority = Authority(self.directory / "other") if strange else self._authority
        self.show(authority.issue(name, hosts=(f"IP:{STRANGER}",), days=days))
        self.etcd.kill()
        # Not waited for: etcdctl does not believe it either.
        self.etcd.start(wait=False)

    def peers(self, host: ClusterNode) -> set[str]:
        """Return the subnets of a daemon's peers."""
        return {peer["subnet"] for peer in host.daemon.status()["peers"]}

    def states(self) -> set[str]:
        """Return the states of the daemons."""
        return {host.daemon.status()["state"] for host in self.nodes}

    def said(self, words: str) -> bool:
        """Return whether every daemon has written these words to its log."""
        return all(words in host.daemon.log.read_text() for host in self.nodes)

    def wait_told(self, words: str) -> None:
        """Wait until every daemon says that it is cut off, and why."""
        wait_for(lambda: self.states() == {"degraded"}, "the daemons to notice")
        wait_for(lambda: self.said(words), f"the reason, {words!r}")

    def fresh(self) -> str:
        """Put a lease that nobody had; returns its subnet."""
        self._fresh += 1
        self.ctl("put", *lease(self._fresh, "172.17.0.1"))
        return str(subnet(self._fresh))

    def recovered(self, began: float) -> float:
        """Wait until all is well; returns the seconds since `began`.

        Well: both daemons say `ready`, a lease that is put now is a peer of both, and both own keys
        are in the store.
        """
        wait_for(lambda: self.states() == {"ready"}, "the daemons to be ready")
        new = self.fresh()
        wait_for(lambda: all(new in self.peers(host) for host in self.nodes), "a new lease")
        for key in self.own_keys():
            wait_for(lambda key=key: self.ctl("get", "--keys-only", key).strip(), key)  # type: ignore[misc]
        return time.monotonic() - began

    @contextlib.contextmanager
    def stream(self) -> Iterator[UdpStream]:
        """Send 10,000 datagrams a second from container 1 to container 2 meanwhile."""
        one, two = self.nodes
        before = self._written(two)
        with UdpStream(one.container, two.container) as stream:
            wait_for(lambda: self._written(two) > before + _ENOUGH, "the stream")
            yield stream

    def _written(self, host: ClusterNode) -> int:
        return int(host.daemon.status()["counters"]["inbound"]["packets_written"])


def _name(host: ClusterNode) -> str:
    return str(host.subnet).replace("/", "-")
