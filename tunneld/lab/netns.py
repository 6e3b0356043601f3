"""Hosts out of network namespaces: nodes run commands, links connect nodes, the lab cleans up.

A `Node` is one named namespace (`ip netns`). Its name carries the pid of its lab, so two labs never
meet, and a lab that was killed with SIGKILL is swept by the next one. Interfaces are made inside
the namespaces, so nothing of the lab ever appears in the caller's own network.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, TypeVar

from tunneld.errors import StartError
from tunneld.lab import process
from tunneld.lab.sweep import KEPT, NETNS_DIR, delete_namespace, sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import FrameType, TracebackType

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
TOOLS = {
    "ip": "iproute2",
    "bridge": "iproute2",
    "ethtool": "ethtool",
}
_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


class Node:
    """One host: a network namespace with its own interfaces, routes and sysctls.

    Attributes:
        name: what a reader calls it ("node1").
        netns: the name of the namespace as `ip netns` knows it.
    """

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.netns = f"tl{os.getpid()}-{next(_numbers)}-{name}"
        self._processes: list[subprocess.Popen[str]] = []
        process.run(["ip", "netns", "add", self.netns])
        self.ip("link", "set", "lo", "up")
        self.sysctl("net.ipv6.conf.all.disable_ipv6", "1", missing_ok=True)
        self.sysctl("net.ipv6.conf.default.disable_ipv6", "1", missing_ok=True)
        # A new namespace takes these from the machine (net.core.devconf_inherit_init_net is 0),
        # where a distribution has set rp_filter and a container runtime ip_forward.
        for scope in ("all", "default"):
            self.sysctl(f"net.ipv4.conf.{scope}.rp_filter", "0")
        self.sysctl("net.ipv4.ip_forward", "0")

    def __repr__(self) -> str:
        return f"<Node {self.netns}>"

    def argv(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` inside this node."""
        return ["ip", "netns", "exec", self.netns, *argv]

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        check: bool = True,
        timeout: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside the node to its end; see `process.run`."""
        return process.run(self.argv(argv), stdin=stdin, check=check, timeout=timeout)

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdout: int | IO[str] = subprocess.PIPE,
        stderr: int | IO[str] = subprocess.STDOUT,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a background process inside the node; the lab ends it at the latest.

        Its pid is the command's own: `ip netns exec` replaces itself.
        """
        child = process.start(self.argv(argv), stdout=stdout, stderr=stderr, env=env)
        self._processes.append(child)
        return child

    def ip(self, *args: str) -> str:
        """Run `ip -n NODE ...` and return what it prints."""
        return process.run(["ip", "-n", self.netns, *args]).stdout

    def batch(self, lines: Iterable[str]) -> None:
        """Run several `ip` commands in one process, stopping at the first that fails."""
        process.run(["ip", "-n", self.netns, "-batch", "-"], stdin="\n".join(lines) + "\n")

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in a thread that has entered this namespace.

        What it opens (sockets, TUN devices, files below /proc/thread-self/net) belongs to the node
        for good, whichever thread uses it later.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def inside() -> None:
            try:
                with (NETNS_DIR / self.netns).open("rb") as handle:
                    if _libc.setns(handle.fileno(), CLONE_NEWNET) != 0:
                        code = ctypes.get_errno()
                        raise OSError(code, os.strerror(code), self.netns)  # noqa: TRY301
                results.append(function())
            except BaseException as error:  # noqa: BLE001 - handed to the caller below
                errors.append(error)

        thread = threading.Thread(target=inside, name=f"in-{self.name}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket that belongs to this node."""
        return self.call(lambda: socket.socket(family, kind, protocol))

    def sysctl(self, key: str, value: str | None = None, *, missing_ok: bool = False) -> str:
        """Set (with `value`) and return a sysctl of this namespace, such as net.ipv4.ip_forward.

        Interface names with dots are not supported: the dots of `key` become slashes.
        """
        path = Path("/proc/sys", *key.split("."))

        def access() -> str:
            if value is not None:
                path.write_text(value)
            return path.read_text().strip()

        try:
            return self.call(access)
        except FileNotFoundError:
            if missing_ok:
                return ""
            raise

    def pids(self) -> list[int]:
        """Return the processes that live in this namespace."""
        return [int(pid) for pid in process.run(["ip", "netns", "pids", self.netns]).stdout.split()]

    def stop_processes(self) -> None:
        """End what `popen` started here."""
        process.stop(self._processes)
        self._processes.clear()

    def close(self) -> None:
        """End every process of the node and delete its namespace; idempotent."""
        self.stop_processes()
        if (NETNS_DIR / self.netns).exists():
            delete_namespace(self.netns)


class Lab:
    """A set of nodes and a scratch directory that vanish together, whatever happens.

    Attributes:
        directory: scratch space for stores, run directories and logs.
        nodes: every node made by this lab.

    Raises:
        StartError: no root, or a tool is missing; with the remedy.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.directory = Path()
        self._stack = contextlib.ExitStack()
        self._kept = False

    def __enter__(self) -> Self:
        require_root()
        sweep()
        self.directory = Path(tempfile.mkdtemp(prefix=f"tl{os.getpid()}-"))
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        # A Ctrl-C between the end of the block and the first line of close() skips close().
        atexit.register(self.close)
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, _on_sigterm)
            self._stack.callback(signal.signal, signal.SIGTERM, before)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take everything down; a second Ctrl-C meanwhile does not stop it half way."""
        if self._kept:
            return
        with _signals_held_back(), self._stack:
            atexit.unregister(self.close)
            # Terminate everywhere first: nodes then end in parallel, not one grace time each.
            process.stop([child for node in self.nodes for child in node._processes])  # noqa: SLF001
            for node in reversed(self.nodes):
                node.close()
            self.nodes.clear()

    def node(self, name: str) -> Node:
        """Make a node."""
        node = Node(self, name)
        self.nodes.append(node)
        return node

    def keep(self) -> None:
        """Leave everything up, also when this process ends; `tear_down` removes it."""
        (self.directory / KEPT).touch()
        self._kept = True

    def on_close(self, callback: Callable[[], object]) -> None:
        """Have `callback` called when the lab is down."""
        self._stack.callback(callback)


def link(one: tuple[Node, str], other: tuple[Node, str], *, mtu: int = 1500) -> None:
    """Connect two nodes by a veth pair ("a cable"), both ends up.

    Args:
        one: node and interface name of one end.
        other: the other end.
        mtu: of both ends, bytes.
    """
    node, name = one
    peer, peer_name = other
    node.batch(
        [
            (
                f"link add {name} mtu {mtu} type veth"
                f" peer name {peer_name} mtu {mtu} netns {peer.netns}"
            ),
            f"link set {name} up",
        ]
    )
    peer.ip("link", "set", peer_name, "up")


def require_root() -> None:
    """Check what the lab needs of this process.

    Raises:
        StartError: no right to make namespaces, or a tool is missing.
    """
    if os.geteuid() != 0:
        raise StartError(
            "the lab makes network namespaces, which needs root",
            remedy="run it with sudo, or inside `unshare -Urnm`",
        )
    for tool, package in TOOLS.items():
        require_tool(tool, package)


def require_tool(tool: str, package: str) -> None:
    """Check that a program is installed.

    Raises:
        StartError: naming the package to install.
    """
    if shutil.which(tool) is None:
        raise StartError(f"{tool} is not installed", remedy=f"apt-get install -y {package}")


def _on_sigterm(_signum: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
