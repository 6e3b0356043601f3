"""A real `tunneld run` process inside a node."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunneld.lab import process
from tunneld.observe import status

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from ipaddress import IPv4Network

    from tunneld.lab.netns import Node


class DaemonError(process.CommandError):
    """The daemon ended or did not get ready; the text holds the end of its log."""


class Daemon:
    """Starts, watches and ends the daemon of one node.

    Attributes:
        directory: its run, state and log files.
        argv: the command line, as a reader could type it on that node.
        prefix: stands before that command line and must become it, as `env NAME=VALUE` does.

    Args:
        node: where it runs.
        directory: will be made.
        store: URL of the store.
    """

    def __init__(self, node: Node, directory: Path, store: str) -> None:
        self.node = node
        self.directory = directory
        self.run_dir = directory / "run"
        self.state_dir = directory / "state"
        self.subnet_file = directory / "subnet.env"
        self.log = directory / "log"
        self.argv = [
            *("--store", store),
            *("--iface", "eth0"),
            *("--run-dir", str(self.run_dir)),
            *("--state-dir", str(self.state_dir)),
            *("--subnet-file", str(self.subnet_file)),
        ]
        self.prefix: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._notify: socket.socket | None = None
        directory.mkdir()

    @property
    def pid(self) -> int:
        """Pid of the running daemon."""
        if self._process is None:
            raise DaemonError(f"no daemon was started on {self.node.name}")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self, args: Sequence[str] = ()) -> None:
        """Start the process; `wait_ready` is separate so that several start side by side."""
        self._close_notify()
        path = self.directory / "notify"
        path.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(path))
        # The daemon may run as another user.
        path.chmod(0o777)
        environment = {**os.environ, "NOTIFY_SOCKET": str(path), "PYTHONUNBUFFERED": "1"}
        with self.log.open("a") as log:
            self._process = self.node.popen(
                [*self.prefix, sys.executable, "-m", "tunneld", "run", *self.argv, *args],
                stdout=log,
                env=environment,
            )

    def use_etcd(self, url: str, hint: IPv4Network) -> None:
        """Have the next `start` use an etcd in place of the store.

        Args:
            url: as `--etcd-endpoints` takes it.
            hint: the subnet that it shall ask for, as that of a run before.
        """
        self.argv[self.argv.index("--store") + 1] = "etcd:"
        self.argv += ["--etcd-endpoints", url]
        text = f"FLANNEL_NETWORK={hint.supernet(new_prefix=16)}\nFLANNEL_SUBNET={hint[1]}/24\n"
        self.subnet_file.write_text(text)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait for READY=1, which the daemon sends when it forwards and subnet.env is written.

        Raises:
            DaemonError: it ended, or is not ready after `timeout` seconds.
        """
        if self._notify is None:
            raise DaemonError(f"no daemon was started on {self.node.name}")
        deadline = time.monotonic() + timeout
        self._notify.settimeout(0.05)
        while time.monotonic() < deadline:
            try:
                if b"READY=1" in self._notify.recv(4096).split(b"\n"):
                    return
            except TimeoutError:
                if not self.running:
                    raise DaemonError(f"tunneld ended on {self.node.name}: {self.tail()}") from None
        raise DaemonError(f"tunneld on {self.node.name} is not ready: {self.tail()}")

    def status(self) -> dict[str, Any]:
        """Return the status document, as `tunneld status --json` prints it."""
        return status.fetch(self.run_dir)

    def environment(self) -> dict[str, str]:
        """Return subnet.env as a mapping."""
        lines = self.subnet_file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def cpu_seconds(self) -> float:
        """Return the CPU time that all threads of the process have used so far, seconds."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def tail(self, lines: int = 15) -> str:
        """Return the end of the log."""
        return "\n".join(self.log.read_text().splitlines()[-lines:])

    def stop(self, timeout: float = 30.0) -> int:
        """Send SIGTERM and return the exit code."""
        return self._end(signal.SIGTERM, timeout)

    def kill(self) -> int:
        """Send SIGKILL, as the out-of-memory killer would, and return the exit code."""
        return self._end(signal.SIGKILL, 30.0)

    def _end(self, number: signal.Signals, timeout: float) -> int:
        child = self._process
        if child is None:
            return 0
        if child.poll() is None:
            child.send_signal(number)
        code = child.wait(timeout)
        self._process = None
        self._close_notify()
        return code

    def _close_notify(self) -> None:
        if self._notify is not None:
            self._notify.close()
            self._notify = None

    def close(self) -> None:
        """Release our end of the notify socket; the node ends the process."""
        self._close_notify()
