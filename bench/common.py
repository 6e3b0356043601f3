"""What the benchmark scripts share: the UDP generator, and how they speak to a person."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import noise
from bench.machine import machine, machine_line
from bench.stats import Spread
from tunneld.lab import netns, process
from tunneld.lab.machine import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from tunneld.lab import Container

__all__ = [
    "PingResult",
    "Spread",
    "UdpResult",
    "compiled",
    "cpu_seconds",
    "listening",
    "machine",
    "machine_line",
    "ping_pong",
    "say",
    "udp",
    "udp_result",
    "udpgen",
]

SOURCE = Path(__file__).with_name("udpgen.c")
UDP_PORT = 9000
GRACE_S = 15.0
"""Seconds that a generator may take beyond its load; then it is killed and the run has failed."""


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


@dataclass(frozen=True, slots=True)
class PingResult:
    """Round trips of one run.

    Attributes:
        figures: `count`, `lost` and `rtt_us_min`, `_p50`, `_p90`, `_p99`, `_p999`, `_max` and
            `_mean` in microseconds.
        histogram: (upper bound in microseconds, round trips below it and above the one before).
    """

    figures: dict[str, float]
    histogram: list[tuple[float, int]]

    @classmethod
    def parse(cls, text: str) -> PingResult:
        """Read what `udpgen ping` printed."""
        figures = json.loads(text)
        histogram = [(bound, count) for bound, count in figures.pop("histogram")]
        return cls({name: float(value) for name, value in figures.items()}, histogram)


def cache_dir() -> Path:
    """Return where compiled generators and unnamed results lie; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunneld"


def compiled(source: Path, *flags: str) -> Path:
    """Return what the C compiler makes of a file, building it when the file has changed.

    Args:
        source: one C file.
        flags: further flags of the compiler.

    Raises:
        CommandError: no C compiler, or it failed.
    """
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    cache = cache_dir()
    binary = cache / f"{source.stem}-{digest}"
    if not binary.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # Rename: two benchmarks, or two threads of one, must not run half a file.
        half = cache / f"{source.stem}-{os.getpid()}-{threading.get_ident()}"
        process.run(["cc", "-O2", "-std=gnu11", "-Wall", *flags, str(source), "-o", str(half)])
        half.rename(binary)
    return binary


def udpgen() -> Path:
    """Return the compiled UDP generator.

    Raises:
        CommandError: see `compiled`.
    """
    return compiled(SOURCE)


@contextlib.contextmanager
def listening(
    container: Container, mode: str, port: int = UDP_PORT
) -> Iterator[subprocess.Popen[str]]:
    """Run the generator as `recv` or `echo` while the block runs."""
    listener = container.popen([str(udpgen()), mode, str(port)])
    try:
        if listener.stdout is None or listener.stdout.readline() != "ready\n":
            raise process.CommandError(f"udpgen: {mode} did not start")
        yield listener
    finally:
        process.stop([listener])


def ping_pong(
    one: Container,
    other: Container,
    *,
    seconds: float = 2,
    meter: AbstractContextManager[object] | None = None,
) -> PingResult:
    """Send one datagram of 64 bytes at a time there and back.

    Args:
        one: who asks.
        other: who answers.
        seconds: how long.
        meter: entered around the load alone.
    """
    argv = [str(udpgen()), "ping", str(other.address), str(UDP_PORT), "64", str(seconds)]
    with listening(other, "echo"), meter or contextlib.nullcontext():
        text = one.run(argv, timeout=seconds + GRACE_S).stdout
    return PingResult.parse(text)


def udp(
    sender: Container,
    receiver: Container,
    *,
    size: int | str = 64,
    seconds: float = 2,
    pps: int = 0,
    seed: int = 0,
    port: int = UDP_PORT,
    meter: AbstractContextManager[object] | None = None,
) -> UdpResult:
    """Send datagrams from one container to another and count what arrives.

    Args:
        sender: where the generator sends.
        receiver: where it counts.
        size: UDP payload, bytes, or a range such as "64-127".
        seconds: how long to send.
        pps: datagrams per second; 0: as fast as one CPU can.
        seed: of the sizes of a range.
        port: where it counts; runs that follow each other closely need different ones, lest one
            takes what is left of the other for its own.
        meter: entered around the load alone.
    """
    with listening(receiver, "recv", port) as counter:
        where = [str(receiver.address), str(port), str(size), str(seconds), str(pps), str(seed)]
        argv = [str(udpgen()), "send", *where]
        with meter or contextlib.nullcontext():
            sent = sender.run(argv, timeout=seconds + GRACE_S).stdout
        # It ends once nothing comes any more.
        counter.terminate()
        got = counter.stdout.readline() if counter.stdout else ""
    return udp_result(sent, got)


def udp_result(sent_text: str, got_text: str) -> UdpResult:
    """Return what the two ends have printed as one result.

    Raises:
        CommandError: the receiver printed nothing.
    """
    if not got_text:
        raise process.CommandError("udpgen: recv ended without a result")
    sent, got = json.loads(sent_text), json.loads(got_text)
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


def warn_if_busy() -> None:
    """Tell the user when others use this machine: figures of CPU then count their work too."""
    share = noise.busy_share(1.0)
    if share > noise.LIMIT:
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
