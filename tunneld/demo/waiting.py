"""Wait for a state, and run a program beside the lesson (tcpdump, a watch, a server)."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import time
from typing import TYPE_CHECKING, TypeVar

from tunneld.lab import CommandError, process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunneld.demo.story import Story
    from tunneld.lab import Node

T = TypeVar("T")

_numbers = itertools.count(1)
_TCPDUMP_SAYS = ("tcpdump:", "listening on", "dropped privs")


def wait_until(state: Callable[[], T | None], what: str, timeout: float = 30.0) -> T:
    """Return the first true result of `state`.

    Raises:
        CommandError: there was none within `timeout` seconds; names `what`.
    """
    deadline = time.monotonic() + timeout
    while not (result := state()):
        if time.monotonic() > deadline:
            raise CommandError(f"waited {timeout:g} s for {what}")
        time.sleep(0.01)
    return result


class Beside:
    """A program that runs in a node beside the lesson; the lab ends it at the latest.

    It writes into a file, so that it lives on when the lesson is over (`--keep`).

    Args:
        node: where.
        command: what, in words that a shell would take too; no pipes, no quotes that matter.

    Attributes:
        command: as given.
        pid: its process.
    """

    def __init__(self, node: Node, command: str) -> None:
        self.command = command
        self._log = node.lab.directory / f"beside-{next(_numbers)}"
        self._shown = 0
        with self._log.open("w") as log:
            # env takes NAME=VALUE in front of the program, as a shell does.
            self._child = node.popen(["env", *shlex.split(command)], stdout=log)
        self.pid = self._child.pid

    @property
    def lines(self) -> list[str]:
        """What it has printed so far; the last line only once it is whole."""
        return self._log.read_text().split("\n")[:-1]

    @property
    def waiting(self) -> bool:
        """Whether there are lines that `new` has not returned yet."""
        return len(self.lines) > self._shown

    def new(self) -> list[str]:
        """Return the lines since the last call."""
        lines = self.lines[self._shown :]
        self._shown += len(lines)
        return lines

    def wait_for(self, start: str) -> None:
        """Wait for a line that begins so.

        Raises:
            CommandError: it ended before, or takes longer than half a minute.
        """

        def seen() -> bool:
            ended = self._child.poll() is not None
            if any(line.startswith(start) for line in self.lines):
                return True
            if ended:
                raise CommandError(f"{self.command}: ended: {' '.join(self.lines)}")
            return False

        wait_until(seen, f"{start!r} from {self.command}")

    def wait_end(self) -> None:
        """Wait until it has ended by itself.

        Raises:
            CommandError: it runs after half a minute.
        """
        wait_until(lambda: self._child.poll() is not None, f"the end of {self.command}")

    def close(self) -> None:
        """End it; idempotent."""
        process.stop([self._child])


@contextlib.contextmanager
def tcpdump(
    story: Story, node: Node, interface: str, expression: str, count: int
) -> Iterator[Callable[[], list[str]]]:
    """Show a tcpdump that listens before the block begins.

    Args:
        story: where it is shown.
        node: where it runs.
        interface: what it listens on.
        expression: as pcap-filter(7) writes it.
        count: packets after which it ends.

    Yields:
        A function that waits until it has seen them, shows them and returns them.
    """
    command = f"tcpdump -lnt -c {count} -i {interface} {expression}"
    story.command(node.name, f"{command} &")
    beside = Beside(node, command)
    try:
        beside.wait_for("listening on")

        def packets() -> list[str]:
            beside.wait_end()
            seen = [line for line in beside.lines if not line.startswith(_TCPDUMP_SAYS)][:count]
            story.say(f"What tcpdump saw on {interface} of {node.name}:")
            story.output("\n".join(seen))
            return seen

        yield packets
    finally:
        beside.close()
