"""What the optional peers share: plans for both nodes, start, readiness and a clean end.

A peer is a subclass of `Tunnel`. Its `plan()` is pure: it says which files and which command lines
join one node to the other; `Tunnel.up()` carries plans out and undoes them, whatever happens.
"""

from __future__ import annotations

import abc
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tunneld.lab import CommandError, process, wait_for_ping

if TYPE_CHECKING:
    from tunneld.lab import Cluster, ClusterNode

IPV4_UDP = 28
"""Outer IPv4 and UDP headers, bytes."""

READY_S = 30.0

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """What a tunnel is told about one node.

    Attributes:
        number: from 1.
        name: "node1".
        public_ip: address of eth0.
        subnet: behind docker0.
    """

    number: int
    name: str
    public_ip: IPv4Address
    subnet: IPv4Network

    @classmethod
    def of(cls, host: ClusterNode) -> Side:
        """Return the description of a node of the lab."""
        return cls(host.number, host.name, host.public_ip, host.subnet)


@dataclass(frozen=True, slots=True)
class Task:
    """One node's half of a tunnel.

    Attributes:
        side: the node.
        peer: the other one.
        directory: scratch space of this half; it vanishes with the tunnel.
        mtu: of the tunnel's device, bytes.
        key: the node's public key, where the tunnel has keys.
        peer_key: the other's.
        owner: pid of the benchmark; makes names that are shared by the whole machine its own.
    """

    side: Side
    peer: Side
    directory: Path
    mtu: int
    key: str = ""
    peer_key: str = ""
    owner: int = field(default_factory=os.getpid)

    def address_device(self, device: str) -> tuple[Command, ...]:
        """Return the commands that put a TUN device to use: address, MTU and the peer's route."""
        return (
            ("ip", "address", "add", f"{self.side.subnet.network_address}/32", "dev", device),
            ("ip", "link", "set", device, "mtu", str(self.mtu), "up"),
            ("ip", "route", "replace", str(self.peer.subnet), "dev", device),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """A process to run on a node, and what belongs to it.

    Attributes:
        argv: the process; it stays in the foreground.
        ready: what it logs once its socket exists, or a file that it then writes.
        device: the TUN device that it makes, which must be there too; "": none.
        files: path below the task's directory -> text; written before the start.
        env: set for the process, beside our environment.
        then: commands for the node once the process is ready.
        outside: files that it makes elsewhere and might leave there.
        carries: whether packets go through it (a helper such as etcd does not carry any).
    """

    argv: Command
    ready: str | Path
    device: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    then: tuple[Command, ...] = ()
    outside: tuple[Path, ...] = ()
    carries: bool = True

    def lines(self, name: str) -> list[str]:
        """Return what a reader would type on the node, config files first."""
        prefix = [f"{key}={value}" for key, value in self.env.items()]
        shown = [f"{path}: {one_line(text)}" for path, text in self.files.items()]
        shown += [shlex.join(command) for command in ((*prefix, *self.argv), *self.then)]
        return [f"{name}: {line}" for line in shown]


class Tunnel(abc.ABC):
    """A userspace tunnel as a contender of the benchmark (`bench.contenders.Contender`).

    Attributes:
        name: on the command line and in results.
        overhead: bytes that it adds to an inner packet, outer IPv4 and UDP headers included. The
            MTU of its device is the underlay's less this, so that nothing is fragmented.
        note: what a reader of figures must know, above all about encryption.
        tools: pairs of program and its Debian package; the first is the tunnel itself.
        version_option: makes it tell its version.
    """

    name: str
    overhead: ClassVar[int]
    note: ClassVar[str]
    tools: ClassVar[tuple[tuple[str, str], ...]]
    version_option: ClassVar[str] = "--version"

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._carriers: list[subprocess.Popen[str]] = []
        self._version: str | None = None

    @abc.abstractmethod
    def plan(self, task: Task) -> Plan:
        """Return what one node needs; no I/O."""

    def helper(self, one: Task, other: Task) -> Plan | None:  # noqa: ARG002 - for subclasses
        """Return a process that node 1 runs before the tunnels, or None; no I/O."""
        return None

    def make_key(self, side: Side, directory: Path) -> str:  # noqa: ARG002 - for subclasses
        """Make a key pair: the private key becomes a file, the public one is returned."""
        return ""

    def missing(self) -> str | None:
        """Return which programs are not installed and how to get them, or None."""
        absent = {tool: package for tool, package in self.tools if shutil.which(tool) is None}
        if not absent:
            return None
        # What wireguard-tools recommends is a whole kernel.
        command = "apt-get install -y --no-install-recommends"
        packages = " ".join(dict.fromkeys(absent.values()))
        return f"not installed: {', '.join(absent)} ({command} {packages})"

    @property
    def program(self) -> str:
        """The tunnel's own program, by name or path."""
        return self.tools[0][0]

    def version(self) -> str:
        """Return the program's version as it tells it, or "" where it does not."""
        if self._version is None:
            done = process.run([self.program, self.version_option], check=False)
            self._version = find_version(done.stdout + done.stderr)
        return self._version

    def pids(self) -> Sequence[int]:
        """Return the processes that carry packets while it is up."""
        return [child.pid for child in self._carriers]

    def command_lines(self) -> list[str]:
        """Return the note, then config files and commands by node; private keys are left out."""
        who = f"{self.name} {self.version()}".strip()
        return [f"# {who}: {self.note}", *self._lines]

    @contextlib.contextmanager
    def up(self, cluster: Cluster) -> Iterator[None]:
        """Join the two nodes; on exit no process, device or file is left, after a failure too.

        Raises:
            CommandError: a program ended or did not get ready; with the end of its log.
            TimeoutError: all seemed well, but the containers do not reach each other.
        """
        with contextlib.ExitStack() as stack:
            # In the lab's own scratch space: even after SIGKILL the next lab sweeps it.
            scratch = tempfile.mkdtemp(prefix=f"{self.name}-", dir=cluster.lab.directory)
            stack.callback(shutil.rmtree, scratch, ignore_errors=True)
            stack.callback(self._carriers.clear)
            self._lines = []
            one, other = cluster.nodes
            tasks = self._tasks(one, other, Path(scratch), cluster.underlay.mtu - self.overhead)
            if (helper := self.helper(*tasks)) is not None:
                self._run(stack, one, tasks[0], helper)
            for host, task in zip((one, other), tasks, strict=True):
                self._run(stack, host, task, self.plan(task))
                host.set_mtu(task.mtu)
            wait_for_ping(one.container, other.container.address, timeout=READY_S)
            yield

    def _tasks(
        self, one: ClusterNode, other: ClusterNode, scratch: Path, mtu: int
    ) -> tuple[Task, Task]:
        sides = Side.of(one), Side.of(other)
        keys = []
        for side in sides:
            (scratch / side.name).mkdir()
            keys.append(self.make_key(side, scratch / side.name))
        here, there = sides
        return (
            Task(here, there, scratch / here.name, mtu, keys[0], keys[1]),
            Task(there, here, scratch / there.name, mtu, keys[1], keys[0]),
        )

    def _run(self, stack: contextlib.ExitStack, host: ClusterNode, task: Task, plan: Plan) -> None:
        """Carry out a plan and leave its undoing on the stack."""
        for path, text in plan.files.items():
            (task.directory / path).parent.mkdir(exist_ok=True)
            (task.directory / path).write_text(text)
        for outside in plan.outside:
            stack.callback(_remove, outside, parent=not outside.parent.exists())
        log = task.directory / f"{Path(plan.argv[0]).name}.log"
        with log.open("w") as out:
            child = host.node.popen(plan.argv, stdout=out, env={**os.environ, **plan.env})
        stack.callback(process.stop, [child])
        if plan.carries:
            self._carriers.append(child)
        wait_ready(child, lambda: is_ready(plan, log, host), log, host.name)
        for command in plan.then:
            host.node.run(command)
        self._lines += plan.lines(host.name)


def wait_ready(
    child: subprocess.Popen[str],
    ready: Callable[[], bool],
    log: Path,
    where: str,
    timeout: float = READY_S,
) -> None:
    """Wait until a process is ready.

    Raises:
        CommandError: it ended, or is not ready after `timeout` seconds; with the end of its log.
    """
    deadline = time.monotonic() + timeout
    while not ready():
        what = ""
        if child.poll() is not None:
            what = f"ended with status {child.returncode}"
        elif time.monotonic() > deadline:
            what = f"is not ready after {timeout:g} s"
        if what:
            tail = "; ".join(log.read_text(errors="replace").split("\n")[-8:]).strip("; ")
            raise CommandError(f"{log.stem} {what} on {where}: {tail or 'it logged nothing'}")
        time.sleep(0.01)


def is_ready(plan: Plan, log: Path, host: ClusterNode) -> bool:
    """Return whether a process is what its plan calls ready.

    Raises:
        CommandError: its device's name is taken; some tunnels then run on without a device.
    """
    if isinstance(plan.ready, Path):
        told = plan.ready.exists()
    else:
        told = plan.ready in log.read_text(errors="replace")
    if not told or not plan.device:
        return told
    link = host.node.run(["ip", "-details", "link", "show", plan.device], check=False).stdout
    if link and " tun type tun " not in link:
        raise CommandError(f"{log.stem} has no device on {host.name}: {plan.device} is no TUN")
    return bool(link)


def one_line(config: str) -> str:
    """Return a config file as one line of a report; a PEM block becomes "(key)"."""
    config = re.sub(r"-----BEGIN.*?-----END[^-]*-----", "(key)", config, flags=re.DOTALL)
    return "; ".join(line.strip(" ;") for line in config.splitlines() if line.strip())


def find_version(text: str) -> str:
    """Return the first version number in what a program says about itself, or ""."""
    found = re.search(r"\bv?\d[\w.]*", text)
    return found[0] if found else ""


def _remove(path: Path, *, parent: bool) -> None:
    """Delete a file, and its directory too if the tunnel made it (unless others use it now)."""
    path.unlink(missing_ok=True)
    if parent:
        with contextlib.suppress(OSError):
            path.parent.rmdir()
