"""One TCP stream by iperf3 between two nodes, with the intervals as they come."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from tunneld.lab import netns, process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ipaddress import IPv4Address

    from tunneld.lab.netns import Node

INTERVAL = re.compile(
    r"\]\s+(?P<start>[\d.]+)-(?P<end>[\d.]+)\s+sec\s+\S+ \S+\s+(?P<rate>[\d.]+) Mbits/sec"
    r"(?:\s+(?P<retransmits>\d+))?(?P<rest>.*)"
)


@dataclass(frozen=True, slots=True)
class TcpResult:
    """What one run delivered.

    Attributes:
        gbps: at the receiver, 10^9 bits per second.
        bytes: delivered to the receiving program.
        retransmits: segments that the sender sent again.
    """

    gbps: float
    bytes: int
    retransmits: int


def client_command(destination: IPv4Address, seconds: int) -> list[str]:
    """Return the command of the sending side."""
    return ["iperf3", "-c", str(destination), "-t", str(seconds)]


def tcp(
    sender: Node,
    receiver: Node,
    destination: IPv4Address,
    *,
    seconds: int,
    streams: int = 1,
    progress: Callable[[float, float], None] | None = None,
) -> TcpResult:
    """Run iperf3 for `seconds` and return what arrived.

    Args:
        sender: where the client runs.
        receiver: where the server runs.
        destination: the server's address.
        seconds: how long data is sent (iperf3 takes whole seconds; 0 is for ever).
        streams: parallel connections.
        progress: called every half second with the seconds so far and the rate in Gb/s.

    Raises:
        StartError: iperf3 is not installed.
        CommandError: it failed; with what it said.
    """
    with serving(receiver):
        argv = [*client_command(destination, seconds), "-i", "0.5", "-f", "m", "--forceflush"]
        client = sender.popen([*argv, "-P", str(streams)])
        try:
            return _follow(client.stdout, "[SUM]" if streams > 1 else "[", progress)
        finally:
            process.stop([client])


@contextlib.contextmanager
def serving(receiver: Node) -> Iterator[None]:
    """Have an iperf3 server for one client listen on a node while the block runs.

    Raises:
        StartError: iperf3 is not installed.
        CommandError: it did not start.
    """
    netns.require_tool("iperf3", "iperf3")
    server = receiver.popen(["iperf3", "-s", "-1", "--forceflush"])
    try:
        for line in server.stdout or ():
            if line.startswith("Server listening"):
                break
        else:
            raise process.CommandError("iperf3's server ended before it listened")
        yield
    finally:
        process.stop([server])


def _follow(
    output: IO[str] | None, prefix: str, progress: Callable[[float, float], None] | None
) -> TcpResult:
    retransmits = 0
    said = []
    for line in output or ():
        said.append(line.strip())
        match = INTERVAL.search(line)
        if match is None or not line.startswith(prefix):
            continue
        seconds = float(match["end"]) - float(match["start"])
        rate = float(match["rate"]) / 1e3
        if match["rest"].endswith("sender"):
            retransmits = int(match["retransmits"] or 0)
        elif match["rest"].endswith("receiver"):
            return TcpResult(rate, round(rate * 1e9 / 8 * seconds), retransmits)
        elif progress is not None:
            progress(float(match["end"]), rate)
    raise process.CommandError(f"iperf3: {said[-1] if said else 'no output'}")
