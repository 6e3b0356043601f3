"""What the kernel asks user space for (neighbours, FDB entries), seen by `ip monitor neigh`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tunneld.demo.waiting import Beside, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tunneld.demo.story import Story
    from tunneld.lab import Node

# In UTC, as the daemon's log is.
COMMAND = "TZ=UTC ip -ts monitor neigh"
# An entry of a device that no lesson looks at, to see that the monitor listens.
_PROBE = "198.51.100.99"
_LINE = re.compile(r"\[(?P<time>[^\]]+)\] (?P<text>.*)")


@dataclass(frozen=True, slots=True)
class Told:
    """A line of the monitor.

    Attributes:
        time: when it came, seconds since the epoch.
        clock: the same as it was printed, without the date.
        text: the rest, without the device.
        miss: the kernel asks; otherwise it tells of a change.
        wanted: the address or MAC that the line is about.
    """

    time: float
    clock: str
    text: str
    miss: bool
    wanted: str


class NeighbourMonitor:
    """`ip monitor neigh` in a node, one device of it.

    Args:
        node: where.
        device: the lines of others are left out.
    """

    def __init__(self, node: Node, device: str) -> None:
        self._device = device
        self._seen = 0
        self._beside = Beside(node, COMMAND)
        self._node = node
        self._catch_up()

    def _catch_up(self) -> None:
        """Wait until it has told all that has happened: the messages come in order."""
        entry = f"{_PROBE} dev docker0"
        before = self._probes()

        def told() -> bool:
            change = f"neigh replace {entry} lladdr 02:00:00:00:00:99 nud permanent"
            self._node.ip(*change.split())
            self._node.ip(*f"neigh del {entry}".split())
            return self._probes() > before

        wait_until(told, f"{COMMAND} to have told all")

    def _probes(self) -> int:
        return sum(_PROBE in line for line in self._beside.lines)

    def all(self) -> list[Told]:
        """Return what it has told of the device."""
        told = (parse(line, self._device) for line in self._beside.lines)
        return [each for each in told if each is not None]

    def new(self) -> list[Told]:
        """Return what has happened to the device since the last call."""
        self._catch_up()
        found = self.all()[self._seen :]
        self._seen += len(found)
        return found

    def wait(self, enough: Callable[[list[Told]], bool], what: str) -> list[Told]:
        """Wait until what is new satisfies `enough`, and return it.

        Raises:
            CommandError: it does not within half a minute; names `what`.
        """
        wait_until(lambda: enough(self.all()[self._seen :]), what)
        return self.new()

    def close(self) -> None:
        """End it."""
        self._beside.close()


def parse(line: str, device: str) -> Told | None:
    """Read a line of `ip -ts monitor neigh`; None when it is about another device."""
    match = _LINE.match(line)
    if match is None or f"dev {device} " not in match["text"] + " ":
        return None
    text = " ".join(match["text"].replace(f"dev {device}", "").split())
    words = text.removeprefix("miss ").split()
    when = datetime.fromisoformat(match["time"]).replace(tzinfo=UTC)
    return Told(
        time=when.timestamp(),
        clock=match["time"].partition("T")[2],
        text=text,
        miss=text.startswith("miss "),
        wanted=words[1] if words[0] == "lladdr" else words[0],
    )


def misses(told: list[Told], wanted: str) -> list[Told]:
    """Return the questions for one address or MAC."""
    return [each for each in told if each.miss and each.wanted == wanted]


def show(story: Story, device: str, rows: Sequence[tuple[Told, str]]) -> None:
    """Show lines of the monitor, a remark behind each."""
    head = ["UTC", f"ip monitor neigh, dev {device}", ""]
    story.table(head, [[told.clock, told.text, note] for told, note in rows], left=(0, 1, 2))
