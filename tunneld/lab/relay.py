"""A wire that damages what it carries: a process between two TAP devices, one in each host.

It stands in for netem, which not every kernel has. Each host's eth0 is the TAP device; the relay
reads Ethernet frames from one and writes them to the other. A TAP without IFF_VNET_HDR takes no
offload: the kernel hands over frames of at most MTU + 14 bytes with complete checksums, so every
fault hits one frame of the wire (Linux, Documentation/networking/tuntap.rst).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import struct
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from tunneld.lab import process
from tunneld.lab.relay_faults import Counts, Direction, Faults

if TYPE_CHECKING:
    import subprocess

    from tunneld.lab.netns import Node

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_BURST = 64
_FRAME = 65536
# Not -m: the package imports this module, so it would be there twice.
_PROGRAM = "import sys; from tunneld.lab.relay import main; main(sys.argv[1:])"


def open_tap(name: str) -> int:
    """Create a TAP device in this thread's namespace; returns its non-blocking descriptor.

    Raises:
        OSError: no right, or the name is taken.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
        fcntl.ioctl(fd, _TUNSETIFF, request)
    except OSError:
        os.close(fd)
        raise
    return fd


class Relay:
    """The running relay process between two hosts; their eth0 live as long as it does.

    Args:
        one: a host without eth0.
        other: the other one.
        faults: what happens to frames, in both directions.
        mtu: of both devices, bytes.
    """

    def __init__(self, one: Node, other: Node, faults: Faults, *, mtu: int = 1500) -> None:
        fds: list[int] = []
        try:
            for node in (one, other):
                fds.append(node.call(lambda: open_tap("eth0")))
                node.ip("link", "set", "eth0", "mtu", str(mtu), "up")
            argv = [sys.executable, "-c", _PROGRAM, *map(str, fds), json.dumps(asdict(faults))]
            self._process: subprocess.Popen[str] = process.start(argv, pass_fds=fds)
        finally:
            for fd in fds:
                os.close(fd)

    def close(self) -> None:
        """End the process; idempotent."""
        process.stop([self._process])

    def stop(self) -> dict[str, Counts]:
        """End the process and return what it did: "forth" from the first host, "back" to it.

        Raises:
            CommandError: it had ended before by an error.
        """
        self._process.terminate()
        text, _ = self._process.communicate(timeout=10)
        try:
            return {name: Counts(**counts) for name, counts in json.loads(text).items()}
        except ValueError:
            raise process.CommandError(f"the relay failed: {text}") from None


def _read(fd: int, direction: Direction, now: float) -> None:
    with contextlib.suppress(BlockingIOError):
        for _ in range(_BURST):
            direction.put(os.read(fd, _FRAME), now)


def _write(fd: int, frames: list[bytes]) -> None:
    for frame in frames:
        try:
            os.write(fd, frame)
        except OSError as error:
            # EIO: the device is down; a full queue drops. Both are what a wire does.
            if error.errno not in {errno.EIO, errno.EAGAIN, errno.ENOBUFS, errno.EINVAL}:
                raise


def forward(one: int, other: int, directions: tuple[Direction, Direction]) -> None:
    """Carry frames between two descriptors until an exception ends it.

    Raises:
        OSError: a device is gone.
    """
    ways = ((one, other, directions[0]), (other, one, directions[1]))
    poll = select.poll()
    for fd in (one, other):
        poll.register(fd, select.POLLIN)
    while True:
        due = [at for way in ways if (at := way[2].next_due()) is not None]
        # Rounded up: poll counts in milliseconds, and zero would spin.
        wait = int(max(0.0, min(due) - time.monotonic()) * 1000) + 1 if due else None
        ready = {fd for fd, _ in poll.poll(wait)}
        now = time.monotonic()
        for source, sink, direction in ways:
            if source in ready:
                _read(source, direction, now)
            _write(sink, direction.take(now))


def main(argv: list[str]) -> None:
    """Run the relay process until SIGTERM, then print its counts as JSON.

    Args:
        argv: the two descriptors and the faults as JSON.
    """
    one, other = int(argv[0]), int(argv[1])
    faults = Faults(**json.loads(argv[2]))
    directions = Direction(faults, "forth"), Direction(faults, "back")

    def end(_number: int, _frame: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    try:
        forward(one, other, directions)
    finally:
        print(json.dumps({way.name: asdict(way.counts) for way in directions}), flush=True)
