"""What the benchmark scripts share: the machine, its CPU time, statistics, the UDP generator."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunneld.lab import netns, process
from tunneld.lab.machine import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tunneld.lab import Container

__all__ = ["Spread", "UdpResult", "cpu_seconds", "machine", "say", "udp", "udpgen"]

SOURCE = Path(__file__).with_name("udpgen.c")
UDP_PORT = 9000


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of one figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, form: str = ".2f") -> str:
        """Return "median (low-high)"."""
        return f"{self.median:{form}} ({self.low:{form}}-{self.high:{form}})"


@dataclass(frozen=True, slots=True)
class UdpResult:
    """One run of the UDP generator.

    Attributes:
        kpps: different datagrams that arrived, per millisecond of sending.
        offered_kpps: datagrams that the sender's kernel took, per millisecond.
        loss: share of those that did not arrive, 0..1.
        sent: datagrams offered.
        received: different datagrams that arrived.
        duplicates: arrivals of a number that was there already.
        reordered: arrivals after a higher number.
        malformed: arrivals that are not, byte for byte, what was sent.
    """

    kpps: float
    offered_kpps: float
    loss: float
    sent: int
    received: int
    duplicates: int
    reordered: int
    malformed: int


def machine() -> dict[str, Any]:
    """Describe this machine and the day, so that figures can be read later."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def machine_line() -> str:
    """Return the same as one line of text."""
    what = machine()
    return (
        f"{what['date']}, {what['cpus']} x {what['cpu']}, Linux {what['kernel']},"
        f" Python {what['python']}"
    )


def udpgen() -> Path:
    """Return the compiled UDP generator, building it when its source has changed.

    Raises:
        CommandError: no C compiler, or it failed.
    """
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunneld"
    binary = cache / f"udpgen-{digest}"
    if not binary.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # Rename: two benchmarks that start at once must not run half a file.
        half = cache / f"udpgen-{os.getpid()}"
        process.run(["cc", "-O2", "-std=gnu11", "-Wall", str(SOURCE), "-o", str(half)])
        half.rename(binary)
    return binary


@contextlib.contextmanager
def _listening(container: Container, mode: str) -> Iterator[subprocess.Popen[str]]:
    """Run the generator as `recv` or `echo` while the block runs."""
    listener = container.popen([str(udpgen()), mode, str(UDP_PORT)])
    try:
        if listener.stdout is None or listener.stdout.readline() != "ready\n":
            raise process.CommandError(f"udpgen: {mode} did not start")
        yield listener
    finally:
        process.stop([listener])


def ping_pong(one: Container, other: Container, *, seconds: float = 2) -> dict[str, float]:
    """Send one datagram of 64 bytes at a time there and back.

    Returns:
        `count`, `lost`, `rtt_us_min`, `rtt_us_p50` and `rtt_us_p99` (microseconds).
    """
    with _listening(other, "echo"):
        where = [str(other.address), str(UDP_PORT), "64", str(seconds)]
        text = one.run([str(udpgen()), "ping", *where]).stdout
    return {name: float(value) for name, value in json.loads(text).items()}


def udp(
    sender: Container,
    receiver: Container,
    *,
    size: int | str = 64,
    seconds: float = 2,
    pps: int = 0,
    seed: int = 0,
) -> UdpResult:
    """Send datagrams from one container to another and count what arrives.

    Args:
        sender: where the generator sends.
        receiver: where it counts.
        size: UDP payload, bytes, or a range such as "64-127".
        seconds: how long to send.
        pps: datagrams per second; 0: as fast as one CPU can.
        seed: of the sizes of a range.
    """
    with _listening(receiver, "recv") as counter:
        where = [str(receiver.address), str(UDP_PORT), str(size), str(seconds), str(pps), str(seed)]
        sent = json.loads(sender.run([str(udpgen()), "send", *where]).stdout)
        got = json.loads(counter.stdout.readline() if counter.stdout else "{}")
    return UdpResult(
        kpps=got["received"] / sent["seconds"] / 1e3,
        offered_kpps=sent["sent"] / sent["seconds"] / 1e3,
        loss=1 - got["received"] / max(sent["sent"], 1),
        sent=sent["sent"],
        received=got["received"],
        duplicates=got["duplicates"],
        reordered=got["reordered"],
        malformed=got["malformed"],
    )


def say(text: str) -> None:
    """Report progress to a person, beside the result on standard output."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def busy_share(seconds: float = 1.0) -> float:
    """Return which share of the machine is at work while we do nothing, 0..1."""
    before, began = cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds() - before) / ((time.monotonic() - began) * (os.cpu_count() or 1))


def warn_if_busy() -> None:
    """Tell the user when others use this machine: figures of CPU then count their work too."""
    share = busy_share()
    if share > 0.05:
        say(f"warning: {share:.0%} of this machine is busy already; figures will be off")


def write_json(path: str | None, document: dict[str, Any]) -> None:
    """Write a result file where one was asked for."""
    if path:
        Path(path).write_text(json.dumps(document, indent=2) + "\n")


def as_dict(result: UdpResult) -> dict[str, Any]:
    """Return a result as plain data."""
    return asdict(result)


def require_udp_tools() -> None:
    """Check what the generator needs before a long run begins.

    Raises:
        StartError: no compiler; with the remedy.
    """
    netns.require_tool("cc", "gcc libc6-dev")
    udpgen()
