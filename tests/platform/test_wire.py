"""What the kernel does with UDP sockets and with packets written to a TUN.

Each is something that tunneld relies on, or guards against. The TUN is the wire: what a socket
sends into its network comes out of the descriptor, and a packet written there is received before
the write returns.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.platform.apart import apart, icmp_unreachable, ip
from tunneld.backend import udp_socket
from tunneld.link import sysctl
from tunneld.link.tun import open_tun

IP_RECVERR = 11
OWN, PEER = "100.96.1.0", "100.96.2.3"
NET_UNREACHABLE, PORT_UNREACHABLE, FRAGMENTATION_NEEDED = 0, 3, 4


@contextmanager
def _wire() -> Iterator[int]:
    """flannel0 of node 1, up, with the route of the network; its descriptor."""
    tun = open_tun("flannel0")
    sysctl.ensure("net/ipv6/conf/flannel0/disable_ipv6", "1")
    ip(f"address add {OWN}/32 dev flannel0")
    ip("link set flannel0 up mtu 1500")
    ip("route add 100.96.0.0/16 dev flannel0")
    try:
        yield tun.fds[0]
    finally:
        tun.close()


def _udp(*, recverr: bool = False) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if recverr:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    return sock


def _pending(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


@apart
def test_the_tunnels_socket_sends_flannels_outer_header() -> None:
    with _wire() as fd, udp_socket.open_socket(IPv4Address(OWN), 8285) as sock:
        sock.sendto(b"inner", (PEER, 8285))
        packet = os.read(fd, 2048)
    assert packet[1] == 0  # TOS
    assert packet[6] & 0x40  # DF
    assert packet[8] == 64  # TTL
    assert packet[20:24] == bytes([8285 >> 8, 8285 & 255] * 2)
    assert packet[26:28] != b"\0\0"  # UDP checksum on
    assert packet[28:] == b"inner"


@apart
def test_a_learned_path_mtu_is_told_to_a_connected_socket_only() -> None:
    with _wire() as fd, udp_socket.open_socket(IPv4Address(OWN), 8285) as sock:
        sysctl.ensure("net/ipv4/conf/flannel0/accept_local", "1")
        assert udp_socket.path_mtu(IPv4Address(PEER), 8285) == 1500
        sock.sendto(bytes(1472), (PEER, 8285))
        full = os.read(fd, 2048)
        assert len(full) == 1500
        os.write(fd, icmp_unreachable("100.96.9.9", full, FRAGMENTATION_NEEDED, 1400))
        assert udp_socket.path_mtu(IPv4Address(PEER), 8285) == 1400
        with pytest.raises(OSError, match="not connected"):
            sock.getsockopt(socket.IPPROTO_IP, 14)  # IP_MTU
        # WANT: the next one that is too big leaves in two pieces, DF clear.
        sock.sendto(bytes(1472), (PEER, 8285))
        pieces = [os.read(fd, 2048), os.read(fd, 2048)]
        assert max(map(len, pieces)) <= 1400
        assert not any(piece[6] & 0x40 for piece in pieces)


@apart
def test_one_dead_peer_stops_a_socket_with_recverr_and_no_other() -> None:
    """Why the data socket has no IP_RECVERR: the error comes with a send to somebody else."""
    for recverr in (False, True):
        with _wire() as fd, _udp(recverr=recverr) as sock:
            sock.sendto(b"x", (PEER, 8285))
            os.write(fd, icmp_unreachable("100.96.2.3", os.read(fd, 2048), PORT_UNREACHABLE))
            if recverr:
                with pytest.raises(ConnectionRefusedError):
                    sock.sendto(b"x", ("100.96.7.7", 8285))
            else:
                assert sock.sendto(b"x", ("100.96.7.7", 8285)) == 1


@apart
def test_a_packet_without_route_is_not_read_from_the_tun() -> None:
    with _wire() as fd, _udp() as sock:
        ip("route add unreachable 100.96.1.0/24")
        with pytest.raises(OSError, match="No route to host"):
            sock.sendto(b"x", ("100.96.1.77", 9))
        with pytest.raises(BlockingIOError):
            os.read(fd, 2048)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", _Header), ("sent", ctypes.c_uint32))


def _sendmmsg(sock: socket.socket, destinations: list[str], first: int = 0) -> int:
    """Send one byte to port 9 of each destination from `first` on; the count or -errno."""
    messages = (_Message * len(destinations))()
    for message, destination in zip(messages, destinations, strict=True):
        address = socket.AF_INET.to_bytes(2, sys.byteorder) + b"\0\x09"
        message.header.name = address + IPv4Address(destination).packed + bytes(8)
        message.header.name_length = 16
        message.header.iov = ctypes.pointer(_Iovec(b"x", 1))
        message.header.iov_length = 1
    libc = ctypes.CDLL(None, use_errno=True)
    start = ctypes.byref(messages, first * ctypes.sizeof(_Message))
    count: int = libc.sendmmsg(sock.fileno(), start, len(destinations) - first, 0)
    return count if count >= 0 else -ctypes.get_errno()


@apart
def test_sendmmsg_stops_at_the_first_that_fails() -> None:
    """So the one that failed must be skipped and counted, and the rest sent again."""
    destinations = [PEER, PEER, "192.0.2.1", PEER]
    with _wire() as fd, _udp() as sock:
        assert _sendmmsg(sock, destinations) == 2
        assert _sendmmsg(sock, destinations, first=2) == -errno.ENETUNREACH
        assert _sendmmsg(sock, destinations, first=3) == 1
        assert [len(os.read(fd, 2048)) for _ in range(3)] == [29] * 3
        with pytest.raises(BlockingIOError):
            os.read(fd, 2048)


def test_forced_buffers_are_refused_in_a_user_namespace() -> None:
    """There the socket falls back to SO_RCVBUF."""
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        "s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)"
    )
    plain = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert plain.returncode == 0
    inside = subprocess.run(
        ["unshare", "-Urn", sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "PermissionError" in inside.stderr


def test_the_tunnels_socket_opens_in_a_user_namespace() -> None:
    script = (
        "from ipaddress import IPv4Address; from tunneld.backend import udp_socket;"
        "print(udp_socket.open_socket(IPv4Address('0.0.0.0'), 8285).getsockname()[1])"
    )
    done = subprocess.run(
        ["unshare", "-Urn", sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "8285", done.stderr
