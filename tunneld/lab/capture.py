"""Packet capture on a node's interfaces, as bytes and with the kernel's time stamps.

One AF_PACKET socket per interface, opened inside the node. A destination filter is attached to the
socket before it is bound, so that a search for leaked packets costs nothing while there are none
and misses nothing under load.
"""

from __future__ import annotations

import ctypes
import selectors
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ipaddress import IPv4Network
    from types import TracebackType

    from tunneld.lab.netns import Node

ETH_P_ALL = 3
ETH_P_IP = 0x0800
SO_TIMESTAMPNS = 35
SO_ATTACH_FILTER = 26
SOL_PACKET = 263
PACKET_STATISTICS = 6
PACKET_OUTGOING = 4
ARPHRD_ETHER = 1
_STAMPS_S = 2.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured frame.

    Attributes:
        node: name of the node.
        interface: name of the interface.
        outgoing: True when the kernel sent it out of the interface, False when it came in.
        time: seconds since the epoch, stamped by the kernel.
        frame: all bytes, from the link layer on (a TUN has none).
        packet: the bytes from the IP header on; empty when the frame is not IPv4.
    """

    node: str
    interface: str
    outgoing: bool
    time: float
    frame: bytes
    packet: bytes


class Capture:
    """Collects frames on some interfaces of some nodes, in a thread, while the block runs.

    Args:
        taps: pairs of node and interface name; the interfaces must exist.
        to: keep only IPv4 packets whose (outer) destination lies in this prefix.
    """

    def __init__(self, taps: Sequence[tuple[Node, str]], *, to: IPv4Network | None = None) -> None:
        self._taps = list(taps)
        self._to = to
        self._frames: list[Frame] = []
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        self._stop, self._stopped = socket.socketpair()
        # A daemon thread: Ctrl-C inside __enter__ leaves nobody to end it.
        self._thread = threading.Thread(target=self._collect, name="capture", daemon=True)

    def __enter__(self) -> Self:
        for node, interface in self._taps:
            sock = _open(node, interface, self._to)
            self._sockets.append(sock)
            self._selector.register(sock, selectors.EVENT_READ, node.name)
        self._selector.register(self._stopped, selectors.EVENT_READ, None)
        if self._taps:
            _wait_for_stamps(self._taps[0][0])
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.close()
        self._thread.join()
        self._selector.close()
        self._stopped.close()
        for sock in self._sockets:
            sock.close()

    @property
    def frames(self) -> list[Frame]:
        """What was captured so far, in order of time."""
        with self._changed:
            return sorted(self._frames, key=lambda frame: frame.time)

    def lost(self) -> int:
        """Return how many frames the kernel could not hand over (since the last call)."""
        total = 0
        for sock in self._sockets:
            _, drops = struct.unpack("II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
            total += drops
        return total

    def wait(self, enough: Callable[[list[Frame]], bool], *, timeout: float = 30.0) -> list[Frame]:
        """Wait until the captured frames satisfy `enough`, and return them.

        Raises:
            TimeoutError: they do not within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while not enough(self._frames):
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    raise TimeoutError(f"{len(self._frames)} frames are not what is waited for")
            return sorted(self._frames, key=lambda frame: frame.time)

    def _collect(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                sock = key.fileobj
                if isinstance(sock, socket.socket):
                    self._receive(sock, key.data)

    def _receive(self, sock: socket.socket, node: str) -> None:
        try:
            data, ancillary, _, (interface, protocol, kind, hardware, _) = sock.recvmsg(70000, 64)
        except OSError:
            # The interface went down or away: reported once, then the socket is quiet.
            return
        seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16]) if ancillary else (0, 0)
        start = 14 if hardware == ARPHRD_ETHER else 0
        frame = Frame(
            node=node,
            interface=interface,
            outgoing=kind == PACKET_OUTGOING,
            time=seconds + nanoseconds / 1e9,
            frame=data,
            packet=data[start:] if protocol == ETH_P_IP else b"",
        )
        with self._changed:
            self._frames.append(frame)
            self._changed.notify_all()


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _open(node: Node, interface: str, to: IPv4Network | None) -> socket.socket:
    # Protocol 0: nothing is received until bind(), so the filter sees every frame.
    sock = node.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    if to is not None:
        _attach_filter(sock, to)
    sock.bind((interface, ETH_P_ALL))
    return sock


def _wait_for_stamps(node: Node) -> None:
    """Wait until the kernel stamps packets when they arrive.

    It switches that on with some delay after the first socket has asked for it (net/core/dev.c,
    net_enable_timestamp); until then a packet is stamped when it is read, which may be much later.
    """
    deadline = time.monotonic() + _STAMPS_S
    with node.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        while time.monotonic() < deadline:
            sock.sendto(b"", sock.getsockname())
            sent = time.time_ns()
            _, ancillary, _, _ = sock.recvmsg(1, 64)
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16])
            if seconds * 10**9 + nanoseconds <= sent:
                return


def _attach_filter(sock: socket.socket, to: IPv4Network) -> None:
    """Attach classic BPF; SKF_NET_OFF makes it work with and without a link-layer header."""
    net, proto = 0xFFF00000, 0xFFFFF000  # SKF_NET_OFF, SKF_AD_OFF + SKF_AD_PROTOCOL
    instructions = (
        (0x20, 0, 0, proto),  # ld proto
        (0x15, 0, 4, ETH_P_IP),  # not IPv4: drop
        (0x20, 0, 0, net + 16),  # ld destination
        (0x54, 0, 0, int(to.netmask)),
        (0x15, 0, 1, int(to.network_address)),
        (0x06, 0, 0, 0xFFFF),  # keep
        (0x06, 0, 0, 0),  # drop
    )
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(instructions), ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(program))
