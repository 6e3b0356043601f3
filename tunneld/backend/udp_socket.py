"""The UDP socket of the tunnel, and what can be asked of sockets: drops, path MTU, port owners."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from ipaddress import IPv4Address
from pathlib import Path

from tunneld.errors import StartError
from tunneld.observe.log import fields

log = logging.getLogger(__name__)

BUFFER_BYTES = 8 << 20
"""What bursts need while the packet threads wait for a core."""

# linux/in.h and asm-generic/socket.h; Python's socket module lacks them.
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_WANT = 1
_IP_PMTUDISC_DO = 2
_IP_MTU = 14
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO_DROPS = 8
_OUTER_TTL = 64


def open_socket(address: IPv4Address, port: int, *, shared: bool = False) -> socket.socket:
    """Open the tunnel's socket as flannel does: bound to the external address, DF by WANT, TTL 64.

    Args:
        address: of the external interface.
        port: UDP port of the network.
        shared: join the sockets of ours that are there already; see `open_group`.

    Raises:
        StartError: the port is in use (the owner is named where /proc tells), or the address is
            not this host's.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((str(address), port))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise StartError(
                f"UDP port {port} on {address} is in use by {port_owner(port)}",
                remedy="stop it, or change Port in the network config of all nodes",
            ) from error
        raise StartError(
            f"cannot bind {address}:{port}: {error.strerror}",
            remedy="choose the external interface with --iface",
        ) from error
    sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_WANT)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _OUTER_TTL)
    _set_buffer(sock, "receive", _SO_RCVBUFFORCE, socket.SO_RCVBUF)
    _set_buffer(sock, "send", _SO_SNDBUFFORCE, socket.SO_SNDBUF)
    return sock


def open_group(address: IPv4Address, port: int, count: int) -> list[socket.socket]:
    """Open `count` sockets on one address and port; the kernel spreads peers over them.

    It hashes the outer addresses and ports (SO_REUSEPORT, socket(7)), so all that comes from one
    peer comes to one socket, in order, as long as the group stays as it is. UDP_GRO joins what one
    peer sends, whatever flows are in it: spreading by inner flow would reorder.

    Raises:
        StartError: as `open_socket`; the first one does not share, so a second daemon on this port
            is refused instead of taking half of the traffic.
    """
    sockets = [open_socket(address, port)]
    if count == 1:
        return sockets
    try:
        sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = sockets[0].getsockname()[1]
        while len(sockets) < count:
            sockets.append(open_socket(address, port, shared=True))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _set_buffer(sock: socket.socket, name: str, forced: int, plain: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
    except PermissionError:
        # In a user namespace only the plain form is allowed, up to net.core.?mem_max.
        sock.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
        # The kernel reports twice what it grants.
        granted = sock.getsockopt(socket.SOL_SOCKET, plain) // 2
        log.warning("socket buffer is limited", extra=fields(buffer=name, bytes=granted))


def dropped(sock: socket.socket) -> int:
    """Return how many datagrams the kernel dropped because the socket's queue was full."""
    info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
    words = struct.unpack(f"={len(info) // 4}I", info)
    return words[_MEMINFO_DROPS] if len(words) > _MEMINFO_DROPS else 0


def path_mtu(peer: IPv4Address, port: int) -> int | None:
    """Ask the kernel for the path MTU to a peer through a throw-away connected socket.

    Nothing tells an unconnected socket; nothing is sent.

    Returns:
        Bytes of the largest outer packet, or None when there is no way to the peer now.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
            sock.connect((str(peer), port))
            return sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        except OSError:
            return None


def port_owner(port: int, proc: Path = Path("/proc")) -> str:
    """Return who holds a UDP port: `name (pid N)`, or what can be told where /proc hides it."""
    inodes = _inodes(port, proc)
    for directory in proc.iterdir():
        if not directory.name.isdigit():
            continue
        try:
            links = [os.readlink(entry) for entry in (directory / "fd").iterdir()]  # noqa: PTH115
            if any(f"socket:[{inode}]" in links for inode in inodes):
                name = (directory / "comm").read_text().strip()
                return f"{name} (pid {directory.name})"
        except OSError:
            continue
    return (
        "a process that we may not see, or the kernel itself (try `ss -ulpn` and `ip fou show` as"
        " root; `tunneld cleanup` removes what --dataplane=kernel left)"
    )


def _inodes(port: int, proc: Path) -> set[str]:
    try:
        lines = (proc / "self/net/udp").read_text().splitlines()[1:]
    except OSError:
        return set()
    rows = [line.split() for line in lines]
    return {row[9] for row in rows if int(row[1].partition(":")[2], 16) == port} - {"0"}
