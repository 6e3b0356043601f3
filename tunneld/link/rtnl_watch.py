"""Watch links, IPv4 addresses and IPv4 routes through a netlink socket of its own.

Only the kind of a change and its interface are read: whoever listens compares the whole state
anyway (rtnetlink(7): messages may be lost, a state never is).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

# linux/rtnetlink.h
_GROUPS = 0x1 | 0x10 | 0x40  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE
_HEADER = struct.Struct("=IHHII")
_KINDS = {
    16: ("link", False),
    17: ("link", True),
    20: ("address", False),
    21: ("address", True),
    24: ("route", False),
    25: ("route", True),
}
_INDEX_AT = 4  # of ifi_index and ifa_index behind the netlink header
_BUFFER_BYTES = 4 << 20
_DATAGRAMS_PER_TURN = 64
"""Read before other tasks get their turn: a flood of routes must not stop the daemon."""
_SO_RCVBUFFORCE = 33


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """Something changed in the kernel.

    Attributes:
        kind: "link", "address", "route", or "resync" when messages were lost.
        ifindex: of the interface; None for routes and resyncs.
        deleted: it went away.
    """

    kind: str
    ifindex: int | None = None
    deleted: bool = False


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield kind and body of each message of one datagram; a broken one ends it."""
    while len(data) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(data)
        if length < _HEADER.size or length > len(data):
            return
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def parse(data: bytes) -> Iterator[KernelEvent]:
    """Yield the events of one datagram; unknown messages are passed over."""
    for kind, body in messages(data):
        if kind in _KINDS:
            name, deleted = _KINDS[kind]
            ifindex = None
            if name != "route" and len(body) >= _INDEX_AT + 4:
                (ifindex,) = struct.unpack_from("=I", body, _INDEX_AT)
            yield KernelEvent(name, ifindex, deleted)


def open_watch(groups: int = _GROUPS) -> socket.socket:
    """Return a non-blocking netlink socket that is told of every change from now on.

    Args:
        groups: bit mask of RTMGRP_...
    """
    sock = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    try:
        # In a user namespace FORCE is refused; the default buffer then means earlier resyncs.
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    sock.bind((0, groups))
    return sock


def watch(sock: socket.socket) -> AsyncIterator[KernelEvent]:
    """Yield events for ever; closes `sock` when the iterator is closed."""
    return follow(sock, parse, KernelEvent("resync"))


async def follow(
    sock: socket.socket, read: Callable[[bytes], Iterable[T]], resync: T
) -> AsyncIterator[T]:
    """Yield what `read` makes of each datagram, and `resync` when some were lost.

    Closes `sock` when the iterator is closed.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock.fileno(), readable.set)
    budget = _DATAGRAMS_PER_TURN
    lost = False
    try:
        while True:
            budget -= 1
            if budget == 0:
                budget = _DATAGRAMS_PER_TURN
                await asyncio.sleep(0)
            try:
                data = sock.recv(1 << 16)
            except (BlockingIOError, InterruptedError):
                if lost:
                    lost = False
                    yield resync
                    continue
                readable.clear()
                await readable.wait()
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # Not yet: until the queue is empty the kernel goes on dropping and says nothing
                # (NETLINK_S_CONGESTED), so a state that is compared now may already be stale.
                lost = True
            else:
                for event in read(data):
                    yield event
    finally:
        loop.remove_reader(sock.fileno())
        sock.close()
