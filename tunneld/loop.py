"""uvloop for speed, taught to speak netlink for pyroute2.

uvloop's `create_datagram_endpoint` knows IP sockets only ("cannot open a UDP handle, invalid family
16"), and pyroute2's AsyncIPRoute opens its netlink socket through it. `EventLoop` serves that one
family with `add_reader`; everything else is uvloop's.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine
from typing import Any, cast

import uvloop

_RECEIVE_BYTES = 1 << 20
"""A dump arrives in messages of up to 32 KiB; room to spare costs nothing."""

_MANY = 2000
_PAUSE_S = 0.005
_SWITCH_S = 0.001  # Python's own is 5 ms


async def breathe(items: int) -> None:
    """Let others run between two pieces of work on so many items.

    Whoever asks us something needs several turns of the loop until it has its answer, so where a
    piece takes long, one turn between two pieces does not do.
    """
    await asyncio.sleep(_PAUSE_S if items >= _MANY else 0)


class NetlinkTransport(asyncio.DatagramTransport):
    """A datagram transport over a bound or connected AF_NETLINK socket.

    Args:
        loop: where the readers are added.
        sock: non-blocking; closed by `close`.
        protocol: told of datagrams, errors and the end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: Any) -> None:
        super().__init__({"socket": sock, "sockname": sock.getsockname()})
        self._loop = loop
        self._sock = sock
        self._protocol = protocol
        self._closing = False
        loop.add_reader(sock.fileno(), self._read)

    def _read(self) -> None:
        try:
            data, address = self._sock.recvfrom(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            # ENOBUFS: the kernel had more to say than the buffer takes.
            self._protocol.error_received(error)
            return
        self._protocol.datagram_received(data, address)

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send one message; the kernel takes it at once or refuses it."""
        try:
            self._sock.sendto(data, addr or (0, 0))
        except OSError as error:
            self._protocol.error_received(error)

    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def abort(self) -> None:
        """Close at once; nothing is ever buffered."""
        self.close()

    def close(self) -> None:
        """Stop reading and tell the protocol; idempotent."""
        if self._closing:
            return
        self._closing = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.call_soon(self._finish)

    def _finish(self) -> None:
        try:
            self._protocol.connection_lost(None)
        finally:
            self._sock.close()


class EventLoop(uvloop.Loop):
    """uvloop that opens netlink endpoints too."""

    async def create_datagram_endpoint(
        self, protocol_factory: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Do as `asyncio.loop.create_datagram_endpoint`, for AF_NETLINK sockets as well."""
        sock = kwargs.get("sock")
        if sock is None or sock.family != socket.AF_NETLINK:
            return await super().create_datagram_endpoint(protocol_factory, *args, **kwargs)
        sock.setblocking(False)
        protocol = protocol_factory()
        transport = NetlinkTransport(self, sock, protocol)
        protocol.connection_made(transport)
        return transport, protocol


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return the loop that the daemon runs on."""
    return cast("asyncio.AbstractEventLoop", EventLoop())


def run(main: Coroutine[Any, Any, int], factory: Callable[[], Any] = new_event_loop) -> int:
    """Run `main` on a fresh loop and return its result; never replaces the global policy."""
    # A thread that reads thousands of keys holds the loop up for that long at each of its turns.
    sys.setswitchinterval(_SWITCH_S)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
