"""A trickle of datagrams, one system call each: a load whose calls can be counted one by one.

    python -m tunneld.lab.trickle receive 100.96.2.3 1000
    python -m tunneld.lab.trickle send 100.96.2.3 1000 --rate 4000

The sender makes two calls for each datagram, sendto and the sleep until the next one; the receiver
one, recvfrom. Both say how many they made. The gaps vary by half at random, so that the timer by
which the kernel samples CPU time never falls in step with them.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT = 9009
SIZE = 64
RATE = 4000
IDLE_S = 3
PATIENCE = 10
BUFFER = 8 << 20
SO_RCVBUFFORCE = 33
READY, DONE = "ready", "done"


def main(arguments: Sequence[str] | None = None) -> int:
    """Send or receive; see --help."""
    parser = argparse.ArgumentParser(
        prog="python -m tunneld.lab.trickle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("send", "receive"))
    parser.add_argument("address", help="of the receiver")
    parser.add_argument("count", type=int, help="of datagrams")
    parser.add_argument("--rate", type=int, default=RATE, help=f"a second (default {RATE})")
    parser.add_argument("--size", type=int, default=SIZE, help=f"payload bytes (default {SIZE})")
    parser.add_argument(
        "--wait",
        action="store_true",
        help="begin, and at last end, when SIGUSR1 comes: for who wants to count in between",
    )
    args = parser.parse_args(arguments)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        made = _send(sock, args) if args.what == "send" else _receive(sock, args)
        print(f"{DONE} {made}", flush=True)
        _wait(args)
    return 0


def _wait(args: argparse.Namespace) -> None:
    if args.wait:
        signal.sigwait({signal.SIGUSR1})


def _send(sock: socket.socket, args: argparse.Namespace) -> int:
    data, gap, to = bytes(args.size), 1 / args.rate, (args.address, PORT)
    print(READY, flush=True)
    _wait(args)
    count: int = args.count
    due = time.monotonic()
    for _ in range(count):
        sock.sendto(data, to)
        due += gap * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        left = due - time.monotonic()
        if left > 0:
            time.sleep(left)
    return count


def _receive(sock: socket.socket, args: argparse.Namespace) -> int:
    sock.bind((args.address, PORT))
    # A busy machine may keep the receiver waiting: what it has no room for would be lost.
    with contextlib.suppress(PermissionError):
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
    # The kernel's own timeout: one of Python's would cost a poll for each datagram.
    timeout = struct.pack("ll", IDLE_S, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    print(READY, flush=True)
    received, patience = 0, PATIENCE
    while received < args.count and patience:
        try:
            sock.recvfrom(args.size)
        except BlockingIOError:
            patience = 0 if received else patience - 1
        else:
            received += 1
    return received


if __name__ == "__main__":
    raise SystemExit(main())
