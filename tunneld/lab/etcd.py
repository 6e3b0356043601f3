"""A real etcd: one server or a cluster, on loopback or in a node, with all that can befall it.

    with EtcdServer(directory) as etcd:
        etcd.ctl("put", "/coreos.com/network/config", '{"Network":"100.96.0.0/16"}')
        etcd.kill()
        etcd.start()

Only processes that were started here are touched, each by its pid.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tunneld.lab import process
from tunneld.lab.certificates import Certificate
from tunneld.lab.netns import require_tool

if TYPE_CHECKING:
    from tunneld.lab.netns import Node

_READY_S = 30.0


class EtcdError(process.CommandError):
    """etcd ended or did not get ready; the text holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS of a server.

    Attributes:
        authority: certificate file of the authority.
        server: what the server shows.
        client: what `ctl` shows.
        client_required: whether the server asks clients for a certificate.
    """

    authority: Path
    server: Certificate
    client: Certificate
    client_required: bool = False


class EtcdServer:
    """One etcd process; `with` starts it and ends it.

    Args:
        directory: data, configuration and log; made if it is not there.
        name: of the member.
        host: address that it listens on.
        node: where it runs; None: here.
        port: for clients; 0: a free one.
        tls: None: plain http.
        args: further flags of etcd.

    Attributes:
        log: what it printed.
        cluster: `--initial-cluster`, set by `EtcdCluster`.
        user: "name:password" for `ctl`, once authentication is on.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "etcd",
        host: str = "127.0.0.1",
        node: Node | None = None,
        port: int = 0,
        tls: Tls | None = None,
        args: Sequence[str] = (),
    ) -> None:
        require_tool("etcd", "etcd-server")
        require_tool("etcdctl", "etcd-client")
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / f"{name}.log"
        self.user = ""
        self._name, self._host, self._node, self._tls = name, host, node, tls
        self._data = directory / f"{name}.data"
        self._args = list(args)
        self._port = port or free_port()
        self._peer_port = free_port()
        self.cluster = f"{name}={self.peer_url}"
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._port}"

    @property
    def peer_url(self) -> str:
        """Where other members connect."""
        return f"http://{self._host}:{self._peer_port}"

    @property
    def pid(self) -> int:
        """Pid of the running server."""
        if self._process is None:
            raise EtcdError(f"{self._name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, *, wait: bool = True) -> None:
        """Start it with the data that are there; `wait` until it serves."""
        argv = [
            *("etcd", "--name", self._name, "--data-dir", str(self._data)),
            *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
            *("--listen-peer-urls", self.peer_url),
            *("--initial-advertise-peer-urls", self.peer_url),
            *("--initial-cluster", self.cluster),
            *("--heartbeat-interval", "50", "--election-timeout", "500"),
            *("--logger", "zap", "--log-outputs", "stderr", *self._tls_args(), *self._args),
        ]
        with self.log.open("a") as log:
            if self._node is None:
                self._process = process.start(argv, stdout=log)
            else:
                self._process = self._node.popen(argv, stdout=log)
        if wait:
            self.wait_ready()

    def _tls_args(self) -> list[str]:
        if self._tls is None:
            return []
        server = self._tls.server
        args = ["--cert-file", str(server.cert), "--key-file", str(server.key)]
        # With an authority to check them by, etcd insists on certificates of clients.
        if self._tls.client_required:
            args += ["--client-cert-auth", "--trusted-ca-file", str(self._tls.authority)]
        return args

    def wait_ready(self) -> None:
        """Wait until it answers.

        Raises:
            EtcdError: it ended, or does not answer within half a minute.
        """
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise EtcdError(f"{self._name} ended: {self.tail()}")
            # A key that nobody has: read through the whole cluster, wherever a leader is needed.
            asked = self._ctl(["--command-timeout", "1s", "get", "-"])
            if asked.returncode == 0 or "user name is empty" in asked.stderr:
                return
            time.sleep(0.02)
        raise EtcdError(f"{self._name} is not ready: {self.tail()}")

    def tail(self, lines: int = 10) -> str:
        """Return the end of its log."""
        return "\n".join(self.log.read_text().splitlines()[-lines:])

    def ctl(self, *args: str, stdin: str | None = None) -> str:
        """Run etcdctl (API 3) and return what it prints.

        Raises:
            EtcdError: it failed.
        """
        done = self._ctl(args, stdin)
        if done.returncode != 0:
            raise EtcdError(f"etcdctl {args[0]}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def _ctl(
        self, args: Iterable[str], stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        argv = ["etcdctl", "--endpoints", self.url, *args]
        if self._tls is not None:
            client = self._tls.client
            argv += ["--cacert", str(self._tls.authority)]
            argv += ["--cert", str(client.cert), "--key", str(client.key)]
        if self.user:
            argv += ["--user", self.user]
        argv = argv if self._node is None else self._node.argv(argv)
        env = {**os.environ, "ETCDCTL_API": "3"}
        return process.run(argv, stdin=stdin, check=False, env=env)

    def enable_auth(self, password: str, users: Iterable[tuple[str, str, str]] = ()) -> None:
        """Turn authentication on.

        Args:
            password: of root; `ctl` uses it from now on.
            users: (name, password, prefix) of others; each may read and write below its prefix.
        """
        self.ctl("user", "add", f"root:{password}")
        self.ctl("user", "grant-role", "root", "root")
        for name, secret, prefix in users:
            self.ctl("user", "add", f"{name}:{secret}")
            self.ctl("role", "add", name)
            self.ctl("role", "grant-permission", name, "--prefix=true", "readwrite", prefix)
            self.ctl("user", "grant-role", name, name)
        self.ctl("auth", "enable")
        self.user = f"root:{password}"

    def kill(self) -> None:
        """Send SIGKILL, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Send SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def wipe(self) -> None:
        """Kill it and remove its data; `start` then begins a new history."""
        self.kill()
        shutil.rmtree(self._data, ignore_errors=True)

    def close(self) -> None:
        """End it; idempotent."""
        self.kill()


class EtcdCluster:
    """Several members on one address; `with` starts and ends them.

    Args:
        directory: holds everything.
        size: how many members.
        args: further flags of etcd, for all.
        host: address that they listen on.
        node: where they run; None: here.

    Attributes:
        members: the servers.
    """

    def __init__(
        self,
        directory: Path,
        size: int = 3,
        args: Sequence[str] = (),
        *,
        host: str = "127.0.0.1",
        node: Node | None = None,
    ) -> None:
        names = [f"member{number}" for number in range(1, size + 1)]
        self.members = [
            EtcdServer(directory, name=name, host=host, node=node, args=args) for name in names
        ]
        cluster = ",".join(member.cluster for member in self.members)
        for member in self.members:
            member.cluster = cluster

    @property
    def url(self) -> str:
        """All members, as `--etcd-endpoints` takes them."""
        return ",".join(member.url for member in self.members)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for member in self.members:
                stack.callback(member.close)
                member.start(wait=False)
            for member in self.members:
                member.wait_ready()
            stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for member in self.members:
            member.close()


def free_port() -> int:
    """Return a TCP port on loopback that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
